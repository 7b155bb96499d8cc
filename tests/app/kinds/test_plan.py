"""What a plan draws, with a denoiser that is known."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_array_equal

import diffusion_jax as dj
from diffusion_jax.app.kinds.plan import FILM, Plan
from diffusion_jax.testing import oracles


def test_a_film_ends_with_the_samples():
  schedule = dj.RectifiedFlowSchedule()
  data = oracles.gaussian(np.zeros(2), np.eye(2))
  plan = Plan(
    schedule,
    dj.level_grid(schedule, 40),
    dj.ddim(),
    lambda cond, after_guidance=None: data.denoise,
    lambda keys, level: dj.prior_sample(keys, (*keys.shape, 2), level),
  )

  @jax.jit
  def both(keys):
    return plan.from_noise(keys, {}), plan.film(keys, {})

  samples, (x, frames) = both(jax.random.split(jax.random.key(0), 3))
  assert_array_equal(x, samples)
  assert frames.shape[0] == 3 and frames.shape[1] <= FILM[0] + 1
  assert_array_equal(frames[:, -1], x)
  assert jnp.isfinite(frames).all()
