"""The loop of sampling is the transitions one by one, and uses no key twice."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.core.keys import split_key
from diffusion_jax.sampling.sampler import sample_frames, spread_levels
from tests.jitted import at_step, level_grid
from tests.rows import normal
from tests.sampling.moments import DDPM, GAUSSIAN, SAMPLERS, build, draws_noise
from tests.states import PROCESSES, TABLE


def test_prior(key):
  last = at_step(DDPM, 1000)
  schedule = dj.DiscreteSchedule.from_alphas([0.99, 0.98, 0.97])
  lecture = at_step(schedule, 3)
  draw = jax.jit(dj.prior_sample, static_argnums=(1, 3))
  for level, exact, expected in [
    (last, False, 1.0),
    (lecture, False, 1.0),
    (lecture, True, 1 - 0.99 * 0.98 * 0.97),
  ]:
    x = np.asarray(draw(key, (50_000, 2), level, exact))
    assert_allclose(np.var(x), expected, rtol=0.03)


def test_the_loop_is_step_by_step(key):
  """The trajectory has every x, and ends in the sample."""
  levels = level_grid(DDPM, 10)
  x = normal(4, 2)
  sampler = dj.ddim(1.0)

  @jax.jit
  def run(key, x):
    path = dj.trajectory(key, GAUSSIAN.denoise, sampler, levels, x)
    return path, dj.sample(key, GAUSSIAN.denoise, sampler, levels, x)

  path, last = run(key, x)
  assert path.shape == (11, 4, 2)
  assert_array_equal(path[0], x)
  assert_allclose(path[-1], last, rtol=1e-6)
  state = sampler.init(x)
  keys = split_key(key, 10)

  @jax.jit
  def step(i, x, state):
    return sampler.step(
      keys[i], x, state, GAUSSIAN.denoise, level_t=levels.take(i), level_s=levels.take(i + 1)
    )

  for i in range(10):
    x, state = step(i, x, state)
    assert_allclose(path[i + 1], x, atol=1e-5)


def test_frames_are_evenly_spread_states_of_the_trajectory(key):
  """Frames are of the first examples, with both ends; the sample stays what it is."""
  levels = level_grid(DDPM, 10)
  x = normal(4, 2)
  numbers = 1, 4, 25

  @jax.jit
  def run(x):
    sampler = dj.ddim(1.0)
    path = dj.trajectory(key, GAUSSIAN.denoise, sampler, levels, x)
    frames = lambda n: sample_frames(
      key, GAUSSIAN.denoise, sampler, levels, x, num_frames=n, num_examples=3
    )
    return path, [frames(n)[:2] for n in numbers]

  path, found = jax.device_get(run(x))
  for n, (last, frames) in zip(numbers, found, strict=True):
    assert_array_equal(last, path[-1])
    assert_array_equal(frames, path[spread_levels(10, n), :3])
  for n in (1, 2, 4, 10, 11, 25):
    shown = spread_levels(10, n)
    assert len(shown) == min(n, 11) and shown[0] == 0
    if n > 1:
      gaps = np.diff(shown)
      assert shown[-1] == 10 and gaps.min() >= 1 and np.ptp(gaps) <= 1


def test_levels_are_passed_to_a_step_by_name(key):
  """A user's own sampler may declare them in any order."""

  def step(key, x, state, denoise, level_t, level_s):
    return x + (level_t.sigma - level_s.sigma), state

  levels = dj.NoiseLevel(*[np.float32([1.0, 0.5, 0.0])] * 3)
  sampler = dj.Sampler(lambda x: (), step)
  unused = lambda x, level: dj.Prediction(x)
  x = jax.jit(lambda x: dj.sample(key, unused, sampler, levels, x))(np.zeros((1, 2), np.float32))
  assert_allclose(x, 1.0)


MASKING, DDIM = PROCESSES['masking'], dj.ddim(1.0)
IMAGES, STATES = np.ones((2, 3), np.float32), np.full((2, 3), 3)
KNOWN, PAIRS = (IMAGES, IMAGES > 0.0), np.ones((2, 2), np.float32)


def half(x, level):
  return dj.Prediction(0.5 * x)


def drawn(denoise, sampler, x):
  return lambda key: dj.sample(key, denoise, sampler, level_grid(DDPM, 3), x)


def of_states(sampler):
  return drawn(TABLE.denoiser(MASKING), sampler, STATES)


DRAWING = {
  'replace_known': drawn(half, dj.replace_known(DDIM, *KNOWN), IMAGES),
  'repaint': drawn(half, dj.repaint(DDIM, *KNOWN), IMAGES),
  'ancestral_states': of_states(dj.ancestral_states(MASKING)),
  'confidence_ordered': of_states(dj.confidence_ordered(MASKING, 1.0)),
  'remasked': of_states(dj.remasked(dj.ancestral_states(MASKING), MASKING, 0.5)),
  'edit': lambda key: dj.sdedit(key, half, DDIM, level_grid(DDPM, 3), IMAGES, 0.7, repeats=2),
}
DRAWING |= {n: drawn(half, build(n, DDPM), PAIRS) for n in SAMPLERS if draws_noise(n)}


@pytest.mark.parametrize('per_example', [False, True])
@pytest.mark.parametrize('name', DRAWING)
def test_no_key_is_used_twice(name, per_example, key):
  """The keys of a path of noise are clones of one key."""
  keys = jax.random.split(key, 2) if per_example else key
  with jax.debug_key_reuse(True):
    jax.jit(DRAWING[name]).trace(keys)
