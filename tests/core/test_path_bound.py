"""The bound along paths of levels, against closed forms, quadrature and a transcription."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.core.keys import split_key
from diffusion_jax.testing import oracles
from tests.rows import slow
from tests.transcribed import transcribes

T, N = 4, 5
PLACES = np.arange(T)
LOW, HIGH = -6.0, 4.0
SCHEDULE = dj.CosineSchedule(LOW, HIGH)
GRID = dj.level_grid(SCHEDULE, N, end_clean=False)
CLEAN = jax.tree.map(jnp.append, GRID, dj.clean_level())
STARTS = {
  'together': 0 * PLACES,
  'left to right': N * PLACES,
  'right to left': N * PLACES[::-1],
  'pyramid': 2 * PLACES,
  'blocks': N * (PLACES // 2),
}
COV = 0.8 ** np.abs(PLACES[:, None] - PLACES)
GAUSSIAN = oracles.gaussian(PLACES / T, COV)
NOTHING, ALL = np.exp(LOW), np.exp(HIGH)


def path_of(levels, starts):
  """Returns the staggered path, with its end repeated: one shape, and one program, for all."""
  path = dj.staggered(levels, starts)
  more = ((0, N * T + 1 - len(path.t)), (0, 0), (0, 0))
  return jax.tree.map(lambda a: jnp.pad(a, more, 'edge'), path)


def information(cov, snr):
  """Returns I(x_0; x_t) of Gaussians in nats."""
  return 0.5 * np.linalg.slogdet(np.eye(len(cov)) + snr * cov)[1]


def between(cov):
  return information(cov, ALL) - information(cov, NOTHING)


@functools.partial(jax.jit, static_argnames=('denoise', 'schedule', 'num_times'))
def bound(key, denoise, levels, x0, num_times=1, schedule=SCHEDULE):
  return dj.path_bound(key, denoise, schedule, levels, x0, num_times=num_times)


def mean(values):
  values = np.asarray(values, np.float64)
  return values.mean(), 4.5 * values.std() / len(values) ** 0.5


# -- the equation ---------------------------------------------------------------


@transcribes(
  'VDM (Kingma et al. 2021)',
  '15, 17: in continuous time, a level for each element',
  '`path_bound`',
)
@pytest.mark.parametrize('name', STARTS)
def test_a_draw_literally(name, key):
  """1/2 sum_i snr_i'(u) |x_0,i - x0_hat_i|^2 with slopes by differences, in float64."""
  batch, times = 6, 3
  keys = jax.random.split(key, batch)
  x0 = np.random.default_rng(0).normal(size=(batch, T))
  levels = path_of(GRID, STARTS[name])
  denoise = lambda x, level: dj.Prediction(0.5 * x + 0.1 * jnp.roll(x, 1, axis=1))
  found = bound(keys, denoise, levels, jnp.float32(x0), times)
  u_keys, eps_keys = split_key(keys, 2)
  u = np.asarray(jax.vmap(jax.random.uniform)(u_keys), np.float64)
  rate = np.log1p((np.asarray(levels.alpha, np.float64) / levels.sigma)[:, 0] ** 2)
  ends = np.r_[0.0, np.cumsum(np.diff(rate, axis=0).sum(axis=1))]

  def snr(u):
    return np.stack([np.expm1(np.interp(u * ends[-1], ends, r)) for r in rate.T], axis=1)

  total = 0.0
  for i in range(times):
    at = (i + 1.0 - u) / times
    draw = lambda k, i=i: jax.random.normal(jax.random.fold_in(k, i), (T,))
    eps = np.asarray(jax.vmap(draw)(eps_keys), np.float64)
    alpha, sigma = np.sqrt(snr(at) / (1.0 + snr(at))), np.sqrt(1.0 / (1.0 + snr(at)))
    xt = alpha * x0 + sigma * eps
    square = (x0 - 0.5 * xt - 0.1 * np.roll(xt, 1, axis=1)) ** 2
    slope = (snr(at + 1e-7) - snr(at - 1e-7)) / 2e-7
    # Of mean 0: the noise in the errors of the denoiser of N(0, 1), whose estimate is alpha x_t.
    noise = (alpha * sigma) ** 2 * (eps**2 - 1.0)
    total = total + 0.5 * np.sum(slope * (square - noise), axis=1) / times
  assert_allclose(found, total, rtol=2e-4)


# -- the exact denoiser has one value on all paths --------------------------------

SCHEDULES = {
  'cosine': SCHEDULE,
  've': dj.GeometricVESchedule(np.exp(-HIGH / 2), np.exp(-LOW / 2)),
  'steps': dj.DiscreteSchedule.from_betas(dj.linear_betas(20, 0.02, 0.4)),
  'learned': dj.LearnedSchedule(1.0, lambda p, t: p * (10.0 * t - 4.0)),
}
BATCH = 4096


@pytest.mark.parametrize(
  'schedule, name',
  [
    *(('cosine', name) for name in STARTS),
    ('steps', 'pyramid'),
    slow('ve', 'pyramid'),
    slow('learned', 'pyramid'),
  ],
)
def test_the_exact_denoiser_of_a_gaussian_has_the_information_of_the_ends(schedule, name, key):
  """I-MMSE: 1/2 log det(1 + snr C) at the last noisy level less that at the first."""
  data_key, key = jax.random.split(key)
  levels = dj.level_grid(SCHEDULES[schedule], N, end_clean=False, t_end=0.05)
  x0 = GAUSSIAN.sample(data_key, BATCH)
  path = path_of(levels, STARTS[name])
  nats = bound(key, GAUSSIAN.denoise, path, x0, 4, SCHEDULES[schedule])
  ends = [information(COV, float(x)) for x in levels.snr[np.array([0, -1])]]
  value, error = mean(nats)
  assert abs(value - (ends[1] - ends[0])) < error < 0.06 * ends[1]


MIXTURE = oracles.mixture(
  [0.3, 0.7], [[-1.0, 0.8], [0.7, -0.6]], [[[0.1, 0.05], [0.05, 0.2]], [[0.2, -0.1], [-0.1, 0.1]]]
)


def entropy(alpha, sigma):
  """Returns h(x_t) of MIXTURE in nats, by quadrature in float64."""
  weights, means, covs = oracles.moments(MIXTURE)
  side = np.linspace(-12.0, 12.0, 1201)
  x = np.stack(np.meshgrid(side, side), axis=-1)
  density = 0.0
  for w, m, c in zip(weights, means, covs, strict=True):
    c = alpha**2 * c + sigma**2 * np.eye(2)
    apart = x - alpha * m
    square = np.einsum('...i,ij,...j', apart, np.linalg.inv(c), apart)
    density = density + w * np.exp(-0.5 * square) / (2.0 * np.pi * np.linalg.det(c) ** 0.5)
  log = np.log(np.maximum(density, 1e-300))
  return -np.sum(density * log) * (side[1] - side[0]) ** 2


@pytest.mark.parametrize('starts', [(0, 0), (0, N), (N, 0), (0, 2)])
def test_the_exact_denoiser_of_a_mixture_has_the_information_of_the_ends(starts, key):
  data_key, key = jax.random.split(key)
  x0 = MIXTURE.sample(data_key, BATCH)
  nats = bound(key, MIXTURE.denoise, path_of(GRID, starts), x0, 4)
  informations = []
  for logsnr in (LOW, HIGH):
    alpha, sigma = (1.0 + np.exp(-logsnr)) ** -0.5, (1.0 + np.exp(logsnr)) ** -0.5
    noise = np.log(2.0 * np.pi * np.e * sigma**2)
    informations.append(entropy(alpha, sigma) - noise)
  value, error = mean(nats)
  assert abs(value - (informations[1] - informations[0])) < error < 0.06 * informations[1]


@pytest.mark.parametrize('law', [GAUSSIAN, MIXTURE])
@pytest.mark.parametrize('name', ['left to right', 'right to left', 'pyramid'])
def test_orders_of_an_exact_denoiser_differ_by_nothing(law, name, key):
  data_key, key = jax.random.split(key)
  d = law.means.shape[1]
  x0 = law.sample(data_key, BATCH)
  each = [
    np.asarray(bound(key, law.denoise, path_of(GRID, starts), x0, 4), np.float64)
    for starts in (STARTS[name][:d] - STARTS[name][:d].min(), STARTS['together'][:d])
  ]
  gap, error = mean(each[0] - each[1])
  assert abs(gap) < error < 0.06 * each[1].mean()


def test_a_denoiser_that_contradicts_itself_has_the_gap_of_its_laws(key):
  """It knows that numbers depend on each other only where one of them is at the end."""
  alone = oracles.gaussian(GAUSSIAN.means[0], np.diag(np.diag(COV)))
  last = np.asarray(GRID.alpha[-1])

  def denoise(x, level):
    is_at_end = jnp.any(level.alpha > 0.999 * last, axis=1)[:, None]
    return dj.Prediction(
      jnp.where(is_at_end, GAUSSIAN.denoise(x, level).x0, alone.denoise(x, level).x0)
    )

  data_key, key = jax.random.split(key)
  x0 = GAUSSIAN.sample(data_key, BATCH)
  ends = GRID.take(np.array([0, -1]))
  each = {
    n: np.asarray(bound(key, denoise, dj.staggered(ends, s), x0, 2 * T), np.float64)
    for n, s in (('order', PLACES), ('together', 0 * PLACES))
  }
  gap, error = mean(each['order'] - each['together'])
  # The first number moves while the others are at noise, where they say next to nothing.
  expected = between(COV) - between(np.diag(np.diag(COV)))
  assert expected < -1.4 and abs(gap - expected) < error + 0.02 < 0.25


# -- what a grid says --------------------------------------------------------------


def test_a_path_to_clean_data_ends_at_the_last_noisy_level(key):
  x0 = GAUSSIAN.sample(key, 8)
  noisy, clean = (dj.staggered(x, STARTS['pyramid']) for x in (GRID, CLEAN))
  found = bound(key, GAUSSIAN.denoise, clean, x0)
  assert_allclose(found, bound(key, GAUSSIAN.denoise, noisy, x0), rtol=1e-5)


@pytest.mark.parametrize('held, cov', [(-np.inf, 'given'), (np.inf, 'integrated out')])
def test_what_is_held_is_given_or_integrated_out(held, cov, key):
  """The path of the others has the information of their conditional or marginal law."""
  free = COV[1:, 1:]
  if cov == 'given':
    free = free - np.outer(COV[0, 1:], COV[0, 1:]) / COV[0, 0]
  data_key, key = jax.random.split(key)
  x0 = GAUSSIAN.sample(data_key, BATCH)
  levels = path_of(CLEAN, [held, *STARTS['pyramid'][:-1]])
  value, error = mean(bound(key, GAUSSIAN.denoise, levels, x0, 4))
  # At the first level a number says a little of itself.
  slack = 0.0 if cov == 'given' else 2.0 * NOTHING
  assert abs(value - between(free)) < error + slack < 0.2


def test_the_path_passes_the_levels_and_holds_exactly():
  """The denoiser gets levels of the schedule, and the grid's own where an element waits."""
  seen = []

  def denoise(x, level):
    jax.debug.callback(lambda *level: seen.append(level), *level)
    return dj.Prediction(x)

  x0 = jnp.ones((64, T))
  levels = dj.staggered(CLEAN, [-np.inf, 0, N + 1, np.inf])
  jax.block_until_ready(bound(jax.random.key(0), denoise, levels, x0, 8))
  jax.effects_barrier()
  t, alpha, sigma = (np.concatenate(field) for field in zip(*seen, strict=True))
  assert alpha.shape == (8 * 64, T)
  assert (sigma[:, 0] == 0.0).all() and (sigma[:, 3] == GRID.sigma[0]).all()
  moving = alpha[:, 2] != np.float32(GRID.alpha[0])
  assert (alpha[moving, 1] == np.float32(GRID.alpha[-1])).all() and 0.3 < moving.mean() < 0.7
  assert_allclose(alpha, np.where(sigma == 0.0, 1.0, SCHEDULE(t).alpha), rtol=1e-4)


def test_features_belong_to_their_element(key):
  """x_0 [B, T, D] with a level for each element is [B, T D] with levels that repeat."""
  x0 = jax.random.normal(key, (5, T, 3))
  denoise = lambda x, level: dj.Prediction(0.3 * x)
  levels = dj.staggered(GRID, STARTS['pyramid'])
  repeated = jax.tree.map(lambda a: jnp.repeat(a, 3, axis=2), levels)
  keys = jax.random.split(key, 5)
  found = bound(keys, denoise, levels, x0, 2)
  assert_allclose(found, bound(keys, denoise, repeated, x0.reshape(5, -1), 2), rtol=1e-5)


def test_an_example_depends_on_its_key_and_levels_alone(key):
  keys, x0 = jax.random.split(key, 4), GAUSSIAN.sample(key, 4)
  orders = [dj.staggered(GRID, s) for s in (STARTS['left to right'], STARTS['right to left'])]
  two = jax.tree.map(lambda a, b: jnp.concatenate([a, a, b, b], axis=1), *orders)
  both = bound(keys, GAUSSIAN.denoise, two, x0, 2)
  for i in range(4):
    one = bound(keys[i : i + 1], GAUSSIAN.denoise, orders[i // 2], x0[i : i + 1], 2)
    assert_allclose(both[i], one[0], rtol=1e-4)
  each = jax.vmap(lambda k, x: bound(k[None], GAUSSIAN.denoise, orders[0], x[None], 2)[0])
  assert_allclose(each(keys[:2], x0[:2]), both[:2], rtol=1e-4)
  with pytest.raises(ValueError, match='keys for a batch of'):
    dj.path_bound(keys[:2], GAUSSIAN.denoise, SCHEDULE, GRID, x0)
  one_key = bound(key, GAUSSIAN.denoise, orders[0], x0)
  assert_array_equal(one_key, bound(keys, GAUSSIAN.denoise, orders[0], x0))


def test_times_of_an_example_are_spread_evenly(key):
  """T of them, where T elements move one after another, are one for each element."""
  seen = []

  def denoise(x, level):
    jax.debug.callback(seen.append, level.alpha)
    return dj.Prediction(x)

  ends = GRID.take(np.array([0, -1]))
  jax.block_until_ready(bound(key, denoise, dj.staggered(ends, PLACES), jnp.ones((64, T)), T))
  jax.effects_barrier()
  alpha = np.stack(seen)
  moves = (alpha > 1.0001 * ends.alpha[0]) & (alpha < 0.9999 * ends.alpha[1])
  assert alpha.shape == (T, 64, T) and (moves.sum(axis=0) <= 1).all()
  assert moves.sum() > 0.95 * 64 * T


def test_slopes_are_those_of_the_value(key):
  x0 = GAUSSIAN.sample(key, 4)
  levels = dj.staggered(dj.level_grid(dj.RectifiedFlowSchedule(), N), [-np.inf, 0, 2, np.inf])

  @jax.jit
  def total(scale, x0):
    denoise = lambda x, level: dj.Prediction(scale * GAUSSIAN.denoise(x, level).x0)
    return jnp.sum(dj.path_bound(key, denoise, dj.RectifiedFlowSchedule(), levels, x0))

  of_scale, of_x0 = jax.grad(total, (0, 1))(0.7, x0)
  step = 1e-2  # The value is a square in the scale, so that the difference is exact.
  assert_allclose(of_scale, (total(0.7 + step, x0) - total(0.7 - step, x0)) / (2 * step), rtol=1e-3)
  assert np.isfinite(of_x0).all() and (np.asarray(of_x0)[:, 1:3] != 0.0).any()


def test_what_is_no_path_is_refused(key):
  x0, denoise = jnp.ones((T, T)), GAUSSIAN.denoise
  call = functools.partial(dj.path_bound, key, denoise, SCHEDULE)
  with pytest.raises(ValueError, match='take 2 steps or more'):
    call(dj.staggered(dj.level_grid(SCHEDULE, 1), PLACES), x0)
  with pytest.raises(ValueError, match='take 2 steps or more'):
    call(GRID.take(slice(1)), x0)
  rising = jax.tree.map(lambda a: a[::-1], GRID)
  with pytest.raises(ValueError, match='a grid falls from its noisiest'):
    call(rising, x0)
  with jax.debug_nans(False):
    of_levels = jax.jit(lambda levels: call(levels, x0))
    assert np.isnan(of_levels(rising)).all()
  alike = jax.tree.map(lambda a: jnp.broadcast_to(a[:, None], (len(a), T)), GRID)
  with pytest.raises(ValueError, match=r'write \[N\+1, B, 1\] or \[N\+1, 1, T\]'):
    call(alike, x0)
