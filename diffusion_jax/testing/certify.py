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

SIGNIFICANT = 5.0  # standard errors
LAW_TOLERANCE = 0.02  # of mean, covariance and W2, relative to the data's
PATH_TOLERANCE = 1e-4  # the rounding of float32 and the step from sigma_min are below
ORDER_TOLERANCE = 0.3
PATHS = 1000
EXACT_SETS = 32
BATCHES, BATCH_SIZE = 2, 400  # of W2


@dataclasses.dataclass(frozen=True)
class Certificate:
  """What `certify` has measured, a number for each of `steps`.

  calls: of the denoiser, for each draw. path_error: the mean distance from the
  exact flow map; None if the law was tested. mean_error, variance_error,
  covariance_error: in standard errors of as many exact draws, beyond the error
  of these. w2: the Wasserstein-2 distance of 400 draws from 400 exact ones;
  w2_floor: the same of exact draws. Distances are relative to the data's
  standard deviation. order_interval: of 95 %.
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
  order: float | None
  order_interval: tuple[float, float] | None
  verdict: Verdict
  reason: str

  @property
  def passed(self) -> bool:
    """Returns whether the draws have the law as the number of steps grows."""
    return self.verdict in ('exact law', 'converges')

  def __str__(self) -> str:
    """Returns a table and the verdict."""
    lines = [f'{self.problem}, {self.draws} draws; W2 of exact draws: {self.w2_floor:.3f}']
    lines.append('steps   calls  path error  mean (z)   var (z)   cov (z)     W2')
    paths = self.path_error or (np.nan,) * len(self.steps)
    law = self.mean_error, self.variance_error, self.covariance_error
    columns = self.steps, self.calls, paths, *law, self.w2
    for n, calls, path, mean, var, cov, w2 in zip(*columns, strict=True):
      row = f'{n:5} {calls:7.4g} {path:11.1e} {mean:9.1f} {var:9.1f} {cov:9.1f} {w2:6.3f}'
      lines.append(row)
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
  in 1 / num_steps, must be exact to 5 standard errors of as many exact draws, or
  to 0.02. More draws and more steps see smaller faults.

  Args:
    method: method(problem, noise, num_steps, rng) -> x_0 [N, *shape], from
      draws of x at sigma_max.
    problem: A problem.
    order: The order that the method should have, or None.
    steps: Numbers of steps, ascending.
    draws: The number of draws.
    seed: A seed of all random numbers.
  Raises:
    ValueError: For samples of another shape than the noise.
  """
  rng = np.random.default_rng(seed)
  noise = problem.draw(rng, draws)
  noise += problem.sigma_max * rng.normal(size=noise.shape)
  samples, calls = [], []
  for num_steps in steps:
    before = problem.calls['denoise_rows']
    samples.append(_run(method, problem, noise, num_steps, rng))
    calls.append((problem.calls['denoise_rows'] - before) / draws)
  law = _Law(problem.posterior or problem, draws, rng)
  errors = [law.errors(x) for x in samples]
  scores = np.array([law.scores(e) for e in errors])
  paths = None
  if not np.isfinite(samples).all():
    judgement = _Judgement('not finite', 'a draw is infinite or not a number')
  elif problem.posterior is None and _is_deterministic(method, problem, noise[:PATHS], steps[0]):
    truth = problem.flow_map(noise[:PATHS], problem.sigma_max, 0.0)
    paths = np.stack([_lengths(x[:PATHS] - truth) for x in samples]) / law.scale
    judgement = _judge_paths(paths, errors[-1], steps, rng)
  else:
    judgement = _judge_law(law, errors, scores, steps)
  if order is not None:
    judgement = judgement.against(order)
  return Certificate(
    problem=problem.name,
    draws=draws,
    steps=tuple(steps),
    calls=tuple(calls),
    path_error=None if paths is None else tuple(paths.mean(axis=1).tolist()),
    mean_error=tuple(scores[:, 0].tolist()),
    variance_error=tuple(scores[:, 1].tolist()),
    covariance_error=tuple(scores[:, 2].tolist()),
    w2=tuple(float(e.w2[0]) + law.w2_floor for e in errors),
    w2_floor=law.w2_floor,
    **dataclasses.asdict(judgement),
  )


@dataclasses.dataclass(frozen=True)
class _Judgement:
  verdict: Verdict
  reason: str
  order: float | None = None
  order_interval: tuple[float, float] | None = None

  def against(self, order):
    if self.verdict != 'converges' or not self.order_interval:
      return self
    if self.order_interval[1] >= order - ORDER_TOLERANCE:
      return self
    reason = f'the order is {self.order:.1f}, not {order:g}'
    return dataclasses.replace(self, verdict='lower order', reason=reason)


class _Errors(NamedTuple):
  # Errors of draws, 0 at best: of the mean [D], the variance [1] and the
  # covariance [D, D], in axes in which the law is white, and of W2 [1].
  mean: np.ndarray
  variance: np.ndarray
  covariance: np.ndarray
  w2: np.ndarray

  def norms(self):
    return np.array([np.linalg.norm(error) for error in self])


class _Law:
  # The law of a problem, and the errors of as many exact draws.

  def __init__(self, target, draws, rng):
    self.mean, covariance = target.mean, target.covariance
    self.scale = np.sqrt(np.trace(covariance))
    self.whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T
    size = min(BATCH_SIZE, draws // BATCHES)
    self.references = target.draw(rng, BATCHES * size).reshape(BATCHES, size, -1)
    self.w2_floor = 0.0
    exact = [self.errors(target.draw(rng, draws)) for _ in range(EXACT_SETS)]
    self.w2_floor = float(np.mean([e.w2 for e in exact]))
    exact = np.array([e._replace(w2=e.w2 - self.w2_floor).norms() for e in exact])
    # The error of the mean and the covariance is a length, of the others a
    # number of either sign.
    signed = np.array([False, True, False, True])
    self.centre = np.where(signed, 0.0, exact.mean(axis=0))
    self.spread = np.where(signed, np.sqrt(np.mean(exact**2, axis=0)), exact.std(axis=0, ddof=1))

  def errors(self, x):
    rows = x.reshape(len(x), -1)
    white = (rows - self.mean) @ self.whiten
    dim = white.shape[1]
    covariance = np.cov(white.T).reshape(dim, dim) - np.eye(dim)
    variance = np.trace(covariance) / dim
    return _Errors(
      white.mean(axis=0) / np.sqrt(dim),
      np.array([variance]),
      covariance / np.sqrt(dim),
      np.array([self._w2(rows) - self.w2_floor]),
    )

  def scores(self, errors, factor=1.0):
    # In standard errors of one set of draws, or of `factor` times its error.
    return (errors.norms() / factor - self.centre) / self.spread

  def _w2(self, rows):
    batches = rows[: self.references[..., 0].size].reshape(self.references.shape)
    squares = []
    for batch, reference in zip(batches, self.references, strict=True):
      costs = cdist(batch, reference, 'sqeuclidean')
      squares.append(costs[optimize.linear_sum_assignment(costs)].mean())
    return np.sqrt(np.mean(squares)) / self.scale


def _run(method, problem, noise, num_steps, rng):
  x = np.asarray(method(problem, noise.copy(), num_steps, rng), np.float64)
  if x.shape != noise.shape:
    raise ValueError(f'the method returned {list(x.shape)}: it must be {list(noise.shape)}')
  return x


def _is_deterministic(method, problem, noise, num_steps):
  runs = [_run(method, problem, noise, num_steps, np.random.default_rng(i)) for i in range(2)]
  return np.allclose(*runs, rtol=1e-4, atol=1e-4)


def _judge_paths(paths, law_errors, steps, rng):
  # paths [S, n]: distances from the exact flow map.
  errors = paths.mean(axis=1)
  above = np.flatnonzero(errors > PATH_TOLERANCE)
  if not len(above):
    return _Judgement('exact law', f'the paths are exact to {errors.max():.1e}')
  last = above[-1]
  if last == 0:
    return _Judgement('converges', f'the paths are exact to {errors[1:].max():.1e}')
  picks = rng.integers(0, paths.shape[1], (200, paths.shape[1]))
  coarse, fine = (paths[i][picks].mean(axis=1) for i in (last - 1, last))
  ratio = np.log(steps[last] / steps[last - 1])
  order = float(np.log(errors[last - 1] / errors[last]) / ratio)
  low, high = np.quantile(np.log(coarse / fine) / ratio, (0.025, 0.975)).tolist()
  if high < 0.5:
    reason = f'the path error stays at {errors[last]:.1e}; {_bias(law_errors, "variance")}'
    return _Judgement('does not converge', reason, order, (low, high))
  reason = f'order {order:.2f} ({low:.2f} to {high:.2f}) of the path'
  return _Judgement('converges', reason, order, (low, high))


def _judge_law(law, errors, scores, steps):
  weights = _weights_at_infinity(steps)
  limit = _Errors(*(np.tensordot(weights, np.stack(e), 1) for e in zip(*errors, strict=True)))
  limit_scores = law.scores(limit, np.linalg.norm(weights))
  wrong = (limit_scores > SIGNIFICANT) & (limit.norms() > LAW_TOLERANCE)
  if wrong.any():
    worst = _Errors._fields[np.argmax(np.where(wrong, limit_scores, 0.0))]
    return _Judgement('biased', f'with more and more steps {_bias(limit, worst)}')
  told = np.flatnonzero((scores > SIGNIFICANT).any(axis=1))
  if not len(told):
    return _Judgement('exact law', 'no number of steps is told from exact draws')
  last = int(told[-1])
  reason = f'{steps[last]} steps are told from exact draws, but the limit is not'
  k = int(np.argmax(scores[last]))
  sizes = np.array([e.norms()[k] for e in errors])
  if last == 0 or sizes[last - 1] > 0.5:  # an order needs small errors
    return _Judgement('converges', reason)
  sizes = np.sqrt(np.maximum(sizes**2 - law.centre[k] ** 2, law.spread[k] ** 2))
  ratio = np.log(steps[last] / steps[last - 1])
  order = float(np.log(sizes[last - 1] / sizes[last]) / ratio)
  error = float(2.0 * np.linalg.norm(law.spread[k] / sizes[last - 1 : last + 1]) / ratio)
  reason = f'order {order:.2f} (± {error:.2f}) of the law; {reason}'
  return _Judgement('converges', reason, order, (order - error, order + error))


def _weights_at_infinity(steps):
  # The value at 1 / N = 0 of a parabola in 1 / N through the last four, by least
  # squares in which larger N count more.
  weights = np.zeros(len(steps))
  numbers = np.array(steps[-4:], float)
  count = np.sqrt(numbers**3)
  powers = numbers[:, None] ** -np.arange(min(3, len(numbers)))
  weights[-4:] = np.linalg.pinv(count[:, None] * powers)[0] * count
  return weights


def _bias(errors, name):
  size = np.linalg.norm(getattr(errors, name))
  return {
    'mean': f'the mean is {size:.3f} standard deviations from the exact one',
    'variance': f'the variance is {1.0 + errors.variance[0]:.3f} times the exact one',
    'covariance': f'the covariance is {size:.3f} of itself from the exact one',
    'w2': f'W2 is {size:.3f} from that of exact draws',
  }[name]


def _lengths(x):
  return np.linalg.norm(x.reshape(len(x), -1), axis=1)
