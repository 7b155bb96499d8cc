"""Networks take conditions that are real numbers."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn
from numpy.testing import assert_allclose

from diffusion_jax.networks.context import ContextCode, TextEncoder
from diffusion_jax.networks.functional import encode_context
from diffusion_jax.networks.inputs import ContextEncoder, Inputs, Text
from diffusion_jax.networks.mlp import MLP
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.networks.unet import UNet
from tests.networks.literal import dense, random_params, swish
from tests.rows import normal, slow

SHAPE = 4, 4, 2  # of one x
SHAPES = {'vector': (5,), 'set': (4, 3), 'words': (6, 3), 'channels': (4, 4, 1)}
SMALL = dict(width=8, layers=1, heads=2)
NETWORKS: Any = {
  'unet': functools.partial(UNet, 4, (1,), 1, (), out_channels=2, num_groups=2),
  'dit': functools.partial(DiT, 8, 1, 2, out_channels=2),
  'cross': functools.partial(DiT, 8, 1, 2, out_channels=2, text_attention='cross'),
  'mlp': functools.partial(MLP, 8, 1, out_channels=2),
}


def inputs_of(kind, **options):
  # All but sets are recognised by their shapes.
  encoder = ContextEncoder('set' if kind == 'set' else 'auto', **SMALL)
  return Inputs(context=SHAPES[kind], context_encoder=encoder, **options)


@pytest.mark.parametrize('name, kind, more', [
  slow('unet', 'vector', ''), ('unet', 'words', ''), ('dit', 'set', 'null'),
  slow('dit', 'words', 'null'), slow('dit', 'channels', 'null'), ('cross', 'words', 'null code'),
  ('mlp', 'vector', 'null code'), ('mlp', 'channels', 'code'),
])  # fmt: skip
def test_a_context_matters_to_its_row_and_its_null_is_no_context(name, kind, more):
  """Two rows have their contexts, also encoded ones; the third's is hidden."""
  network = NETWORKS[name](inputs=inputs_of(kind, null_class=True))
  x = np.repeat(normal(1, *SHAPE), 3, axis=0)
  noise = np.full(3, 0.7, np.float32)
  context = 3.0 * normal(3, *SHAPES[kind], seed=1)
  given = {'context': context}
  scale = 0.5 if name == 'unet' else 0.2
  params = random_params(network, x, noise, given, scale=scale)

  @jax.jit
  def outputs(params, context):
    hidden = given | {'context': context, 'drop': np.array([False, False, True])}
    calls = [(3, hidden)] + [(1, {})] * ('null' in more)
    if 'code' in more:
      first_and_last = jax.tree.map(lambda a: a[::2], hidden)
      code = encode_context(network, params, first_and_last, SHAPE)
      assert set(code) == {'context_code', 'drop'}
      calls.append((2, code))
    apply = functools.partial(network.apply, {'params': params})
    return [apply(x[:n], noise[:n], cond) for n, cond in calls]

  found, *others = jax.device_get(outputs(params, context))
  for out in others:  # of the last row, or of it and the first
    assert_allclose(out, found[::2][-len(out) :], rtol=1e-4, atol=1e-4)
  other = np.concatenate([context[:1], 1.0 - context[1:]])
  assert_allclose(outputs(params, other)[0][::2], found[::2], rtol=1e-5, atol=1e-5)
  for a, b in (0, 1), (0, 2), (1, 2):
    assert np.abs(found[a] - found[b]).max() > 3e-3


def encoder(kind, **fields):
  options = ContextEncoder(width=8, layers=3, heads=2)
  return ContextCode(kind, options, 6, **fields)


@pytest.mark.parametrize('kind', ['vector', 'set'])
def test_vectors_and_sets_in_numpy(kind):
  """A vector is flat; a set is a mean over its elements, in any order."""
  context = normal(2, 4, 3)
  module = encoder(kind)
  p = random_params(module, {'context': context}, (2, *SHAPE))
  h = context if kind == 'set' else context.reshape(2, -1)
  for i in range(3 if kind == 'set' else 2):
    h = swish(dense(p[f'dense_{i}'], h))
  expected = dense(p['dense_out'], h.mean(1) if kind == 'set' else h)
  apply = jax.jit(lambda a: module.apply({'params': p}, {'context': a}, SHAPE))
  for order in [0, 1, 2, 3], [2, 0, 3, 1]:
    found = apply(context[:, order])
    same = kind == 'set' or order[0] == 0
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-4) == same


def test_the_words_of_vectors_are_those_of_tokens_whose_rows_they_are():
  tokens = np.array([[3, 1, 0], [2, 2, 4]])
  network = TextEncoder(8, 1, 2)
  mask = np.ones((2, 3), bool)
  p = random_params(network, tokens, mask, scale=0.3)
  rest = {name: value for name, value in p.items() if name != 'table'}
  linear = {'kernel': p['table']['embedding'], 'bias': np.zeros(8, np.float32)}
  vectors = np.eye(257, dtype=np.float32)[tokens]

  @jax.jit
  def both():
    of_vectors = {'params': rest | {'linear': linear}}
    found = network.apply(of_vectors, vectors)
    return found, network.apply({'params': p}, tokens, mask)

  found, expected = both()
  assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


class Own(nn.Module):
  """A user's network, which encodes its context by itself."""

  @nn.compact
  def __call__(self, x, noise, cond, *, train=False):
    return x + nn.Dense(2, name='context')(cond['context'])[:, None]


def test_a_cond_without_a_context_and_that_of_own_networks_are_returned():
  x, cond = normal(2, 8, 2), {'context': normal(2, 5)}
  params = random_params(Own(), x, normal(2), cond)
  assert encode_context(Own(), params, cond, SHAPE) is cond
  assert encode_context(NETWORKS['mlp'](), {}, {}, SHAPE) == {}


def abstract(network, shape=SHAPE):
  cond = network.inputs.example()
  init = functools.partial(network.init, jax.random.key(0))
  return jax.eval_shape(init, normal(1, *shape), normal(1), cond)


def test_a_text_and_a_context_are_words_of_one_width():
  """In joint attention both are mapped to the width of the blocks."""
  given = inputs_of('words', text=Text(width=16, layers=1))
  network = DiT(8, 2, 2, inputs=given)
  assert {'text_in', 'context_in'} <= set(abstract(network)['params'])
  assert 'middle_context' in abstract(NETWORKS['unet'](inputs=given))['params']
  with pytest.raises(ValueError, match='the words have width 16, the context 8: set'):
    abstract(network.clone(text_attention='cross'))
