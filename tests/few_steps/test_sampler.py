"""Flow maps as samplers, against the exact ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.core.keys import split_key
from tests.jitted import level_grid
from tests.rows import normal
from tests.sampling.moments import GAUSSIAN
from tests.transcribed import transcribes

SCHEDULE = dj.RectifiedFlowSchedule()


@transcribes('MeanFlow (Geng et al. 2025)', '12: sampling', '`sample_map`')
def test_the_exact_map_is_the_same_in_any_number_of_steps():
  """The exact map is the closed form; without `stochastic` the key does not matter."""
  x = normal(8, 2)
  exact = jax.jit(GAUSSIAN.ode_map)(x, SCHEDULE(jnp.ones(())), dj.clean_level())
  for n in (1, 3):
    levels = level_grid(SCHEDULE, n)
    sample = jax.jit(functools.partial(dj.sample_map, flow_map=GAUSSIAN.flow_map))
    found = sample(jax.random.key(n), levels=levels, x=x)
    assert_allclose(found, exact, atol=2e-6)


@transcribes(
  'Consistency models (Song et al. 2023)',
  'Alg. 1: multistep sampling',
  '`sample_map(…, stochastic=True)`',
)
def test_multistep_consistency_sampling_by_hand(key):
  """Alg. 1, with sigma_min alpha_s / alpha_min in place of sigma_min."""

  def f(xt, level_t, level_s):
    return 0.5 * xt + level_t.sigma

  x = normal(4, 2)
  sample = jax.jit(lambda levels, x: dj.sample_map(key, f, levels, x, stochastic=True))
  for schedule, end in (
    (dj.KarrasSchedule(), 0.002),
    (dj.CosineSchedule(-4.0, 2.0), np.sqrt(1 / (1 + np.exp(2.0)))),
  ):
    levels = level_grid(schedule, 3, end_clean=False)
    sigma = np.asarray(levels.sigma, np.float64)
    alpha = np.asarray(levels.alpha, np.float64)
    assert_allclose(sigma[-1], end, rtol=1e-5)
    expected = np.asarray(x, np.float64)
    for i, step_key in enumerate(split_key(key, 3)):
      expected = 0.5 * expected + sigma[i]
      if i < 2:
        z = np.asarray(jax.random.normal(step_key, x.shape), np.float64)
        ratio = alpha[i + 1] / alpha[-1]
        noise = np.sqrt(sigma[i + 1] ** 2 - (ratio * sigma[-1]) ** 2)
        expected = ratio * expected + noise * z
    assert_allclose(sample(levels, x), expected, rtol=1e-5)


def test_a_grid_whose_last_call_would_do_nothing_is_refused(key):
  """EDM's level_grid reaches sigma_min at t = 0 and then clean data."""
  schedule, x = dj.KarrasSchedule(), jnp.ones((2, 2))
  levels = level_grid(schedule, 2)
  for stochastic in (False, True):

    def run(x, stochastic=stochastic):
      return dj.sample_map(key, GAUSSIAN.flow_map, levels, x, stochastic)

    for sample in (run, jax.jit(run)):
      with pytest.raises(ValueError, match=r'level_grid\(.*end_clean=False\)'):
        sample(x)
  one = level_grid(schedule, 1)
  assert dj.sample_map(key, GAUSSIAN.flow_map, one, x).shape == (2, 2)
