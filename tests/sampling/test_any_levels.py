"""A denoiser of one schedule, sampled along the levels of another one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from tests.sampling.moments import DDPM, MIXTURE

GRIDS_OF = {
  'karras': dj.KarrasSchedule(0.005, 80.0),
  'geometric_ve': dj.GeometricVESchedule(0.005, 80.0),
  'sub_vp': dj.SubVPSchedule(),
  'flow': dj.RectifiedFlowSchedule(),
  'cosine': dj.CosineSchedule(),
}


def on_its_own_levels(x, level):
  """The exact denoiser on the levels of DDPM's chain, NaN elsewhere."""
  # Times within 1e-3 of a step count as the step, also step 0.
  strange = jnp.abs(DDPM(level.t).sigma - level.sigma) > 5e-4
  x0 = MIXTURE.denoise(x, level).x0
  return dj.Prediction(jnp.where(strange, jnp.nan, x0))


@pytest.mark.parametrize(
  'name',
  [
    'karras',
    'sub_vp',
    'flow',
    pytest.param('geometric_ve', marks=pytest.mark.slow),
    pytest.param('cosine', marks=pytest.mark.slow),
  ],
)
def test_the_images_are_those_of_its_own_levels(name):
  """The same latent at the same SNR gives the same images: the ODE is one."""
  schedule = GRIDS_OF[name]

  def sample(denoise, schedule, start, x):
    levels = dj.level_grid(schedule, 128, 'karras', t_start=start.t)
    return dj.sample(jax.random.key(1), denoise, dj.heun(), levels, x)

  @jax.jit
  def both(z):
    first = schedule.from_logsnr(-2.0 * jnp.log(60.0))  # Both have this SNR.
    own = DDPM.from_logsnr(first.logsnr)
    denoise = dj.at_training_levels(on_its_own_levels, DDPM)
    found = sample(denoise, schedule, first, first.sigma * z)
    x = own.alpha / first.alpha * first.sigma * z
    return found, sample(on_its_own_levels, DDPM, own, x)

  found, expected = both(jax.random.normal(jax.random.key(0), (32, 2)))
  np.testing.assert_allclose(found, expected, atol=5e-3)
