"""Every sampler: its order, its moments, its ends, its calls and its keys."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.declared import declared_by
from diffusion_jax.sampling.solvers import heun_deviation
from diffusion_jax.testing import oracles
from tests.jitted import level_grid
from tests.rows import normal, slow
from tests.sampling import moments
from tests.sampling.moments import DDPM
from tests.transcribed import transcribes

# Measured by the slow tests only: tests/papers compares the steps of every order.
LOWER = *moments.LOWER, 'dpm_solver_pp_2', 'unipc_2'


def order_of(name):
  """Returns the order that a sampler of the table declares; None of those without one."""
  make = moments.EVERY_ORDER[name]
  said = declared_by(make).order
  return said[make.keywords['order']] if isinstance(said, Mapping) else said


ORDERS = {n: order_of(n) for n in moments.EVERY_ORDER if order_of(n) is not None}
VE = dj.GeometricVESchedule(1e-3, 1e10)
PATHS = {'ve': VE, 'vp': dj.CosineSchedule(-30.0, 30.0), 'flow': dj.RectifiedFlowSchedule()}
STEPS = (160, 320, 640)


def exact_clusters():
  """Returns the oracle in float64."""
  return oracles.mixture(*moments.CLUSTERS, np.float64)


@functools.cache
def uneven_grid(path, num_steps):
  """Returns shrinking steps from lambda = -10 to 1, padded to STEPS[-1]."""
  u = np.append(np.linspace(0.0, 1.0, num_steps + 1), np.ones(STEPS[-1]))
  u = u[: STEPS[-1] + 1]
  return jax.device_get(PATHS[path].from_logsnr(-20.0 + 22.0 * (u + 0.25 * u * (1.0 - u))))


@jax.jit
def flow_map(x, level_t, level_s):
  return exact_clusters().flow_map(x, level_t, level_s, rtol=1e-12, atol=1e-13)


@functools.cache
def ends_of(path):
  """Returns noise and where the ODE takes it, for all solvers."""
  levels = uneven_grid(path, STEPS[-1])
  x = np.random.default_rng(0).standard_normal((16, 2))
  x *= np.hypot(levels.alpha[0], levels.sigma[0])
  return x, np.asarray(flow_map(x, levels.take(0), levels.take(-1)))


@functools.partial(jax.jit, static_argnums=0)
def solved(name, schedule, levels, num_steps, x):
  """Returns x after num_steps."""
  denoise, key = exact_clusters().denoise, jax.random.key(0)
  sampler = moments.build(name, schedule)

  def body(i, carry):
    return sampler.step(
      key, carry[0], carry[1], denoise, level_s=levels.take(i + 1), level_t=levels.take(i)
    )

  return jax.lax.fori_loop(0, num_steps, body, (x, sampler.init(x)))[0]


@transcribes('all solvers', "order of convergence to the ODE's closed-form map")
@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('name', [slow(n) if n in LOWER else n for n in ORDERS])
def test_observed_order_of_convergence(name, path):
  """The error falls with the order if steps are halved twice."""
  with jax.enable_x64(True):
    schedule = moments.one_of(path, PATHS) if moments.needs_schedule(name) else None
    x, truth = ends_of(path)
    found = [np.asarray(solved(name, schedule, uneven_grid(path, n), n, x)) for n in STEPS]
  errors = [np.abs(x - truth).max() for x in found]
  found = np.log2(errors[:-1]) - np.log2(errors[1:])
  # The first steps of lms_4, of order 1 to 3, still cost something.
  atol = 0.15 if name == 'lms_4' else 0.1
  assert_allclose(found, np.full(2, ORDERS[name]), atol=atol)


@pytest.mark.parametrize('name', moments.TABLE)
def test_a_sampler_of_the_table_says_its_order_or_draws_noise(name):
  """Else it has no test of its order; one to a tolerance says no calls either."""
  said = declared_by(moments.TABLE[name])
  assert said.what and (said.order is not None) + said.draws_noise == bool(said.calls)


def in_pairs(denoise):
  """Denoises x [B, 2n], n independent pairs: norms are over 2n numbers."""

  def denoise_pairs(x, level):
    x0 = denoise(x.reshape(-1, 2), level).x0
    return dj.Prediction(x0.reshape(x.shape))

  return denoise_pairs


# Those with a path of noise are slow, and of second order.
STEPS_OF = {'annealed_langevin': 40, 'dpm_solver_pp_2s_sde': 30, 'brownian_sde': 50}
# The error of the steps, in addition to 5 Monte-Carlo errors.
BIAS = {'ancestral': 0.05, 'ddim_1': 0.05, 'annealed_langevin': 0.08}
# tests/papers has the steps of all samplers against their formulas, and the
# errors of those without noise fall with their order to 0.
FAST = 'ancestral', 'dpm_solver_pp_3m_sde'


@pytest.mark.parametrize(
  'name',
  [n if n in FAST else slow(n) for n in moments.SAMPLERS],
)
def test_mean_and_covariance_of_a_mixture(name, key):
  """Moments agree within 5 standard errors and an error of the steps."""
  mixture, n = moments.MIXTURE, 4096
  levels = level_grid(DDPM, STEPS_OF.get(name, 200))
  x = normal(n // 64, 128)
  denoise, sampler = in_pairs(mixture.denoise), moments.build(name, DDPM)
  x = moments.jit_long(lambda x: dj.sample(key, denoise, sampler, levels, x))(x)
  x, cov, atol = np.asarray(x).reshape(n, 2), np.asarray(mixture.cov), BIAS.get(name, 0.02)
  mean_error = 5 * np.sqrt(np.diag(cov) / n)
  assert (np.abs(x.mean(0) - mixture.mean) < mean_error + atol).all()
  # Fourth moments are Gaussian up to a factor.
  cov_error = 5 * np.sqrt(1.5 / n * (np.outer(np.diag(cov), np.diag(cov)) + cov**2))
  assert (np.abs(np.cov(x.T) - cov) < cov_error + atol).all()


class Flow:
  """A user's own schedule, from alpha = 0 to clean data."""

  def __call__(self, t):
    return dj.NoiseLevel(t, 1.0 - t, t)

  def from_logsnr(self, logsnr):
    return self(jax.nn.sigmoid(-0.5 * logsnr))


FLOW = Flow()
# Others take the same steps, of another order or with another constant, and
# tests/sampling/test_likelihood.py has adaptive_ode, whose program is large.
DEAR = (
  'adaptive_ode', 'unipc_3', 'dpm_solver_pp_2', 'dpm_solver_pp_2s_sde', 'dpm_solver_pp_sde',
  'ancestral_large', 'ancestral_2s', 'ddim_half', 'ddim_1', 'brownian_sde',
  'churned_heun', 'corrected_ddim',
)  # fmt: skip
EVERY = [slow(n) if n in DEAR else n for n in moments.SAMPLERS]
FINITE = [row for row in EVERY if row != 'euler_maruyama']


def network(scale, x, level):
  """A small denoiser that is not affine and compiles quickly."""
  level = level.expand_to(x)
  gain = level.alpha / (level.alpha**2 + level.sigma**2)
  return dj.Prediction(scale * jnp.tanh(x) * gain + 0.5)


denoise = functools.partial(network, 1.0)


CALLED = {n: declared_by(make).calls for n, make in moments.EVERY_ORDER.items()}
# dpm_solver_pp_2s has the same step, and lower orders.
AS_OTHERS = *LOWER, 'dpm_solver_pp_2s_sde'


@pytest.mark.parametrize('name', [slow(n) if n in AS_OTHERS else n for n in CALLED if CALLED[n]])
def test_calls_of_the_network_are_those_that_a_sampler_declares(name):
  schedule, n = dj.CosineSchedule(), 7
  levels = level_grid(schedule, n)
  given = moments.PARAMETERS.get(name, {}) | {'N': n}
  found = moments.counted_calls(denoise, moments.build(name, schedule), levels)
  assert found == eval(CALLED[name], {}, given)


def test_a_corrector_calls_the_network_at_each_step():
  levels = level_grid(dj.CosineSchedule(), 7)
  assert moments.counted_calls(denoise, moments.build('corrected_ddim'), levels) == 14


def test_heun_is_euler_where_there_is_no_signal():
  levels = jax.jit(FLOW)(np.linspace(1.0, 0.0, 8, dtype=np.float32))
  for sampler, calls in ((dj.heun(), 12), (dj.velocity_heun(FLOW), 13)):
    assert moments.counted_calls(denoise, sampler, levels) == calls


# Grids of 8 steps, which visit 4 different noisy levels, or one.
ONE_STEP = {'one_step': dj.DiscreteSchedule.from_alphas([0.3])}
PROCESSES = {n: moments.SCHEDULES[n] for n in ('linear', 'sub_vp', 'karras', 'flow')} | ONE_STEP
REPEATED = np.array([0, 0, 1, 1, 1, 2, 3, 4, 4])
ONCE = np.array([0, 1, 2, 3, 4, 4, 4, 4, 4])


@functools.cache
def eight_steps(name):
  """Returns x at the levels [9, B], and the gradients of the last one's sum."""

  @jax.jit
  def run(number, keys, x, levels):
    sampler = moments.build(name, moments.OneOf(number, (*PROCESSES.values(),)))

    def loss(scale, x):
      predict = functools.partial(network, scale)
      xs = dj.trajectory(keys, predict, sampler, levels, x)
      return jnp.sum(xs[-1] ** 2), xs

    slopes, xs = jax.grad(loss, argnums=(0, 1), has_aux=True)(1.0, x)
    return xs, slopes

  def of(levels, schedule='flow', keys=KEYS, x=X):
    if not isinstance(levels, dj.NoiseLevel):
      levels = FLOW(np.float32(levels))
    number = [*PROCESSES].index(schedule)
    return jax.device_get(run(number, keys, x, levels))

  return of


KEYS = jax.random.split(jax.random.key(0), 3)
X = normal(3, 2, seed=1)


@pytest.mark.parametrize('name', FINITE)
def test_samples_from_pure_noise_and_their_gradients_are_finite(name):
  xs, slopes = eight_steps(name)(np.linspace(np.ones(3), np.zeros(3), 9))
  for array in (xs, *slopes):
    assert np.isfinite(array).all()
  assert slopes[0] != 0.0


@pytest.mark.parametrize('name', EVERY)
def test_an_example_has_its_own_levels_and_key(name):
  """A row of a batch with levels and keys [B] equals a row of copies."""
  first = 0.9 if name == 'euler_maruyama' else 1.0
  times, run = np.linspace([first, 0.5, 0.2], [0.7, 0.1, 0.0], 9), eight_steps(name)
  batch = run(times)[0][-1]
  for i in range(3):
    copies = np.full(3, i)
    alone = run(times[:, copies], keys=KEYS[copies], x=X[copies])[0][-1]
    assert_allclose(alone, batch[copies], atol=1e-5)
  other = run(times, keys=KEYS[np.array([0, 0, 2])])[0][-1]
  changed = np.abs(other - batch).max(axis=1) > 1e-4
  assert changed.tolist() == [False, moments.draws_noise(name), False]


@pytest.mark.parametrize('name', FINITE)
def test_a_single_step_from_pure_noise_returns_x0(name):
  times = np.eye(9, 1) * np.ones(3)
  with jax.debug_nans(False):  # The other steps stay at sigma = 0.
    first = eight_steps(name)(times)[0][1]
  assert np.isfinite(first).all()
  # The first two move x, and the third takes more steps of the ODE.
  if name not in ('annealed_langevin', 'corrected_ddim', 'adaptive_ode'):
    expected = X if name == 'reverse_diffusion' else 0.5  # 2 x - eps
    assert_allclose(first - expected, 0.0, atol=1e-6)


@functools.cache
def repeated_levels(schedule):
  """Returns levels [9, 3] with repetitions, also up to rounding, and without."""
  spacing = {'one_step': 'karras', 'flow': 'uniform'}.get(schedule, 'logsnr')
  start = 0.9 if schedule == 'flow' else 1.0  # euler_maruyama
  grid = jax.device_get(level_grid(PROCESSES[schedule], 4, spacing, t_start=start))
  levels, once = (
    dj.NoiseLevel(*(np.repeat(a[rows, None], 3, axis=1) for a in grid)) for rows in (REPEATED, ONCE)
  )
  rounded = np.where(REPEATED == np.roll(REPEATED, 1), 1e-6, 0.0)
  rounded *= [1, 1, 1, -1, 1, 1, 1, 1, 1]
  return levels._replace(alpha=levels.alpha * np.float32(1.0 - rounded[:, None])), once


@pytest.mark.parametrize('name', EVERY)
def test_a_step_between_equal_levels_leaves_x_unchanged(name):
  """Levels are repeated, also up to rounding; the solvers do not notice."""
  for schedule in PROCESSES:
    levels, once = repeated_levels(schedule)
    x = X * np.hypot(levels.alpha[0, 0], levels.sigma[0, 0])
    with jax.debug_nans(False):
      xs = eight_steps(name)(levels, schedule, x=x)[0]
      assert np.isfinite(xs).all(), schedule
      assert_array_equal(xs[[1, 3, 4, 8]], xs[[0, 2, 2, 7]])
      if not moments.draws_noise(name):
        last = eight_steps(name)(once, schedule, x=x)[0][-1]
        assert_allclose(xs[-1], last, atol=1e-3)


def test_one_compilation_for_all_levels_and_keys():
  traces = []

  @functools.partial(jax.jit, static_argnums=0)
  def run(name, key, levels, x):
    traces.append(name)
    sampler = moments.build(name, DDPM)
    return dj.sample(key, denoise, sampler, levels, x)

  names = 'ancestral', 'heun', 'unipc_2', 'churned_heun'
  for name in names:
    for seed, schedule in enumerate((DDPM, VE)):
      levels = level_grid(schedule, 5)
      x = np.full((2, 2), 1.0 + seed, np.float32)
      run.trace(name, jax.random.key(seed), levels, x)
  assert traces == list(names)


@jax.jit
def wide_by_heun(levels, x):
  """Returns x of white data at the last level, by the exact denoiser."""

  def denoise(x, level):
    level = level.expand_to(x)
    return dj.Prediction(level.alpha * x / (level.alpha**2 + level.sigma**2))

  return dj.sample(jax.random.key(0), denoise, dj.heun(), levels, x)


@pytest.mark.parametrize(
  'schedule', [dj.CosineSchedule(), dj.KarrasSchedule(), dj.RectifiedFlowSchedule(), DDPM]
)
@pytest.mark.parametrize('num_steps, end_clean', [(1, False), (2, True), (4, False), (30, True)])
def test_heun_makes_normal_data_as_wide_as_it_says(schedule, num_steps, end_clean):
  """Against its own steps with the exact denoiser, also from alpha = 0 and to sigma = 0."""
  levels = level_grid(schedule, num_steps, end_clean=end_clean)
  levels = jax.device_get(levels)
  start, end = (levels.take(i) for i in (0, -1))
  width = lambda level: np.hypot(level.alpha, level.sigma)
  found = np.asarray(wide_by_heun(levels, np.float32([[width(start)]])))
  assert_allclose(heun_deviation(levels), found[0, 0] / width(end), rtol=2e-3, atol=1e-6)


def test_the_width_of_a_staggered_grid_is_that_of_its_worst_element():
  """Each element visits the same levels, but for one that stays."""
  levels = jax.device_get(level_grid(dj.CosineSchedule(), 5))
  grid = jax.device_get(dj.staggered(levels, [0, 3, -np.inf]))
  assert_allclose(heun_deviation(grid), heun_deviation(levels), rtol=1e-12)
