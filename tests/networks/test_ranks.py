"""U-Net and DiT take sequences and volumes as well as pictures."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn
from numpy.testing import assert_allclose

from diffusion_jax.declared import declared_by
from diffusion_jax.networks.attention import Attention
from diffusion_jax.networks.blocks import ResnetBlock
from diffusion_jax.networks.layers import Downsample, Upsample, average_pool, nearest_upsample
from diffusion_jax.networks.unet import UNet
from tests.networks.literal import randomised
from tests.networks.test_options import TABLE, small
from tests.refusals import one_line

UNET: Any = dict(channels=4, multipliers=(1, 2), num_blocks=1, num_groups=2, out_channels=2)
NOISE = np.array([3.0, 700.0], np.float32)
SIDES = {1: (8,), 2: (8, 8), 3: (4, 4, 8)}


@functools.cache
def shapes(network, shape):
  x, noise = np.zeros(shape, np.float32), np.zeros(shape[0], np.float32)
  return jax.eval_shape(network.init, jax.random.key(0), x, noise)['params']


@functools.cache
def applied(network):
  return jax.jit(lambda p, x: network.apply({'params': p}, x, NOISE))


def examples(rank, channels=2):
  shape = 2, *SIDES[rank], channels
  return np.random.default_rng(rank).standard_normal(shape, np.float32)


def with_a_further_axis(params, axis):
  """Returns the parameters whose convolutions ignore a new axis."""

  def widen(path, leaf):
    if path[-1].key != 'kernel' or leaf.ndim < 3:
      return leaf
    return np.stack([0 * leaf, leaf, 0 * leaf], axis)

  return jax.tree_util.tree_map_with_path(widen, params)


class Layers(nn.Module):
  """Halves and doubles the sides twice."""

  @nn.compact
  def __call__(self, x, noise):
    block = functools.partial(ResnetBlock, num_groups=2, scale_shift=True)
    embedding, train = noise[:, None] / 700, False
    h = block(4, resample=average_pool)(Downsample()(x), embedding, train)
    h = Attention(num_groups=2)(h)
    return Upsample()(block(x.shape[-1], resample=nearest_upsample)(h, embedding, train))


@pytest.mark.parametrize('rank', [1, 2])
def test_a_network_is_the_one_with_a_further_axis_on_which_nothing_depends(rank):
  """Convolutions, changes of resolution, norms and attention take any number of axes."""
  network, x, count = Layers(), examples(rank), {1: 8, 2: 4}[rank]

  def repeated(x):
    return np.repeat(np.expand_dims(x, rank + 1), count, rank + 1)

  params = randomised(shapes(network, x.shape), scale=0.6)
  run, wide_params = applied(network), with_a_further_axis(params, rank)
  found, wide = jax.device_get((run(params, x), run(wide_params, repeated(x))))
  assert found.shape == x.shape and np.std(found) > 0.1
  assert_allclose(wide, repeated(found), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize('rank, size, count', [(1, 4, 3), (2, 4, 3), (3, 16, 3), (3, 4, 0)])
def test_attention_is_chosen_by_height_or_by_the_number_of_positions(rank, size, count):
  """The second level has the sides 4, 4x4 and 2x2x4."""
  network = UNet(**UNET, attention_resolutions=(size,))
  params = shapes(network, examples(rank).shape)
  found = {n for n in params if n.endswith('attention')} - {'middle_attention'}
  assert len(found) == count


def needs_of(name):
  return declared_by(TABLE[name]).needs.replace('as `unet`', declared_by(UNet).needs)


# The arrays that `needs` of a network may name, and the shape of one.
ARRAYS = {
  'a vector [D]': (6,),
  'a sequence [N, C]': (8, 3),
  'an image': (8, 8, 3),
  'a volume [D, H, W, C]': (4, 4, 4, 3),
}


@pytest.mark.parametrize('name', [n for n in TABLE if '`objective=' not in needs_of(n)])
def test_networks_take_the_arrays_that_they_declare(name):
  needs = needs_of(name)
  assert any(words in needs for words in ARRAYS)
  network = small(TABLE[name], channels=12)
  for words, shape in ARRAYS.items():
    x = np.zeros((1, *shape))
    init, key = network.init_with_output, jax.random.key(0)
    begin = functools.partial(jax.eval_shape, init, key, x, NOISE[:1])
    if words in needs:
      found, _ = begin()
      assert found.shape == x.shape or name == 'classifier' or words == 'a vector [D]'
    elif needs.endswith(' only'):
      with one_line('examples of the shape', 'axes before the channels'):
        begin()
