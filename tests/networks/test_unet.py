"""The U-Net keeps norms and softmax in float32, and knows the places of pixels if asked."""

from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from diffusion_jax.networks.unet import AttentionPool, UNet
from tests.networks.jaxprs import equations
from tests.networks.literal import randomised, shapes

ONE_LEVEL = dict(
  channels=4,
  multipliers=(1,),
  num_blocks=1,
  attention_resolutions=(4,),
  num_groups=2,
  num_heads=2,
  scale_shift=True,
)


def test_bfloat16_keeps_parameters_norms_and_softmax_in_float32(rng):
  x = rng.standard_normal((2, 4, 4, 3), np.float32)
  noise = jnp.array([3.0, 700.0])
  options = ONE_LEVEL | dict(attention_resolutions=(), middle_attention='none')
  full, half = UNet(**options), UNet(**options, dtype=jnp.bfloat16)
  abstract = shapes(half, 4)
  for leaf in jax.tree.leaves(abstract):
    assert leaf.dtype == jnp.float32
  variables = {'params': randomised(abstract)}
  a, b = (np.asarray(jax.jit(n.apply)(variables, x, noise)) for n in (full, half))
  assert 0.0 < np.abs(a - b).max() < 0.05 * np.abs(a).max()

  used, attending = {}, half.clone(middle_attention='norm')
  jaxpr = jax.make_jaxpr(attending.apply)({'params': shapes(attending, 4)}, x, noise)
  for eqn in equations(jaxpr.jaxpr):
    used.setdefault(eqn.primitive.name, set()).add(str(eqn.outvars[0].aval.dtype))
  assert used['rsqrt'] == {'float32'}  # of the norms
  assert used['exp'] == {'float32'}  # of the softmax
  assert 'bfloat16' in used['conv2d'] and 'bfloat16' in used['linear']


def test_places_begin_small_and_pixels_have_places(key):
  pool = AttentionPool(3, num_heads=2)
  x = np.random.default_rng(0).standard_normal((1, 8, 8, 64), np.float32)
  init: Any = jax.jit(pool.init)
  params = jax.device_get(init(key, x)['params'])
  assert params['places'].shape == (65, 64)
  assert_allclose(np.std(params['places']), 1 / 8, rtol=0.1)
  apply = jax.jit(pool.apply)
  out, moved = (np.asarray(apply({'params': params}, a)) for a in (x, x[:, ::-1]))
  assert np.abs(moved - out).max() > 1e-4
