"""Embeddings of times and labels agree with literal NumPy, and dropped labels take the null row."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.networks.embeddings import LabelEmbedding, of_step, sinusoidal
from diffusion_jax.networks.inputs import Inputs
from tests.networks.literal import dense, random_params, randomised, swish, taken
from tests.networks.test_options import NETWORKS


@pytest.mark.parametrize('features', [128, 9])
@pytest.mark.parametrize('kind', ['ho', 'openai'])
def test_sinusoids_literally(kind, features):
  """[sin, cos] of t exp(-i ln(10000) / (half - 1)), odd sizes padded with 0."""
  t, half = np.array([0.0, 1.0, 249.75, 999.0]), features // 2
  count = half - 1 if kind == 'ho' else half
  angles = t[:, None] * np.exp(-np.arange(half) * np.log(10000) / count)
  waves = [np.sin(angles), np.cos(angles)]
  expected = np.concatenate(waves if kind == 'ho' else waves[::-1], axis=1)
  expected = np.pad(expected, ((0, 0), (0, features % 2)))
  found = jax.jit(lambda t: sinusoidal(t, features, kind=kind))(t)
  assert_allclose(found, expected, atol=1e-4)


@pytest.fixture(scope='module')
def embed():
  module = LabelEmbedding(Inputs(num_classes=3, null_class=True), 5)
  cond = {'label': np.zeros(1, int)}
  params = random_params(module, cond, 1)
  assert params['table']['embedding'].shape == (4, 5)
  apply = jax.jit(module.apply, static_argnums=2)
  embedded = lambda cond, n: np.asarray(apply({'params': params}, cond, n))
  return embedded, params['table']['embedding']


@pytest.mark.parametrize(
  'cond, expected',
  [
    ({'label': np.array([2, 0, 1])}, [2, 0, 1]),
    ({'label': np.array([2, 0, 1]), 'drop': np.arange(3) == 1}, [2, 3, 1]),
    ({}, [3, 3, 3]),
  ],
)
def test_labels_pick_rows_and_a_dropped_or_missing_one_the_null_row(embed, cond, expected):
  apply, table = embed
  assert_array_equal(apply(cond, 3), table[expected])


@pytest.mark.parametrize('label', [-1, 3, 7])
def test_a_label_out_of_range_is_nan(embed, label):
  found = embed[0]({'label': np.array([1, label])}, 2)
  assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()


@pytest.mark.parametrize('kind, std', [('ho', 64**-0.5), ('torch', 1.0)])
def test_labels_begin_normal(kind, std, key):
  """Flax's nn.Embed has variance 1 / features, PyTorch's nn.Embedding 1."""
  module = LabelEmbedding(Inputs(num_classes=500), 64, initializer=kind)
  init = jax.jit(module.init, static_argnums=2)
  variables = init(key, {'label': np.zeros(1, int)}, 1)
  table = np.asarray(variables['params']['table']['embedding'])
  assert_allclose(table.std(), std, rtol=0.03)


STEPS = Inputs(elapsed=True, guidance_scale=True)


# A layer, and which of its arguments has the embedding of the conditions.
CONDITIONED = {'unet': ('down_0_0_block', 1), 'ddpmpp': ('down_0_0_block', 1)}
CONDITIONED['dit'] = 'modulation_out', 0


@pytest.mark.parametrize('name', CONDITIONED)
def test_flow_maps_have_more_inputs(name, key):
  """The elapsed time and the guidance scale both change the blocks of a trained network."""
  make: Any = NETWORKS[name]
  options = {'attention_resolutions': ()} if name != 'dit' else {}
  both = make(inputs=STEPS, **options)
  x = np.random.default_rng(1).standard_normal((2, 4, 4, 3), np.float32)
  noise = np.array([0.3, 0.9], np.float32)
  cond = {'elapsed': noise / 3, 'guidance_scale': np.float32([1.0, 4.0])}
  old = jax.eval_shape(make(**options).init, key, x, noise)['params']
  new = jax.eval_shape(both.init, key, x, noise, cond)['params']
  names = [n for n in new if n not in old]
  assert {*names} == {f'{n}_dense_{i}' for n in cond for i in (1, 2)}
  # An initial value depends on the name of its parameter.
  assert {n: new[n] for n in new if n not in names} == old
  params = randomised(new)
  layer, place = CONDITIONED[name]
  embedding = jax.jit(lambda cond: taken(both, layer, place, {'params': params}, x, noise, cond))
  out = np.asarray(embedding(cond))
  for n in cond:
    changed = embedding(cond | {n: cond[n] + 0.5})
    assert np.abs(out - changed).max() > 1e-3


class Steps(nn.Module):
  """Computes the embeddings of the inputs of a flow map."""

  @nn.compact
  def __call__(self, cond):
    return of_step(STEPS, cond, 8, 5)


def test_the_embedding_of_a_step_literally_and_at_first(key):
  """The embedding of a step begins at 0, so a new network ignores these inputs."""
  cond = {'elapsed': jnp.array([0.1, 0.3]), 'guidance_scale': jnp.ones(2)}
  first, variables = jax.jit(Steps().init_with_output)(key, cond)
  assert_array_equal(first, np.zeros((2, 5)))
  p = randomised(variables['params'])
  found = jax.jit(Steps().apply)({'params': p}, cond)
  expected = 0.0
  for name, value in cond.items():
    frequencies = 1e4 ** (-np.arange(4) / 3)
    angles = np.asarray(value, np.float64)[:, None] * frequencies
    h = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    h = swish(dense(p[f'{name}_dense_1'], h))
    expected += dense(p[f'{name}_dense_2'], h)
  assert_allclose(found, expected, atol=1e-5)
