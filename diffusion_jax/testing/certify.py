"""Compares a sampler of any framework with the exact truth of a problem."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import optimize
from scipy.spatial.distance import cdist

from diffusion_jax.testing.bench import Problem

# method(problem, noise [N, *shape] at sigma_max, num_steps, rng) -> x_0.
Method = Callable[[Problem, np.ndarray, int, np.random.Generator], np.ndarray]
Verdict = Literal[
  'exact law', 'converges', 'lower order', 'does not converge', 'biased', 'not finite'
]

SIGNIFICANT = 6.0  # standard errors
LAW_TOLERANCE = 0.02
PATH_TOLERANCE = 1e-4  # the rounding of float32 and the step from sigma_min are below
ORDER_TOLERANCE = 0.3
EXACT_SETS = 32
LEAST_DRAWS = 100
LARGEST = 1e100  # of a draw, whose square is finite
PATHS = 1000  # draws whose paths are measured
BATCHES, BATCH_SIZE = 4, 200  # of W2


@dataclasses.dataclass(frozen=True)
class Certificate:
  """What `certify` has measured, a number for each of `steps`.

  calls: of the denoiser, for each draw. path_error: the mean distance from the
  exact flow map; None if the law was tested. mean_error, variance_error,
  covariance_error: in standard errors of as many exact draws, beyond the error
  of these. w2: the Wasserstein-2 distance of 200 draws from 200 exact ones, the
  mean of four; w2_floor: the same of exact draws. Distances are relative to the
  data's standard deviation. order_interval: of 95 %.
  """

  problem: str
  draws: int
  steps: tuple[int, ...]
  calls: tuple[float, ...]
  path_error: tuple[float, ...] | None
  mean_error: tuple[float, ...]
  variance_error: tuple[float, ...]
  covariance_error: tuple[float, ...]
  w2: tuple[float, ...]
  w2_floor: float
  verdict: Verdict
  reason: str
  order: float | None = None
  order_interval: tuple[float, float] | None = None

  @property
  def passed(self) -> bool:
    """Returns whether the draws have the law as the number of steps grows."""
    return self.verdict in ('exact law', 'converges')

  def __str__(self) -> str:
    """Returns a table and the verdict."""
    lines = [
      f'{self.problem}, {self.draws} draws; W2 of exact draws: {self.w2_floor:.3f}',
      'steps   calls  path error  mean (z)   var (z)   cov (z)     W2',
    ]
    paths = self.path_error or (np.nan,) * len(self.steps)
    law = self.mean_error, self.variance_error, self.covariance_error, self.w2
    for row in zip(self.steps, self.calls, paths, *law, strict=True):
      lines.append('{:5} {:7.4g} {:11.1e} {:9.1f} {:9.1f} {:9.1f} {:6.3f}'.format(*row))
    return '\n'.join([*lines, f'{self.verdict}: {self.reason}'])


def certify(
  method: Method,
  problem: Problem,
  *,
  order: float | None = None,
  steps: Sequence[int] = (8, 16, 32, 64, 128),
  draws: int = 40_000,
  seed: int = 0,
) -> Certificate:
  """Runs a method with more and more steps, and judges it.

  A method that ignores `rng` is compared with the exact flow of each noise,
  unless the problem is an inverse one. Any other is compared with the law: its
  mean, covariance and W2, extrapolated to infinitely many steps by a polynomial
  in 1 / num_steps, must be exact to 6 standard errors of as many exact draws, or
  to 0.02. More draws and more steps see smaller faults.

  Args:
    method: method(problem, noise, num_steps, rng) -> x_0 [N, *shape], from
      draws of x at sigma_max.
    problem: A problem.
    order: The order that the method should have, or None.
    steps: Two or more numbers of steps, ascending.
    draws: The number of draws.
    seed: A seed of all random numbers.
  Raises:
    ValueError: For other steps, fewer than 100 draws, and samples of another
      shape than the noise.
  """
  if len(steps) < 2 or (np.diff(steps) <= 0).any() or steps[0] < 1:
    raise ValueError(f'steps are {list(steps)}: they must be two or more, ascending')
  if draws < LEAST_DRAWS:
    raise ValueError(f'draws={draws}: the law needs {LEAST_DRAWS} or more')
  rng = np.random.default_rng(seed)
  noise = problem.draw(rng, draws)
  noise += problem.sigma_max * rng.normal(size=noise.shape)
  samples, calls = _runs(method, problem, noise, steps, rng)
  law = _Law(problem.posterior or problem, draws, rng)
  errors = np.stack([law.errors(x) for x in samples])
  paths = None
  if not np.isfinite(errors).all():
    judgement = _Judgement('not finite', f'a draw is beyond {LARGEST:g} or not a number')
  elif problem.posterior is None and _is_deterministic(method, problem, noise[:PATHS], steps[0]):
    truth = problem.flow_map(noise[:PATHS], problem.sigma_max, 0.0)
    paths = np.stack([law.lengths(x[:PATHS] - truth) for x in samples])
    judgement = _judge_paths(paths, law.bias(errors[-1])[1], steps, rng)
  else:
    judgement = _judge_law(law, errors, steps)
  scores = law.scores(errors)
  certificate = Certificate(
    problem=problem.name,
    draws=draws,
    steps=tuple(steps),
    calls=calls,
    path_error=None if paths is None else tuple(paths.mean(axis=1).tolist()),
    mean_error=tuple(scores[:, 0].tolist()),
    variance_error=tuple(scores[:, 1].tolist()),
    covariance_error=tuple(scores[:, 2].tolist()),
    w2=tuple((errors[:, -1] + law.w2_floor).tolist()),
    w2_floor=law.w2_floor,
    **judgement._asdict(),
  )
  return certificate if order is None else _against(certificate, order)


class _Judgement(NamedTuple):
  verdict: Verdict
  reason: str
  order: float | None = None
  order_interval: tuple[float, float] | None = None


class _Law:
  # The law of a problem, and what the errors of as many exact draws are.

  def __init__(self, target, draws, rng):
    self.mean, self.dim = target.mean, len(target.mean)
    self.scale = np.sqrt(np.trace(target.covariance))
    self.whiten = np.linalg.inv(np.linalg.cholesky(target.covariance)).T
    size = min(BATCH_SIZE, draws // BATCHES)
    self.references = target.draw(rng, BATCHES * size).reshape(BATCHES, size, self.dim)
    self.w2_floor = 0.0
    exact = np.stack([self.errors(target.draw(rng, draws)) for _ in range(EXACT_SETS)])
    self.w2_floor = float(exact[:, -1].mean())
    exact[:, -1] -= self.w2_floor
    self.centre, self.spread = self.sizes(exact).mean(axis=0), self.sizes(exact).std(axis=0)

  def errors(self, x):
    # Of the mean [D] and the covariance [D * D], in axes in which the law is
    # white, and of W2, in one array.
    rows = x.reshape(len(x), -1)
    if not (np.abs(rows) < LARGEST).all():
      return np.full(self.dim + self.dim**2 + 1, np.nan)
    white = (rows - self.mean) @ self.whiten
    covariance = np.cov(white.T).reshape(self.dim, self.dim) - np.eye(self.dim)
    pairs = zip(np.array_split(rows, BATCHES), self.references, strict=True)
    w2 = np.mean([self._w2(*pair) for pair in pairs])
    return np.concatenate([white.mean(axis=0), covariance.ravel(), [w2 - self.w2_floor]])

  def _w2(self, rows, reference):
    costs = cdist(rows[: len(reference)], reference, 'sqeuclidean')
    return np.sqrt(costs[optimize.linear_sum_assignment(costs)].mean()) / self.scale

  def sizes(self, errors):
    # Of the mean, the variance, the covariance and W2, [..., 4].
    mean, covariance, w2 = np.split(errors, [self.dim, -1], axis=-1)
    variance = covariance[..., :: self.dim + 1].mean(axis=-1)
    sizes = [np.linalg.norm(part, axis=-1) / np.sqrt(self.dim) for part in (mean, covariance)]
    return np.stack([sizes[0], np.abs(variance), sizes[1], np.abs(w2[..., 0])], axis=-1)

  def scores(self, errors, factor=1.0):
    # In standard errors of one set of draws, or of `factor` times its error.
    return (self.sizes(errors) / factor - self.centre) / self.spread

  def bias(self, errors):
    # A sentence for each of the sizes.
    mean, _, covariance, w2 = self.sizes(errors)
    variance = 1.0 + errors[self.dim : -1 : self.dim + 1].mean()
    return (
      f'the mean is {mean:.3f} standard deviations from the exact one',
      f'the variance is {variance:.3f} times the exact one',
      f'the covariance is {covariance:.3f} of itself from the exact one',
      f'W2 is {w2:.3f} from that of exact draws',
    )

  def lengths(self, x):
    return np.linalg.norm(x.reshape(len(x), -1), axis=1) / self.scale


def _runs(method, problem, noise, steps, rng):
  samples, calls = [], []
  for num_steps in steps:
    before = problem.calls['denoise_rows']
    x = np.asarray(method(problem, noise.copy(), num_steps, rng), np.float64)
    if x.shape != noise.shape:
      raise ValueError(f'the method returned {list(x.shape)}: it must be {list(noise.shape)}')
    samples.append(x)
    calls.append((problem.calls['denoise_rows'] - before) / len(noise))
  return samples, tuple(calls)


def _is_deterministic(method, problem, noise, num_steps):
  runs = [method(problem, noise.copy(), num_steps, np.random.default_rng(i)) for i in range(2)]
  return np.allclose(*runs, rtol=1e-4, atol=1e-4)


def _judge_paths(paths, bias, steps, rng):
  # paths [S, n]: distances from the exact flow map.
  errors = paths.mean(axis=1)
  above = np.flatnonzero(errors > PATH_TOLERANCE)
  if len(above) == 0 or above[-1] == 0:
    verdict = 'converges' if len(above) else 'exact law'
    return _Judgement(verdict, f'the paths are exact to {errors.min():.1e}')
  last = above[-1]
  ratio = np.log(steps[last] / steps[last - 1])
  order = float(np.log(errors[last - 1] / errors[last]) / ratio)
  picks = rng.integers(0, paths.shape[1], (200, paths.shape[1]))  # the bootstrap
  coarse, fine = (paths[i][picks].mean(axis=1) for i in (last - 1, last))
  low, high = np.quantile(np.log(coarse / fine) / ratio, (0.025, 0.975)).tolist()
  if high < 0.5:
    reason = f'the path error stays at {errors[last]:.1e}; {bias}'
    return _Judgement('does not converge', reason, order, (low, high))
  reason = f'the order of the path is {order:.2f} ({low:.2f} to {high:.2f})'
  return _Judgement('converges', reason, order, (low, high))


def _judge_law(law, errors, steps):
  weights = _weights_at_infinity(steps)
  limit = weights @ errors
  wrong = law.scores(limit, np.linalg.norm(weights)) > SIGNIFICANT
  wrong &= law.sizes(limit) > LAW_TOLERANCE
  if wrong.any():
    bias = '; '.join(np.array(law.bias(limit))[wrong])
    return _Judgement('biased', f'with more and more steps {bias}')
  scores, sizes = law.scores(errors), law.sizes(errors)
  told = np.flatnonzero((scores > SIGNIFICANT).any(axis=1))
  if len(told) == 0:
    return _Judgement('exact law', 'no number of steps is told from exact draws')
  last = told[-1]
  reason = f'{steps[last]} steps are told from exact draws, the limit is not'
  k = np.argmax(scores[last])
  # An order needs an error before it, which is small and not noise.
  if last == 0 or sizes[last - 1, k] > 0.5 or scores[last - 1, k] < SIGNIFICANT:
    return _Judgement('converges', reason)
  # Without the part that exact draws have, too.
  coarse, fine = np.sqrt(np.maximum(sizes[last - 1 : last + 1, k] ** 2 - law.centre[k] ** 2, 0.0))
  ratio = np.log(steps[last] / steps[last - 1])
  order = float(np.log(coarse / fine) / ratio)
  error = float(2.0 * np.hypot(law.spread[k] / coarse, law.spread[k] / fine) / ratio)
  reason = f'{reason}; the order of the law is {order:.2f} (± {error:.2f})'
  return _Judgement('converges', reason, order, (order - error, order + error))


def _weights_at_infinity(steps):
  # The value at 1 / N = 0 of a parabola in 1 / N through the last four, by least
  # squares in which larger N count more.
  weights = np.zeros(len(steps))
  numbers = np.array(steps[-4:], float)
  count = numbers**1.5
  powers = numbers[:, None] ** -np.arange(min(3.0, len(numbers)))
  weights[-4:] = np.linalg.pinv(count[:, None] * powers)[0] * count
  return weights


def _against(certificate, order):
  interval = certificate.order_interval
  if not certificate.passed or not interval or interval[1] >= order - ORDER_TOLERANCE:
    return certificate
  reason = f'{certificate.reason}, not {order:g}'
  return dataclasses.replace(certificate, verdict='lower order', reason=reason)
