"""Compares a sampler of any framework with the exact truth of a problem."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import optimize, special
from scipy.spatial.distance import cdist

from diffusion_jax.testing.bench import Problem

# method(problem, noise [N, *shape] at sigma_max, num_steps, rng) -> x_0.
Method = Callable[[Problem, np.ndarray, int, np.random.Generator], np.ndarray]
Verdict = Literal[
  'exact law', 'converges', 'lower order', 'does not converge', 'biased', 'not finite'
]
PASSING = 'exact law', 'converges'

SIGNIFICANT = 6.0  # standard errors
# Tolerances of mean, variance, covariance, distances along lines and W2.
LAW_TOLERANCE = np.array([0.02, 0.02, 0.02, 0.005, 0.02])
PATH_TOLERANCE = 1e-4  # the rounding of float32 and the step from sigma_min are below
ORDER_TOLERANCE = 0.3
LEAST_ORDER = 0.5
SMALL = 0.25  # an error from which a limit is extrapolated
# The deviation of a length far from 0, over a chi's: 1.4 to 1.7 by the dimension.
FAR = 1.5
SDE_ERROR = 10.0  # the relative error of the variance, times the number of steps
EXACT_SETS, EXACT_DRAWS = 200, 300
LEAST_DRAWS = 100
LARGEST = 1e100  # draws are at most as large, so that their squares are finite
REPEATED = 0.01  # the fraction of rows that may be repeated
ERRORS = 'mean_error', 'variance_error', 'covariance_error', 'line_error'
LINES = 32  # random directions
LEVELS = np.arange(1, 20) / 20.0  # the levels of distribution functions that are compared
BATCH_SIZE = 100  # draws in a batch of which W2 is computed
BLOCKS = LEAST_DRAWS  # blocks of the bootstrap


@dataclasses.dataclass(frozen=True)
class Certificate:
  """What `certify` has measured, a number for each of `steps`.

  calls: of the denoiser, for each draw. path_error: the mean distance from the
  exact flow map; None if the law was tested. mean_error, variance_error,
  covariance_error, line_error: in standard errors of as many exact draws, beyond
  the error of these; lines: the whitened axes and 32 random directions, by
  distribution functions. w2: the mean Wasserstein-2 distance of 100 draws from
  100 exact ones; w2_floor: the same of exact draws. Distances are relative to the
  data's standard deviation. order_interval: of 95 %. unseen: the relative error
  of a variance that may not be seen, by the problem, `draws` and `steps`.
  """

  problem: str
  draws: int
  steps: tuple[int, ...]
  calls: tuple[float, ...]
  path_error: tuple[float, ...] | None
  mean_error: tuple[float, ...]
  variance_error: tuple[float, ...]
  covariance_error: tuple[float, ...]
  line_error: tuple[float, ...]
  w2: tuple[float, ...]
  w2_floor: float
  unseen: float
  verdict: Verdict
  reason: str
  order: float | None = None
  order_interval: tuple[float, float] | None = None

  @property
  def passed(self) -> bool:
    """Returns whether the draws have the law as the number of steps grows."""
    return self.verdict in PASSING

  def __str__(self) -> str:
    """Returns a table and the verdict."""
    lines = [
      f'{self.problem}, {self.draws} draws; W2 of exact draws: {self.w2_floor:.3f}',
      'steps   calls  path error  mean (z)   var (z)   cov (z)  line (z)     W2',
    ]
    paths = self.path_error or (np.nan,) * len(self.steps)
    law = self.mean_error, self.variance_error, self.covariance_error, self.line_error, self.w2
    for row in zip(self.steps, self.calls, paths, *law, strict=True):
      lines.append('{:5} {:7.4g} {:11.1e} {:9.1f} {:9.1f} {:9.1f} {:9.1f} {:6.3f}'.format(*row))
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
  """Runs a method with more and more steps, and judges it by all its draws.

  The law at the largest number of steps, and where the last two numbers lead to,
  must be exact to 6 standard errors of as many exact draws (and to 0.02), or the
  error must fall with an order of 0.5 or more. A method that ignores `rng` must
  also follow the exact flow of each noise, unless the problem is an inverse one:
  an order that falls below 0.9 is a floor. The reason of each verdict ends with
  what it could not have seen. More draws and more steps see smaller faults.

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
  noise, law, rng = _start(problem, draws, seed)
  rng = copy.deepcopy(rng)
  samples, calls = _runs(method, problem, noise, steps, rng)
  errors, paths = np.stack([law.errors(x) for x in samples]), None
  repeated = _repeated(samples[-1])
  if not np.isfinite(errors).all():
    judgement = _Judgement('not finite', f'a draw is beyond {LARGEST:g} or not a number')
  elif repeated > REPEATED * draws + 1:
    judgement = _Judgement('biased', f'{repeated} of {draws} draws repeat others')
  else:
    judgement = _judge_law(law, errors, steps)
    if problem.posterior is None and _is_deterministic(method, problem, noise, steps[-1]):
      paths = np.stack([law.lengths(x - _ends(problem, draws, seed)) for x in samples])
      of_paths = _judge_paths(paths, law.worst(errors[-1]), steps, rng)
      if judgement.verdict in PASSING or of_paths.verdict not in PASSING:
        judgement = of_paths
  interval = judgement.order_interval
  if order and interval and judgement.verdict in PASSING and interval[1] < order - ORDER_TOLERANCE:
    reason = f'{judgement.reason}, not {order:g}'
    judgement = judgement._replace(verdict='lower order', reason=reason)
  unseen = law.unseen(steps)
  reason = f'{judgement.reason}; a variance off by less than {100 * unseen:.1f} % would not be seen'
  scores = law.scores(errors)[:, : len(ERRORS)]
  return Certificate(
    problem=problem.name,
    draws=draws,
    steps=tuple(steps),
    calls=calls,
    path_error=None if paths is None else tuple(paths.mean(axis=1).tolist()),
    **dict(zip(ERRORS, map(tuple, scores.T.tolist()), strict=True)),
    w2=tuple((errors[:, -1] + law.w2_floor).tolist()),
    w2_floor=law.w2_floor,
    unseen=unseen,
    **judgement._replace(reason=reason)._asdict(),
  )


@functools.lru_cache(maxsize=4)  # other methods of the same problem start from the same noise
def _start(problem, draws, seed):
  rng = np.random.default_rng(seed)
  noise = problem.draw(rng, draws)
  noise += problem.sigma_max * rng.normal(size=noise.shape)
  return noise, _Law(problem.posterior or problem, draws, rng), rng


@functools.lru_cache(maxsize=4)
def _ends(problem, draws, seed):
  return problem.flow_map(_start(problem, draws, seed)[0], problem.sigma_max, 0.0, tolerance=1e-6)


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
    lines = rng.normal(size=(self.dim, LINES))
    lines = np.concatenate([np.eye(self.dim), lines / np.linalg.norm(lines, axis=0)], axis=1)
    self.lines = self.whiten @ lines
    exact = target.draw(rng, EXACT_SETS * EXACT_DRAWS).reshape(-1, self.dim)
    self.edges = np.quantile((exact[:10_000] - self.mean) @ self.lines, LEVELS, axis=0)
    centres = (target.means - self.mean) @ self.lines
    widths = np.sqrt(((target.covs @ self.lines) * self.lines).sum(axis=1))
    below = special.ndtr((self.edges[:, None] - centres) / widths)
    self.levels = np.tensordot(below, target.weights, (1, 0))
    batches = -(-draws // BATCH_SIZE)
    self.references = target.draw(rng, batches * BATCH_SIZE).reshape(batches, -1, self.dim)
    self.w2_floor = 0.0
    size = min(draws, EXACT_DRAWS)
    sets = exact[: EXACT_SETS * size].reshape(EXACT_SETS, size, self.dim)
    errors = np.stack([self.errors(x, i) for i, x in enumerate(sets)])
    self.w2_floor = float(errors[:, -1].mean())
    errors[:, -1] -= self.w2_floor
    sizes = self.sizes(errors) * np.sqrt(size / draws)
    self.centre, self.spread = sizes.mean(axis=0), sizes.std(axis=0)

  def errors(self, x, turn=0):
    # Returns in one array the errors of the mean [D] and the covariance [D * D], in
    # axes in which the law is white, of distribution functions along lines, and of W2.
    rows = x.reshape(len(x), -1)
    if not (np.abs(rows) < LARGEST).all():
      return np.full(self.dim + self.dim**2 + self.levels.size + 1, np.nan)
    white = (rows - self.mean) @ self.whiten
    covariance = np.cov(white.T).reshape(self.dim, self.dim) - np.eye(self.dim)
    along = np.sort(self.lines.T @ (rows - self.mean).T)
    pairs = zip(along, self.edges.T, strict=True)
    below = np.stack([np.searchsorted(*pair) for pair in pairs], axis=1) / len(rows) - self.levels
    batches = np.resize(rows, (-(-len(rows) // BATCH_SIZE), BATCH_SIZE, self.dim))
    first = turn * len(batches)
    w2 = np.mean([self._w2(batch, first + i) for i, batch in enumerate(batches)]) - self.w2_floor
    return np.concatenate([white.mean(axis=0), covariance.ravel(), below.ravel(), [w2]])

  def _w2(self, rows, i):
    costs = cdist(rows, self.references[i % len(self.references)], 'sqeuclidean')
    return np.sqrt(costs[optimize.linear_sum_assignment(costs)].mean()) / self.scale

  def parts(self, errors):
    # Returns the errors of the mean, the variance, the covariance, the lines and W2.
    mean, covariance, lines, w2 = np.split(
      errors, np.cumsum([self.dim, self.dim**2, self.levels.size]), axis=-1
    )
    variance = covariance[..., :: self.dim + 1].mean(axis=-1, keepdims=True)
    root = np.sqrt(self.dim)
    return mean / root, variance, covariance / root, lines / np.sqrt(self.levels.size), w2

  def sizes(self, errors):
    # Returns the lengths of these five parts, [..., 5].
    return np.stack([np.linalg.norm(part, axis=-1) for part in self.parts(errors)], axis=-1)

  def scores(self, errors, factor=1.0):
    # Returns sizes in standard errors of one set of draws, whose errors are `factor` as large.
    return (self.sizes(errors) / factor - self.centre) / self.spread

  def wrong(self, errors, factor=1.0):
    return (self.scores(errors, factor) > SIGNIFICANT) & (self.sizes(errors) > LAW_TOLERANCE)

  def unseen(self, steps):
    chance = _limit_factor(steps) * (self.centre[1] + SIGNIFICANT * self.spread[1])
    return float(max(chance, LAW_TOLERANCE[1], SDE_ERROR / steps[-1]))

  def bias(self, errors):
    # A sentence for each of the sizes.
    mean, _, covariance, lines, w2 = self.sizes(errors)
    variance = 1.0 + self.parts(errors)[1][0]
    return (
      f'the mean is {mean:.3f} standard deviations from the exact one',
      f'the variance is {variance:.3f} times the exact one',
      f'the covariance is {covariance:.3f} of itself from the exact one',
      f'distribution functions along lines are {lines:.3f} from the exact ones',
      f'W2 is {w2:.3f} from that of exact draws',
    )

  def worst(self, errors):
    # The sentence of the size that is the largest in standard errors.
    return self.bias(errors)[np.argmax(self.scores(errors))]

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


def _repeated(x):
  # Rows that are there more than once; numbers of half precision may be.
  rows = x.reshape(len(x), -1)
  with np.errstate(over='ignore'):
    rows = rows[(rows != rows.astype(np.float16)).any(axis=1)]
  return len(rows) - len(np.unique(rows, axis=0))


def _is_deterministic(method, problem, noise, num_steps):
  rows = noise[:1000]
  runs = [method(problem, rows.copy(), num_steps, np.random.default_rng(i)) for i in range(2)]
  return np.allclose(*runs, rtol=1e-4, atol=1e-4)


def _judge_paths(paths, bias, steps, rng):
  # paths [S, N]: distances from the exact flow map.
  errors = paths.mean(axis=1)
  above = np.flatnonzero(errors > PATH_TOLERANCE)
  if len(above) == 0 or above[-1] == 0:
    verdict = 'converges' if len(above) else 'exact law'
    return _Judgement(verdict, f'the paths are exact to {errors.min():.1e}')
  last = above[-1]
  # The bootstrap of blocks of rows.
  blocks = np.stack([part.mean(axis=1) for part in np.array_split(paths, BLOCKS, axis=1)], axis=1)
  means = blocks[:, rng.integers(0, BLOCKS, (1000, BLOCKS))].mean(axis=-1)
  ratios = np.diff(np.log(steps))
  order = float((-np.diff(np.log(errors)) / ratios)[last - 1])
  orders = -np.diff(np.log(means), axis=0) / ratios[:, None]
  low, high = np.quantile(orders[last - 1], (0.025, 0.975)).tolist()
  fall = np.quantile(orders[last - 2] - orders[last - 1], 0.001) if last > 1 else 0.0
  if last == len(steps) - 1 and (low < LEAST_ORDER or (high < 0.9 and fall > 0.05)):
    reason = f'the path error stays at {errors[last]:.1e}, its order falls to {order:.2f}; {bias}'
    return _Judgement('does not converge', reason, order, (low, high))
  reason = f'the order of the path is {order:.2f} ({low:.2f} to {high:.2f})'
  return _Judgement('converges', reason, order, (low, high))


def _judge_law(law, errors, steps):
  scores, wrong = law.scores(errors), law.wrong(errors[-1])
  wrong[-1] &= not wrong[:-1].any()  # W2 may cross its floor on its way
  orders = np.array([_law_order(law, errors, steps, k) for k in range(5)])
  floors = wrong & (orders.sum(axis=1) < LEAST_ORDER)
  limits = _wrong_limits(law, errors, steps)
  k = np.argmax(np.where(floors, scores[-1], -np.inf) if floors.any() else scores[-1])
  order, error = orders[k, 0], 2.0 * orders[k, 1]
  found = f'the order of the law is {order:.2f} (± {error:.2f})'
  interval = float(order - error), float(order + error)
  if floors.any():
    bias = '; '.join(np.array(law.bias(errors[-1]))[floors])
    return _Judgement('biased', f'at {steps[-1]} steps {bias}; {found}', float(order), interval)
  if limits.any():
    bias = '; '.join(np.array(law.bias(_limit(errors, steps)))[limits])
    return _Judgement('biased', f'with more and more steps {bias}')
  told = np.flatnonzero((scores > SIGNIFICANT).any(axis=1))
  if len(told) == 0:
    return _Judgement('exact law', 'no number of steps is told from exact draws')
  reason = f'{steps[told[-1]]} steps are told from exact draws, the limit is not'
  if told[-1] < len(steps) - 1 or order - error < LEAST_ORDER:
    return _Judgement('converges', reason)
  return _Judgement('converges', f'{reason}; {found}', float(order), interval)


def _law_order(law, errors, steps, k):
  # Returns the order and its standard error, from the last number of steps and the nearest
  # of three before it that gives the order to 0.1; the part of exact draws is subtracted.
  sizes = law.sizes(errors)[:, k]
  beyond = np.sqrt(np.maximum(sizes**2 - law.centre[k] ** 2, law.spread[k] ** 2))
  relative = FAR * law.spread[k] * sizes / beyond**2
  for i in range(len(steps) - 2, max(len(steps) - 5, -1), -1):
    ratio = np.log(steps[-1] / steps[i])
    order = np.log(beyond[i] / beyond[-1]) / ratio
    error = np.hypot(relative[i], relative[-1]) / ratio
    if error < 0.1:
      break
  return order, error


def _limit(errors, steps):
  # The value at 1 / N = 0 of a line in 1 / N through the last two.
  return errors[-1] + (errors[-1] - errors[-2]) / (steps[-1] / steps[-2] - 1.0)


def _limit_factor(steps):
  # The error of the limit, where the error of each set of draws is 1.
  return np.linalg.norm(_limit(np.eye(2), steps))


def _wrong_limits(law, errors, steps):
  # Small errors, which fall slowly or change their sign, lead to a wrong limit.
  sizes, limit = law.sizes(errors[-2:]), _limit(errors, steps)
  if sizes[:, :3].max() > SMALL:
    return np.zeros(5, bool)
  turned = [(a * b).sum() < 0.0 for a, b in zip(*map(law.parts, errors[-2:]), strict=True)]
  wrong = law.wrong(limit, _limit_factor(steps))
  wrong &= (law.sizes(limit) > 0.4 * sizes[1]) & ((sizes[1] > 0.6 * sizes[0]) | turned)
  wrong[-1] = False
  return wrong
