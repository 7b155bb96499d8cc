"""Tests EDM2's size, gradients and magnitudes.

tests/interop/test_edm2.py has its equations.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.ddpmpp import DDPMpp
from diffusion_jax.networks.edm2 import EDM2, EDM2Block
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.magnitude import magnitude
from tests.networks.literal import randomised, shapes

FIXED = 'frequencies', 'phases'  # are not trained


def test_the_size_is_as_published():
  """The smallest network of 512x512 pixels, with the 128 weights of u."""
  network = EDM2(128, out_channels=4, inputs=Inputs(num_classes=1000))
  found = shapes(network, 64, 4, {'label': jnp.zeros(1, jnp.int32)})
  leaves = jax.tree_util.tree_leaves_with_path(found)
  trained = [x.size for path, x in leaves if path[-1].key not in FIXED]
  assert sum(trained) + 128 == 124_713_253


ONE_LEVEL: Any = {
  'multipliers': (1,), 'num_blocks': 1, 'attention_resolutions': (),
  'dropout': 0.5,
}  # fmt: skip
NULLABLE = Inputs(num_classes=3, null_class=True)


@pytest.mark.parametrize('network, cond', [
  (EDM2(4, head_channels=4, inputs=NULLABLE, remat=True, **ONE_LEVEL),
   {'label': np.array([0, 2]), 'drop': np.array([False, True])}),
  (DDPMpp(8, inputs=Inputs(augment_dim=9), noise_embedding='fourier',
          **ONE_LEVEL), {'augment': np.ones((2, 9), np.float32)}),
])  # fmt: skip
def test_gradients_reach_all_weights_and_dropout_acts(network, cond, key):
  x = jax.random.normal(key, (2, 4, 4, 3))
  p = randomised(shapes(network, 4, cond=jax.tree.map(lambda a: a[:1], cond)))

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def gradient(p, key):
    args = x, jnp.array([-1.5, 0.75]), cond
    rngs = {'dropout': key}
    out = network.apply({'params': p}, *args, train=True, rngs=rngs)
    return jnp.sum(out**2), out

  gradients, found = jax.device_get(gradient(p, key))
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(leaf).all()
    assert leaf.any() == (path[-1].key not in FIXED), path
  other = gradient(p, jax.random.key(7))[1]
  assert np.abs(other - found).max() > 1e-3


@pytest.mark.parametrize(
  'decoder, heads, least', [(False, 0, 0.9), (True, 0, 0.9), (False, 2, 0.83)]
)
def test_magnitudes_stay_1_through_8_blocks(decoder, heads, least, key):
  """The first magnitudes are 1 within 10 %.

  Attention to all pixels alike gives their mean, whose magnitude is nearly 0:
  0.7 / sqrt(0.58) = 0.92 of the input is left, which the next block of the
  encoder normalises. Images are 16x16: zeros beyond the edges matter less.
  """
  x = jax.random.normal(key, (2, 16, 16, 16))
  e = jax.random.normal(key, (2, 16))
  module = EDM2Block(16, decoder=decoder, num_heads=heads)
  apply = jax.jit(lambda k, h: module.init_with_output(k, h, e, False)[0])
  h = x
  for k in jax.random.split(key, 8):
    h = apply(k, h)
    assert least < magnitude(h, None).item() < 1.1
