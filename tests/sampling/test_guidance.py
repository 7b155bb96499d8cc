import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj

LEVEL = dj.LinearVPSchedule()(jnp.array(0.5))


def test_clip_denoised_clips_x0_and_nothing_else():
  def denoise(xt, level):
    return dj.Prediction(2.0 * xt, xt)

  x = jnp.array([[-2.0, -0.3, 0.4, 3.0]])
  found = dj.clip_denoised(denoise)(x, LEVEL)
  np.testing.assert_allclose(found.x0, [[-1.0, -0.6, 0.8, 1.0]])
  np.testing.assert_array_equal(found.var_frac, x)
  narrow = dj.clip_denoised(denoise, 0.0, 0.5)(x, LEVEL)
  np.testing.assert_allclose(narrow.x0, [[0.0, 0.0, 0.5, 0.5]])
