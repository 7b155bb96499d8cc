"""The U-Net keeps norms and softmax in float32, and knows the places of pixels if asked."""

from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from diffusion_jax.networks.unet import AttentionPool, UNet
from tests.networks.jaxprs import equations
from tests.networks.literal import shapes

ONE_LEVEL = dict(
  channels=4,
  multipliers=(1,),
  num_blocks=1,
  attention_resolutions=(4,),
  num_groups=2,
  num_heads=2,
  scale_shift=True,
)


def test_bfloat16_keeps_norms_and_softmax_in_float32():
  x, noise = jnp.zeros((2, 4, 4, 3)), jnp.array([3.0, 700.0])
  network = UNet(**ONE_LEVEL, dtype=jnp.bfloat16)
  used = {}
  jaxpr = jax.make_jaxpr(network.apply)({'params': shapes(network, 4)}, x, noise)
  for eqn in equations(jaxpr.jaxpr):
    used.setdefault(eqn.primitive.name, set()).add(str(eqn.outvars[0].aval.dtype))
  assert used['rsqrt'] == {'float32'}  # of the norms
  assert used['exp'] == {'float32'}  # of the softmax
  assert 'bfloat16' in used['conv2d'] and 'bfloat16' in used['linear']


def test_places_begin_small(key):
  pool = AttentionPool(3, num_heads=2)
  x = np.random.default_rng(0).standard_normal((1, 8, 8, 64), np.float32)
  init: Any = jax.jit(pool.init)
  places = init(key, x)['params']['places']
  assert places.shape == (65, 64)
  assert_allclose(np.std(places), 1 / 8, rtol=0.1)
