"""Networks say which kernels are several matrices, and which outputs belong to each."""

import functools

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.networks.ddpmpp import DDPMpp
from diffusion_jax.networks.edm2 import EDM2
from diffusion_jax.networks.inputs import Inputs, Text
from diffusion_jax.networks.mlp import MLP
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.networks.unet import NoisyClassifier, UNet
from diffusion_jax.training.optimizer import _layout, _names
from tests.rows import slow

TEXT = Inputs(text=Text(8, 1, 2), null_class=True)
SMALL = {'channels': 8, 'num_groups': 2, 'multipliers': (1,), 'num_blocks': 1}
ATTENDS = {'attention_resolutions': (4,)}
NETWORKS = {
  'unet_new': UNet(**SMALL, **ATTENDS, num_heads=2, qkv='new', scale_shift=True),
  'unet_legacy': UNet(**SMALL, **ATTENDS, num_heads=2, qkv='legacy', inputs=TEXT),
  'unet_legacy_by_channels': UNet(**SMALL, **ATTENDS, head_channels=4, qkv='legacy'),
  'unet_interleaved': UNet(**SMALL, **ATTENDS, num_heads=2, qkv='interleaved'),
  'classifier': NoisyClassifier(3, **SMALL, **ATTENDS, head_channels=4, qkv='legacy'),
  'ddpmpp': DDPMpp(**SMALL, **ATTENDS, num_heads=2),
  'edm2': EDM2(8, (1,), 1, attention_resolutions=(4,), head_channels=4),
  'dit': DiT(8, 2, 2, mlp='swiglu'),
  'mmdit': DiT(8, 2, 2, inputs=TEXT),
  'mlp': MLP(8, 1),
}
X, NOISE = np.random.default_rng(0).normal(size=(2, 4, 4, 3)), np.linspace(0.2, 0.8, 2)


@functools.cache
def program(network):
  return jax.jit(network.apply)


def cond_of(network):
  return {'text': np.ones((2, 3), np.int32)} if getattr(network, 'inputs', None) == TEXT else {}


@functools.cache
def shapes_of(network):
  return jax.eval_shape(network.init, jax.random.key(0), X, NOISE, cond_of(network))['params']


def changed_params(network, change):
  """Returns (random parameters, layers that `change` made anew).

  change: (the path of a layer, its kernel by matrices [..., in, matrix, out], its layout) -> the
  kernel or None.
  """
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda a: rng.normal(0.0, 0.5, a.shape), shapes_of(network))
  changed = []

  def at(path, leaf):
    *layer, name = _names(path)
    layout = _layout(layer, network.fused)
    if layout is None or name not in ('kernel', 'bias'):
      return leaf
    sizes, axis = layout
    split = leaf.reshape(*leaf.shape[:-1], *sizes)
    axis += leaf.ndim - 1
    made = change('/'.join(layer), np.moveaxis(split, axis, 0), name)
    if made is None:
      return leaf
    changed.append('/'.join(layer))
    return np.moveaxis(made, 0, axis).reshape(leaf.shape)

  return jax.tree_util.tree_map_with_path(at, params), {*changed}


def outputs_of(network, change):
  """Returns (the output of a network, layers that `change` made anew)."""
  params, changed = changed_params(network, change)
  return np.asarray(program(network)({'params': params}, X, NOISE, cond_of(network))), changed


def replaced(layer, matrices, zero=(), random=()):
  """Returns a change: some matrices of layers with this name are 0, and others are random."""

  def change(path, parts, name):
    if not path.endswith(layer) or len(parts) != matrices:
      return None
    parts = parts.copy()
    for i in zero:
      parts[i] = 0.0
    for i in random:
      parts[i] = np.random.default_rng(i).normal(size=parts[i].shape)
    return parts

  return change


# They have the layouts of unet_interleaved, mmdit and unet_legacy.
SAME = 'ddpmpp', 'dit', 'unet_legacy_by_channels', 'edm2'
ATTENTION = [slow(n) if n in SAME else n for n in NETWORKS if n != 'mlp']


@pytest.mark.parametrize('name', ATTENTION)
def test_without_keys_queries_do_not_matter_and_values_do(name):
  network = NETWORKS[name]
  alike = replaced('qkv', 3, zero=[1])
  expected, layers = outputs_of(network, alike)
  queries, _ = outputs_of(network, replaced('qkv', 3, zero=[1], random=[0]))
  values, _ = outputs_of(network, replaced('qkv', 3, zero=[1], random=[2]))
  assert layers and np.isfinite(expected).all()
  assert_allclose(queries, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
  assert np.abs(values - expected).max() > 1e-2 * np.abs(expected).max()


# Matrices that do not matter if others are 0: a swish of 0 is 0; a closed gate.
HIDDEN = {
  'dit': [('mlp_in', 2, [0], [1]), ('modulation', 6, [2, 5], [0, 1, 3, 4])],
  'mmdit': [('modulation', 6, [2, 5], [0, 1, 3, 4])],
}


@pytest.mark.parametrize('name, row', [(name, row) for name in HIDDEN for row in HIDDEN[name]])
def test_a_gate_of_0_hides_the_others(name, row):
  layer, count, zero, random = row
  network = NETWORKS[name].clone(inputs=Inputs())
  expected, layers = outputs_of(network, replaced(layer, count, zero))
  hidden, _ = outputs_of(network, replaced(layer, count, zero, random))
  seen, _ = outputs_of(network, replaced(layer, count, (), random))
  assert layers
  assert_allclose(hidden, expected, rtol=1e-4, atol=1e-4)
  assert np.abs(seen - expected).max() > 1e-2


@pytest.mark.parametrize('name', NETWORKS)
def test_every_projection_has_as_many_matrices_as_its_name_says(name):
  found = set()
  changed_params(
    NETWORKS[name], lambda path, parts, leaf: found.add((path.split('/')[-1], len(parts)))
  )
  counts = {'qkv': {3}, 'modulation': {2, 6}, 'mlp_in': {2}, 'embedding_proj': {2}}
  assert found
  for layer, count in found:
    assert any(word in layer and count in numbers for word, numbers in counts.items()), layer
