from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.classifier import AttentionPool, NoisyClassifier

TINY = dict(
  num_classes=5,
  channels=8,
  multipliers=(1, 2),
  num_blocks=1,
  attention_resolutions=(4,),
  num_groups=4,
  head_channels=4,
  norm_eps=1.0,  # large enough to be seen
)
X = np.random.default_rng(0).standard_normal((2, 8, 8, 3))
NOISE = np.array([3.0, 700.25])


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


def test_a_label_is_no_input(key):
  cond = {'label': jnp.zeros(2, int)}
  with pytest.raises(ValueError, match=r"has no condition \['label'\]"):
    jax.eval_shape(NoisyClassifier(**TINY).init, key, X, NOISE, cond)
