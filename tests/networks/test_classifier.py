from typing import Any

import jax
import numpy as np

from diffusion_jax.networks.unet import AttentionPool


def test_places_begin_small_and_pixels_have_places(key):
  pool = AttentionPool(3, num_heads=2)
  x = np.random.default_rng(0).standard_normal((1, 8, 8, 64), np.float32)
  init: Any = jax.jit(pool.init)
  params = jax.device_get(init(key, x)['params'])
  assert params['places'].shape == (65, 64)
  np.testing.assert_allclose(np.std(params['places']), 1 / 8, rtol=0.1)
  apply = jax.jit(pool.apply)
  out, moved = (
    np.asarray(apply({'params': params}, a)) for a in (x, x[:, ::-1])
  )
  assert np.abs(moved - out).max() > 1e-4
