"""Simulators whose distributions are known exactly: (rng, n) -> dict.

`BENCHMARK` has the eight tasks of the benchmark of simulation-based inference
(Lueckmann et al. 2021, Appendix T): parameters x with their prior, and what is
observed, `context`. Rates, populations and counts are given by logarithms.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.declared import declares
from diffusion_jax.ranges import Finite, Positive, Rate, Size

Rng = np.random.Generator


def two_moons(rng: Rng, n: int) -> dict[str, np.ndarray]:
  """Draws parameters x [n, 2] and their observations `context` [n, 2].

  The posterior p(x | context) has two crescents (Greenberg et al. 2019, Section
  5; Lueckmann et al. 2021, T.8); the prior is uniform on [-1, 1]^2.
  """
  x = rng.uniform(-1.0, 1.0, (n, 2))
  total, difference = x.sum(axis=1), x[:, 1] - x[:, 0]
  shift = np.stack([-np.abs(total), difference], axis=1) / math.sqrt(2.0)
  return {'x': x, 'context': _crescent(rng, n) + shift}


def _crescent(rng, n):
  angle = rng.uniform(-np.pi / 2.0, np.pi / 2.0, n)
  radius = rng.normal(0.1, 0.01, n)
  return np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], axis=1)


def two_moons_posterior(rng: Rng, n: int, observation: Sequence[float]) -> np.ndarray:
  """Draws from the exact p(x | observation) of `two_moons`, [n, 2].

  A point of the crescent gives |x_1 + x_2| and x_2 - x_1, a rotation of x up to
  a sign, so x has the crescent's density where it is within the prior's box.
  """
  found = np.empty((0, 2))
  while len(found) < n:
    shift = math.sqrt(2.0) * (np.asarray(observation) - _crescent(rng, n))
    sign = rng.choice([-1.0, 1.0], n)
    total, difference = sign * shift[:, 0], shift[:, 1]
    x = np.stack([total - difference, total + difference], axis=1) / 2.0
    inside = (shift[:, 0] <= 0.0) & (np.abs(x) <= 1.0).all(axis=1)
    found = np.concatenate([found, x[inside]])
  return found[:n]


def gaussian_mixture(rng: Rng, n: int) -> dict[str, np.ndarray]:
  """Draws x [n, 2], uniform on [-10, 10]^2, and `context` [n, 2] about x.

  Its deviation is 1 or 0.1, with probability 1/2 each (T.7).
  """
  x = rng.uniform(-10.0, 10.0, (n, 2))
  std = rng.choice([1.0, 0.1], (n, 1))
  return {'x': x, 'context': x + std * rng.standard_normal((n, 2))}


def gaussian_linear(rng: Rng, n: int) -> dict[str, np.ndarray]:
  """Draws x [n, 10] ~ N(0, 0.1) and `context` [n, 10] ~ N(x, 0.1) (T.1).

  The posterior is N(context / 2, 0.05).
  """
  x, noise = math.sqrt(0.1) * rng.standard_normal((2, n, 10))
  return {'x': x, 'context': x + noise}


def gaussian_linear_uniform(rng: Rng, n: int) -> dict[str, np.ndarray]:
  """Draws x [n, 10], uniform on [-1, 1]^10, and `context` ~ N(x, 0.1) (T.2).

  The posterior is N(context, 0.1) within the box.
  """
  x = rng.uniform(-1.0, 1.0, (n, 10))
  noise = math.sqrt(0.1) * rng.standard_normal((n, 10))
  return {'x': x, 'context': x + noise}


def slcp(rng: Rng, n: int) -> dict[str, np.ndarray]:
  """Draws x [n, 5], uniform on [-3, 3]^5, and four points, `context` [n, 8].

  Simple likelihood, complex posterior (T.3): a point is N((x_1, x_2), C) with
  the deviations x_3^2 and x_4^2 and the correlation tanh(x_5).
  """
  x = rng.uniform(-3.0, 3.0, (n, 5))
  first, second = rng.standard_normal((2, n, 4))
  rho = np.tanh(x[:, 4:])
  second = rho * first + np.sqrt(1.0 - rho**2) * second
  noise = np.stack([first, second], axis=-1) * x[:, None, 2:4] ** 2
  return {'x': x, 'context': (x[:, None, :2] + noise).reshape(n, 8)}


def bernoulli_glm(rng: Rng, n: int) -> dict[str, np.ndarray]:
  """Draws x [n, 10] and `context` [n, 10], what is sufficient of 100 spikes.

  A spike z has the log odds V x (T.5), and context is V^T z; see
  `stimulus_matrix` and `filter_precision`.
  """
  root = np.linalg.cholesky(filter_precision())
  x = np.linalg.solve(root.T, rng.standard_normal((10, n))).T
  v = stimulus_matrix()
  spikes = rng.uniform(size=(n, len(v))) < 1.0 / (1.0 + np.exp(-x @ v.T))
  return {'x': x, 'context': spikes @ v}


def stimulus_matrix() -> np.ndarray:
  """Returns V [100, 10]: ones, and white noise at the delays 0 to 8."""
  noise = np.random.RandomState(42).randn(100)
  delayed = [np.pad(noise, (i, 0))[:100] for i in range(9)]
  return np.stack([np.ones(100), *delayed], axis=1)


def filter_precision() -> np.ndarray:
  """Returns the prior's precision [10, 10]: of the offset, of a smooth filter.

  The offset is N(0, 2), and the filter f is N(0, (F^T F)^-1), where row i of F
  has 1, -2 and 1 + sqrt((i - 1) / 9) up to the diagonal.
  """
  difference = np.eye(9) - np.eye(9, k=-1)
  f = difference @ difference + np.diag(np.sqrt(np.arange(9) / 9.0))
  precision = np.zeros((10, 10))
  precision[0, 0], precision[1:, 1:] = 0.5, f.T @ f
  return precision


def sir(rng: Rng, n: int) -> dict[str, np.ndarray]:
  """Draws x [n, 2] of an epidemic, and `context` [n, 9], of tests.

  x is log(contact rate), log(recovery rate), N(log 0.4, 0.5^2) and N(log 0.125,
  0.2^2); context is log(1 + infected ones of 1,000) on day 17, 34, ..., 153
  (T.9). The benchmark counts on day 0 too, when one of 10^6 is infected.
  """
  x = np.log([0.4, 0.125]) + [0.5, 0.2] * rng.standard_normal((n, 2))
  share = np.exp(infected(x))
  good = np.isfinite(share)
  counts = rng.binomial(1000, np.where(good, np.minimum(share, 1.0), 0.0))
  return {'x': x, 'context': np.where(good, np.log1p(counts), np.nan)}


def infected(x: np.ndarray) -> np.ndarray:
  """Returns log(share of infected ones) on the days of `sir`, [n, 9].

  dS/dt = -b S I, dI/dt = b S I - g I with I = 10^-6 at first, for x [n, 2] =
  log b, log g.
  """
  days = tuple(range(17, 154, 17))
  return _solved(_epidemic, (1.0 - 1e-6, math.log(1e-6)), days, x)[1]


def _epidemic(t, y, rates):
  susceptible, log_infected = y
  new = rates[0] * susceptible
  return -new * jnp.exp(log_infected), new - rates[1]


def lotka_volterra(rng: Rng, n: int) -> dict[str, np.ndarray]:
  """Draws x [n, 4] of prey and predators, and `context` [n, 20], of counts.

  x is log of the growth and the death of prey by predators, the death and the
  growth of predators by prey: N(-0.125, 0.5^2) and N(-3, 0.5^2) in turn.
  context is log(counts) at the times 0, 2.1, ..., 18.9, ten of prey and ten of
  predators, with noise of the deviation 0.1 (T.10).
  """
  mean = [-0.125, -3.0, -0.125, -3.0]
  x = mean + 0.5 * rng.standard_normal((n, 4))
  counts = np.clip(populations(x), math.log(1e-10), math.log(1e4))
  return {'x': x, 'context': counts + 0.1 * rng.standard_normal((n, 20))}


def populations(x: np.ndarray) -> np.ndarray:
  """Returns log(prey), log(predators) at the times of `lotka_volterra`.

  [n, 20]; du/dt = a u - b u v, dv/dt = -c v + d u v from 30 and 1, for x [n, 4]
  = log a, b, c, d.
  """

  times = tuple(2.1 * i for i in range(10))
  both = _solved(_predation, (math.log(30.0), 0.0), times, x)
  return np.concatenate(both, axis=1)


def _predation(t, y, rates):
  # A step that is too long must have a finite error, to be made shorter.
  prey, predators = (jnp.exp(jnp.minimum(log, 40.0)) for log in y)
  a, b, c, d = rates
  return a - b * predators, d * prey - c


def _solved(change, first, times, x):
  # Returns each state [n, len(times)]; NaN where the solver gives up.
  rates = jnp.asarray(np.exp(x), jnp.float32)
  solution = _solver(change, first, times)(rates)
  return [np.asarray(y, np.float64) for y in solution]


@functools.cache
def _solver(change, first, times):
  import diffrax

  def solve(rates):
    found = diffrax.diffeqsolve(
      diffrax.ODETerm(change),
      diffrax.Tsit5(),
      0.0,
      times[-1],
      dt0=None,
      y0=first,
      args=rates,
      saveat=diffrax.SaveAt(ts=jnp.asarray(times, jnp.float32)),
      stepsize_controller=diffrax.PIDController(rtol=1e-5, atol=1e-6),
      throw=False,
    )
    good = found.result == diffrax.RESULTS.successful
    return jax.tree.map(lambda y: jnp.where(good, y, jnp.nan), found.ys)

  return jax.jit(jax.vmap(solve))


_described = declares(
  what='the simulators of a benchmark of [posteriors](inference.md)', needs='nothing'
)
BENCHMARK = {
  function.__name__: _described(function)
  for function in (
    two_moons,
    gaussian_mixture,
    gaussian_linear,
    gaussian_linear_uniform,
    bernoulli_glm,
    slcp,
    sir,
    lotka_volterra,
  )
}


def gaussian_process_moments(
  sides: tuple[Size, ...] = (64,),
  length: Positive = 12.0,
  mean: tuple[Finite, ...] = (0.0,),
  std: tuple[Positive, ...] = (1.0,),
  correlation: Rate = 0.0,
  kernel: Literal['matern', 'exponential'] = 'matern',
) -> tuple[np.ndarray, np.ndarray]:
  """Returns mean [D] and covariance [D, D] of the D numbers of a `gaussian_process`."""
  factors = _factors(sides, length, std, correlation, kernel)
  scale = np.broadcast_to(std, (*sides, len(std))).ravel()
  cov = functools.reduce(np.kron, factors) * scale * scale[:, None]
  return np.broadcast_to(mean, (*sides, len(std))).astype(np.float64).ravel(), cov


def _factors(sides, length, std, correlation, kernel):
  # Returns the kernel of each axis and the correlations of the channels.
  channels = np.full((len(std), len(std)), correlation)
  np.fill_diagonal(channels, 1.0)
  made = {'matern': matern, 'exponential': exponential}[kernel]
  return *(made(side, length) for side in sides), channels


@declares(
  what='a simulator whose truth is known ([arrays](arrays.md))',
  needs='nothing',
  moments=gaussian_process_moments,
)
def gaussian_process(
  rng: Rng,
  n: int,
  sides: tuple[Size, ...] = (64,),
  length: Positive = 12.0,
  mean: tuple[Finite, ...] = (0.0,),
  std: tuple[Positive, ...] = (1.0,),
  correlation: Rate = 0.0,
  kernel: Literal['matern', 'exponential'] = 'matern',
) -> dict[str, np.ndarray]:
  """Draws x [n, *sides, C] of a Gaussian process on a grid.

  The kernel is the product over the axes of `matern` with `length`, in grid
  points, or of `exponential`, with which a sequence is an AR(1). mean and std have
  an entry for each of the C channels, and any two channels have `correlation` at a
  point.
  """
  x = rng.standard_normal((n, *sides, len(std)))
  for axis, factor in enumerate(_factors(sides, length, std, correlation, kernel), 1):
    root = np.linalg.cholesky(factor)
    x = np.moveaxis(np.moveaxis(x, axis, -1) @ root.T, -1, axis)
  return {'x': x * std + mean}


def matern(side: int, length: float) -> np.ndarray:
  """Returns the kernel (1 + d) exp(-d), d = sqrt(3) |i - j| / length.

  Matern's with nu = 3/2 (Rasmussen & Williams 2006, Eq. 4.17), [side, side].
  """
  place = np.arange(side)
  d = math.sqrt(3.0) * np.abs(place[:, None] - place) / length
  return (1.0 + d) * np.exp(-d)


def exponential(side: int, length: float) -> np.ndarray:
  """Returns the kernel exp(-|i - j| / length), [side, side].

  Matern's with nu = 1/2 (Rasmussen & Williams 2006, Eq. 4.18): an AR(1) of exp(-1 / length).
  """
  place = np.arange(side)
  return np.exp(-np.abs(place[:, None] - place) / length)
