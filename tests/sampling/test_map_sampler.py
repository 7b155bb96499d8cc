import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.sampling.map_sampler import flow_map_sampler
from diffusion_jax.testing import oracles

SCHEDULE = dj.RectifiedFlowSchedule()
LEVELS = dj.level_grid(SCHEDULE, 3)


def test_steps_of_an_exact_map_compose(key):
  """Three steps of the sampler are the one step from noise to data."""
  gaussian = oracles.gaussian([0.5, -1.0], [[0.4, 0.1], [0.1, 0.2]])
  x = jax.random.normal(key, (5, 2))
  sample = jax.jit(
    lambda x: dj.sample(
      key, gaussian.flow_map, flow_map_sampler(), LEVELS, x, True
    )
  )
  found = sample(x)
  assert found.shape == (4, 5, 2)
  expected = gaussian.flow_map(x, LEVELS.take(0), LEVELS.take(-1))
  np.testing.assert_allclose(found[-1], expected, atol=1e-5)


def test_with_an_end_each_step_adds_noise_to_an_estimate(key):
  """x_s = alpha_s f(x_t) + sigma_s z, and no noise in the last step."""
  f = lambda x, level_t, level_s: jnp.full_like(x, 3.0) + 0.0 * level_t.t
  x = jax.random.normal(key, (20_000, 1))
  sampler = flow_map_sampler(SCHEDULE(0.0))
  found = dj.sample(key, f, sampler, LEVELS, x, True)
  for xs, level in zip(found[1:], map(LEVELS.take, (1, 2, 3)), strict=True):
    np.testing.assert_allclose(np.mean(xs), 3.0 * level.alpha, atol=0.02)
    np.testing.assert_allclose(np.std(xs), level.sigma, atol=0.02)
  np.testing.assert_array_equal(found[-1], 3.0)
