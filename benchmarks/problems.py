"""Measurements y = A x_0 + std n of priors in closed form.

A to D: Gaussian mixtures with D = 2, 2, 8, 16 and 3, 3, 4, 5 modes; 1, 1, 2, 2
numbers in y; std 0.05, 0.5, 0.1, 0.1. Mean 0, variance 1. A is random with rows
of length 1, and y is the one of 200 draws that leaves most modes. E: a Gaussian
process of 64 points with unit variance (Matern 3/2 of length 0.2), 8 of them,
chosen at random, seen with std 0.1. E_trained: the same with the denoiser of a
residual MLP of 3 blocks of 256 channels, after 4,000 steps of 128.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import diffusion_jax as dj
from diffusion_jax.networks.embeddings import sinusoidal
from diffusion_jax.testing import oracles

Array = jax.Array

SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
WIDTH, BLOCKS = 256, 3  # of the trained network
BATCH_SIZE, TRAINING_STEPS = 128, 4000


class Problem(NamedTuple):
  """A prior, a measurement y [M] = matrix x_0 + std n, and a denoiser."""

  prior: oracles.Mixture
  matrix: np.ndarray
  y: np.ndarray
  std: float
  denoise: dj.Denoiser

  @property
  def exact(self) -> oracles.Mixture:
    """Returns p(x_0 | y)."""
    return self.prior.posterior(self.matrix, self.y, self.std)

  def measurement(self, y: Array) -> dj.Measurement:
    """Returns the measurement of numbers y, [B, M]."""
    matrix = jnp.asarray(self.matrix, jnp.float32)
    return dj.Measurement(y, lambda x: x @ matrix.T, self.std)


def mixture(dim: int, modes: int, count: int, std: float, spread: float, seed: int) -> Problem:
  """Draws a problem; spread: of the modes, before the scaling of the prior."""
  rng = np.random.default_rng(seed)
  means = spread * rng.normal(size=(modes, dim))
  covs = []
  for _ in range(modes):
    q, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    variances = 0.35**2 * np.exp(rng.uniform(-1.5, 1.0, size=dim))
    covs.append(q @ np.diag(variances) @ q.T)
  weights = rng.uniform(0.6, 1.4, size=modes)
  weights /= weights.sum()
  means = means - weights @ means
  covs = np.array(covs)
  total = np.einsum('k,kii->', weights, covs)
  total += np.einsum('k,ki,ki->', weights, means, means)
  scale = np.sqrt(total / dim)
  means, covs = means / scale, covs / scale**2
  prior = oracles.mixture(weights, means, covs)
  matrix = rng.normal(size=(count, dim))
  matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)

  def ambiguity(y):
    found = np.asarray(prior.posterior(matrix, y, std).weights, np.float64)
    return -np.sum(found * np.log(found + 1e-300))

  def draw():
    k = rng.choice(modes, p=weights)
    x0 = rng.multivariate_normal(means[k], covs[k])
    return matrix @ x0 + std * rng.normal(size=count)

  y = max((draw() for _ in range(200)), key=ambiguity)
  return Problem(prior, matrix, y, std, prior.denoise)


def gaussian_process(trained: bool = False) -> Problem:
  """Draws problem E."""
  at = np.linspace(0.0, 1.0, 64)
  distance = np.sqrt(3.0) * np.abs(at[:, None] - at) / 0.2
  cov = (1.0 + distance) * np.exp(-distance)
  prior = oracles.gaussian(np.zeros(64), cov)
  rng = np.random.default_rng(0)
  matrix = np.eye(64)[np.sort(rng.choice(64, 8, replace=False))]
  x0 = rng.multivariate_normal(np.zeros(64), cov)
  y = matrix @ x0 + 0.1 * rng.normal(size=8)
  problem = Problem(prior, matrix, y, 0.1, prior.denoise)
  if not trained:
    return problem
  problem = problem._replace(denoise=train(prior))
  ratios = 0.1, 1.0, 10.0
  for ratio, error, asymmetry in zip(ratios, *gap(problem, ratios), strict=True):
    print(
      f'  sigma / alpha = {ratio:g}: rms error of the denoiser {error:.3f}, '
      f'asymmetry of its Jacobian {asymmetry:.0%}',
      flush=True,
    )
  return problem


def network(params: dict, x: Array, noise: Array, cond: dict | None, *, key=None) -> Array:
  """Predicts v [B, D] by residual blocks; noise: steps 0..1000, [B]."""
  wave = jax.nn.silu(sinusoidal(noise, WIDTH) @ params['noise'])
  h = x @ params['first']
  for inner, outer in zip(params['inner'], params['outer'], strict=True):
    normed = jax.nn.standardize(h)
    h = h + jax.nn.silu(normed @ inner + wave) @ outer
  return jax.nn.standardize(h) @ params['last']


def train(prior: oracles.Mixture) -> dj.Denoiser:
  """Trains a denoiser on draws of the prior."""
  start, dim = time.perf_counter(), prior.means.shape[1]
  normal = jax.nn.initializers.lecun_normal()
  stacked = jax.nn.initializers.lecun_normal(batch_axis=0)

  def init(key):
    keys = jax.random.split(key, 5)
    return {
      'noise': normal(keys[0], (WIDTH, WIDTH)),
      'first': normal(keys[1], (dim, WIDTH)),
      'inner': stacked(keys[2], (BLOCKS, WIDTH, WIDTH)),
      'outer': stacked(keys[3], (BLOCKS, WIDTH, WIDTH)),
      'last': normal(keys[4], (WIDTH, dim)),
    }

  model = dj.Network(network, dj.step_input(1000), parametrization='v')
  adam = optax.adam(optax.warmup_cosine_decay_schedule(0.0, 2e-3, 100, TRAINING_STEPS))

  def loss(params, key):
    x0_key, level_key, eps_key = jax.random.split(key, 3)
    x0 = prior.sample(x0_key, BATCH_SIZE)
    level, _ = dj.antithetic_times(level_key, BATCH_SIZE, SCHEDULE)
    eps = jax.random.normal(eps_key, x0.shape)
    v = model.output(params, dj.q_sample(x0, eps, level), level)
    return jnp.mean((v - dj.target('v', x0, eps, level)) ** 2)

  def body(carry, key):
    params, mean, state = carry
    updates, state = adam.update(jax.grad(loss)(params, key), state)
    params = optax.apply_updates(params, updates)
    mean = optax.incremental_update(params, mean, 5e-3)
    return (params, mean, state), None

  @jax.jit
  def fit(key):
    params = init(key)
    keys = jax.random.split(jax.random.key(1), TRAINING_STEPS)
    carry = params, params, adam.init(params)
    return jax.lax.scan(body, carry, keys)[0][1]

  params = jax.block_until_ready(fit(jax.random.key(0)))
  print(f'trained: {time.perf_counter() - start:.0f} s', flush=True)
  return model.denoiser(params)


def gap(problem: Problem, ratios: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
  """Measures a denoiser at each sigma / alpha of ratios [N], on 100 draws.

  Returns the root mean square of its difference from the exact one, [N], and
  the asymmetry |J - J^T| / |J| of its Jacobian, [N].
  """
  key, eps_key = jax.random.split(jax.random.key(2))

  def measure(logsnr):
    level = SCHEDULE.from_logsnr(logsnr)
    x0 = problem.prior.sample(key, 100)
    xt = dj.q_sample(x0, jax.random.normal(eps_key, x0.shape), level)
    error = problem.denoise(xt, level).x0 - problem.prior.denoise(xt, level).x0

    def alone(x):
      return problem.denoise(x[None], level).x0[0]

    jacobian = jax.vmap(jax.jacfwd(alone))(xt)
    skew = jacobian - jacobian.swapaxes(1, 2)
    asymmetry = jnp.linalg.norm(skew) / jnp.linalg.norm(jacobian)
    return jnp.sqrt(jnp.mean(error**2)), asymmetry

  logsnrs = np.float32(-2.0 * np.log(ratios))
  return jax.device_get(jax.jit(lambda x: jax.lax.map(measure, x))(logsnrs))


_of = functools.partial
PROBLEMS: dict[str, Callable[[], Problem]] = {
  'A': _of(mixture, 2, 3, 1, std=0.05, spread=1.0, seed=3),
  'B': _of(mixture, 2, 3, 1, std=0.5, spread=1.0, seed=3),
  'C': _of(mixture, 8, 4, 2, std=0.1, spread=0.6, seed=7),
  'D': _of(mixture, 16, 5, 2, std=0.1, spread=0.45, seed=11),
  'E': gaussian_process,
  'E_trained': _of(gaussian_process, trained=True),
}
