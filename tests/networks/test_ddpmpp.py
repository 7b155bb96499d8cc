import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.networks.ddpmpp import DDPMpp
from diffusion_jax.networks.inputs import Inputs
from tests.networks.literal import randomised, shapes

TINY = dict(
  channels=8, multipliers=(1, 2), num_blocks=1, attention_resolutions=(8,)
)
SMALL = TINY | dict(multipliers=(1,), attention_resolutions=())


FULL = Inputs(
  num_classes=3, null_class=True, augment_dim=9, self_conditioning=True
)
AUGMENTED = {'inputs': Inputs(augment_dim=9)}


def test_what_is_not_given_is_zero():
  """The label of the first image is dropped, the second label is invalid."""
  network = DDPMpp(**SMALL, inputs=FULL, dropout=0.5)
  p = randomised(shapes(network, cond={'label': jnp.zeros(1, int)}))
  x = np.random.default_rng(1).standard_normal((2, 8, 8, 3), np.float32)
  cond = {
    'label': np.array([2, 3]),
    'drop': np.array([True, False]),
    'augment': np.zeros((2, 9)),
    'x0': np.zeros((2, 8, 8, 3)),
  }

  @jax.jit
  def both(p):
    apply = functools.partial(network.apply, {'params': p}, x, np.ones(2))
    return apply(cond), apply({})

  found, expected = both(p)
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-4)
  assert np.isnan(found[1]).all()


def test_initial_weights(key):
  """Factors of the variance: 1e-10 at the ends of branches, 0.2 for q, k, v."""
  one_level = dict(channels=16, multipliers=(1,), **AUGMENTED)
  network = DDPMpp(**TINY | one_level)
  expected = {
    ('noise_dense_2',): (64 + 64, 1.0),
    ('augment_dense',): (9 + 16, 1.0),
    ('down_0_0_block', 'conv_1'): (9 * (16 + 16), 1.0),
    ('down_0_0_block', 'conv_2'): (9 * (16 + 16), 1e-10),
    ('down_0_0_attention', 'qkv'): (16 + 48, 0.2),
    ('middle_attention', 'proj_out'): (16 + 16, 1e-10),
    ('conv_out',): (9 * (16 + 3), 1e-10),
  }

  @jax.jit
  def layers(key):
    p = network.init(key, jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))['params']
    return [functools.reduce(dict.__getitem__, path, p) for path in expected]

  found = jax.device_get(layers(key))
  for layer, (fans, factor) in zip(found, expected.values(), strict=True):
    limit = np.sqrt(factor * 6 / fans)
    largest = np.abs(layer['kernel']).max()
    assert 0.9 * limit < largest <= 1.001 * limit
    assert 'bias' not in layer or not layer['bias'].any()
