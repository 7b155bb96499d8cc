"""Inpainting of Gaussians, whose conditionals are known, and of counters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from tests.jitted import level_at, level_grid
from tests.rows import normal
from tests.sampling import chains
from tests.sampling.moments import assert_own_keys, counted_calls, jit_long
from tests.transcribed import transcribes

SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
LEVELS = level_grid(SCHEDULE, 20)
CORRELATED = oracles.gaussian([0.0, 0.0], [[1.0, 0.9], [0.9, 1.0]])
MASK = np.array([[True, False]])
METHODS = {
  'replace': (dj.replace_known, lambda levels: levels),
  'repaint': (dj.repaint, lambda levels: dj.repaint_levels(levels, 3, 4)),
}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def resampled(num_steps, *resampling):
  return dj.repaint_levels(dj.level_grid(SCHEDULE, num_steps), *resampling)


@transcribes(
  'RePaint (Lugmayr et al. 2022)',
  'its sequence of levels: 2,410 steps down, 2,160 up',
  '`repaint_levels`',
)
@pytest.mark.parametrize(
  'steps, jump, n, down, up',
  [
    (250, 10, 10, 2410, 2160),
    (20, 4, 3, 52, 32),
    (7, 1, 5, 31, 24),
    (23, 5, 2, 43, 20),
    (9, 3, 1, 9, 0),
    (10, 4, 3, 26, 16),
  ],
)
def test_the_grid_of_repaint_is_that_of_the_released_code(steps, jump, n, down, up):
  levels = jax.device_get(resampled(steps, n, jump))
  times = chains.times(steps, jump, n)
  # Their time -1 is clean data, the last entry of our grid.
  t = (1.0 + times) / steps
  assert_allclose(levels.t, t, rtol=1e-6, atol=0.0)
  change = np.diff(levels.t)
  assert ((change < 0).sum(), (change > 0).sum()) == (down, up)
  assert levels.sigma[-1] == 0.0


@transcribes('RePaint (Lugmayr et al. 2022)', 'Alg. 1')
def test_only_steps_down_call_the_network():
  levels = resampled(10, 3, 4)
  sampler = dj.repaint(dj.ddim(1.0), jnp.ones((5, 2)), MASK)
  calls = counted_calls(CORRELATED.denoise, sampler, levels, (5, 2))
  assert calls == 26


@pytest.mark.parametrize(
  'method, sampler', [('replace', dj.ancestral()), ('replace', dj.heun()), ('repaint', dj.ddim())]
)
def test_known_pixels_come_back_to_the_bit(method, sampler, key):
  wrap, resampling = METHODS[method]
  rng = np.random.default_rng(0)
  known = np.float32(rng.uniform(-1.0, 1.0, (3, 4, 4, 2)) / 3.0)
  mask = rng.uniform(size=(3, 4, 4, 1)) < 0.5

  def denoise(x, level):
    return dj.Prediction(jnp.tanh(x))

  wrapped = wrap(sampler, np.where(mask, known, np.float32(99.0)), mask)
  run = jax.jit(lambda x: dj.sample(key, denoise, wrapped, resampling(LEVELS), x))
  found = np.asarray(run(rng.standard_normal(known.shape, np.float32)))
  mask = np.broadcast_to(mask, known.shape)
  assert (found.view(np.uint32) == known.view(np.uint32))[mask].all()
  assert np.isfinite(found).all()
  assert (found != known)[~mask].all()


def check_noised(dark, bright, level):
  """Known pixels are alpha known + sigma eps, for 0 and 1 in n images."""
  assert_allclose(bright - dark, 0 * dark + level.alpha, atol=1e-5)
  square = np.mean(np.float64(dark) ** 2) / float(level.sigma) ** 2
  assert abs(square - 1.0) * np.sqrt(len(dark) / 2) < 4.5


@transcribes(
  'Score-SDE (Song et al. 2021)',
  'imputation: known pixels are noised again at every level',
  '`replace_known`',
)
def test_known_pixels_are_noised_to_the_level_that_is_reached(key):
  """alpha_s known + sigma_s eps after every step from t to s."""
  levels = level_grid(SCHEDULE, 4)
  n = 20_000

  @jax.jit
  def run(known):
    sampler = dj.replace_known(dj.ddim(), jnp.full((n, 2), known), MASK)
    x = jnp.zeros((n, 2))
    return dj.trajectory(key, CORRELATED.denoise, sampler, levels, x)

  dark, bright = (np.asarray(run(known))[1:, :, 0] for known in (0.0, 1.0))
  for i in range(3):
    check_noised(dark[i], bright[i], jax.device_get(levels).take(i + 1))
  assert not dark[3].any() and (bright[3] == 1.0).all()


def test_repaint_noises_known_pixels_to_the_level_that_is_left(key):
  """The input of the sampler is alpha_t known + sigma_t eps."""
  n = 20_000
  show = dj.Sampler(lambda x: (), lambda key, x, *rest, **levels: (x, ()))
  levels = level_at(SCHEDULE, np.float32([0.5, 0.3]))

  @jax.jit
  def recorded(known):
    sampler = dj.repaint(show, jnp.full((n, 2), known), MASK)
    x = jnp.full((n, 2), 7.0)
    return sampler.step(key, x, (), None, level_s=levels.take(1), level_t=levels.take(0))[0]

  dark, bright = (np.asarray(recorded(known)) for known in (0.0, 1.0))
  check_noised(dark[:, 0], bright[:, 0], jax.device_get(levels).take(0))
  assert (dark[:, 1] == 7.0).all()


NUM_PARTICLES = 10_000


def completed(method, num_steps, *resampling):
  """Returns known x_1, drawn from the marginal, and the x_2 sampled for it."""
  keys = jax.random.split(jax.random.key(2), 2)
  levels = level_grid(SCHEDULE, num_steps)
  truth = np.random.default_rng(1).multivariate_normal([0.0, 0.0], chains.COV, NUM_PARTICLES)
  truth = np.float32(truth)
  sampler, denoise = dj.ancestral(), CORRELATED.denoise
  if method == 'replace':
    sampler = dj.replace_known(sampler, truth, MASK)
  elif method == 'repaint':
    sampler = dj.repaint(sampler, truth, MASK)
    levels = resampled(num_steps, *resampling)
  else:
    denoise = dj.reconstruction_guided(denoise, truth, MASK)

  @jit_long
  def run(keys):
    x = dj.prior_sample(keys[0], truth.shape, levels.take(0))
    return dj.sample(keys[1], denoise, sampler, levels, x)

  return np.asarray(truth)[:, 0], np.asarray(run(keys))[:, 1]


@transcribes(
  'Score-SDE (Song et al. 2021)', 'imputation: known pixels are noised again at every level'
)
@transcribes('RePaint (Lugmayr et al. 2022)', 'Alg. 1', '`repaint`')
@pytest.mark.parametrize('method', [('replace', 50), ('repaint', 50, 4, 5), ('reconstruction', 50)])
def test_the_law_of_what_is_filled_in(method):
  """x_2 depends on x_1 with the slope and the spread of the exact chain."""
  x1, x2 = completed(*method)
  slope, std = chains.law(*method)
  found = np.cov(x1, x2)[0, 1] / np.var(x1)
  assert abs(found - slope) < 5 * std / NUM_PARTICLES**0.5
  rest = np.std(x2 - found * x1)
  assert_allclose(rest, std, rtol=5 / (2 * NUM_PARTICLES) ** 0.5)


def test_a_sampler_forgets_on_the_way_up(key):
  """The state counts steps since the last climb."""

  def step(key, x, state, denoise, *, level_s, level_t):
    return x, state + 1

  counting = dj.Sampler(lambda x: jnp.zeros((), int), step)
  repaint = dj.repaint(counting, np.zeros((1, 2), np.float32), MASK)
  states, x, state = [], np.ones((1, 2), np.float32), np.int32(0)
  levels = jax.device_get(resampled(4, 2, 2))
  step = jax.jit(lambda x, state, **ends: repaint.step(key, x, state, None, **ends))
  for i in range(len(levels.t) - 1):
    ends = {'level_s': levels.take(i + 1), 'level_t': levels.take(i)}
    x, state = step(x, state, **ends)
    states.append(int(state))
  assert states == [1, 2, 3, 0, 0, 1, 2, 3]


@pytest.mark.parametrize(
  'wrap, sampler',
  [(dj.replace_known, dj.dpm_solver_pp_sde()), (dj.repaint, dj.dpm_solver_pp(3))],
)
def test_samplers_with_a_memory_and_keys_per_example(wrap, sampler, key):
  known = np.linspace(-1.0, 1.0, 8, dtype=np.float32).reshape(4, 2)
  levels = resampled(20, 2, 3) if wrap is dj.repaint else LEVELS

  @jax.jit
  def run(keys, known, x):
    return dj.sample(keys, CORRELATED.denoise, wrap(sampler, known, MASK), levels, x)

  x = normal(4, 2)
  keys = jax.random.split(key, 4)
  assert_own_keys(run, keys, known, x, rtol=1e-4, atol=1e-5)
  assert np.abs(run(keys, known, x)[:, 1]).max() < 5.0


@pytest.mark.parametrize(
  'make',
  [
    functools.partial(dj.replace_known, dj.ddim()),
    functools.partial(dj.repaint, dj.ddim()),
    functools.partial(dj.reconstruction_guided, CORRELATED.denoise),
  ],
)
@pytest.mark.parametrize('shape', [(8, 8), (2, 8, 7, 1), (3, 8, 8, 1)])
def test_a_mask_of_another_shape_is_refused(make, shape):
  with pytest.raises(ValueError, match=r'a mask of shape .* does not fit'):
    make(np.zeros((2, 8, 8, 3)), np.ones(shape, bool))
