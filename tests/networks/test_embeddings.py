from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.embeddings import (
  LabelEmbedding,
  fourier_features,
  sinusoidal,
)
from tests.networks.test_options import NETWORKS


@pytest.mark.parametrize('features', [128, 9])
def test_sinusoidal_is_ho_et_als(features):
  """[sin, cos] of t exp(-i ln(10000) / (half - 1)), odd sizes padded with 0."""
  t = np.array([0.0, 1.0, 500.0, 999.0])
  half = features // 2
  angles = t[:, None] * np.exp(-np.arange(half) * np.log(10000) / (half - 1))
  expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
  if features % 2:
    expected = np.pad(expected, ((0, 0), (0, 1)))
  found = sinusoidal(jnp.asarray(t, jnp.float32), features)
  np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize('features', [128, 9])
def test_sinusoidal_is_openais(features):
  """[cos, sin] of t exp(-i ln(10000) / half), of fractions of steps as well."""
  t = np.array([0.0, 1.0, 249.75, 999.0])
  half = features // 2
  angles = t[:, None] * np.exp(-np.arange(half) * np.log(10000) / half)
  expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
  if features % 2:
    expected = np.pad(expected, ((0, 0), (0, 1)))
  found = sinusoidal(jnp.asarray(t, jnp.float32), features, kind='openai')
  np.testing.assert_allclose(found, expected, atol=1e-4)


def test_an_unknown_sinusoid_is_refused():
  with pytest.raises(ValueError, match="'fourier' is not one of ho, openai"):
    sinusoidal(jnp.zeros(1), 8, kind='fourier')


def test_sinusoidal_needs_two_frequencies():
  with pytest.raises(ValueError, match='needs 4 or more, got 3'):
    sinusoidal(jnp.zeros(1), 3)


def test_fourier_features_literally(key):
  """recipes 4: frequencies 2^6 and 2^7 times 2 pi, sines and cosines, and z."""
  z = 3.0 * jax.random.normal(key, (2, 3, 3, 2))
  found = fourier_features(z)
  assert found.shape == (2, 3, 3, 10)
  z = np.asarray(z, np.float64)
  angles = np.concatenate([2 * np.pi * 2.0**k * z for k in (6, 7)], axis=-1)
  expected = np.concatenate([z, np.sin(angles), np.cos(angles)], axis=-1)
  np.testing.assert_allclose(found, expected, atol=2e-6)


def test_fourier_features_have_their_slope():
  features = lambda x: fourier_features(x[None], 2, 3)
  slope = jax.jit(jax.jacfwd(features))(0.3)
  angle = 8 * np.pi
  expected = [1.0, angle * np.cos(angle * 0.3), -angle * np.sin(angle * 0.3)]
  np.testing.assert_allclose(slope, expected, rtol=1e-5)


@pytest.fixture
def embed(key):
  module = LabelEmbedding(3, 5, null_class=True)
  variables: Any = module.init(key, {'label': jnp.zeros(1, int)}, 1)
  table = variables['params']['table']['embedding']
  assert table.shape == (4, 5)
  return lambda cond, n: module.apply(variables, cond, n), table


def test_labels_pick_rows_and_drop_picks_the_null_row(embed):
  apply, table = embed
  label = jnp.array([2, 0, 1])
  np.testing.assert_array_equal(apply({'label': label}, 3), table[label])
  drop = jnp.array([False, True, False])
  expected = table[jnp.array([2, 3, 1])]
  np.testing.assert_array_equal(
    apply({'label': label, 'drop': drop}, 3), expected
  )


def test_no_label_is_the_null_class(embed):
  apply, table = embed
  expected = np.broadcast_to(table[3], (2, 5))
  np.testing.assert_array_equal(apply({}, 2), expected)


@pytest.mark.parametrize('label', [-1, 3, 7])
def test_a_label_out_of_range_is_nan(embed, label):
  found = embed[0]({'label': jnp.array([1, label])}, 2)
  assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()


@pytest.mark.parametrize(
  'cond', [{}, {'label': jnp.zeros(1, int), 'drop': jnp.ones(1, bool)}]
)
def test_without_a_null_class_there_is_always_a_label(cond):
  module = LabelEmbedding(3, 5)
  with pytest.raises(ValueError, match='no null class'):
    module.init(jax.random.key(0), cond, 1)


@pytest.mark.parametrize('kind, std', [('ho', 64**-0.5), ('torch', 1.0)])
def test_labels_begin_normal(kind, std, key):
  """Flax's nn.Embed has variance 1 / features, PyTorch's nn.Embedding 1."""
  module = LabelEmbedding(500, 64, initializer=kind)
  variables: Any = module.init(key, {'label': jnp.zeros(1, int)}, 1)
  table = np.asarray(variables['params']['table']['embedding'])
  np.testing.assert_allclose(table.std(), std, rtol=0.03)
  with pytest.raises(ValueError, match="'he' is not one of ho, torch"):
    LabelEmbedding(3, 4, initializer='he').init(
      key, {'label': jnp.zeros(1, int)}, 1
    )


@pytest.mark.parametrize('name', ['unet', 'ddpmpp', 'dit'])
def test_a_network_with_elapsed_time_begins_as_the_one_without(name, key):
  """The new inputs change nothing until the last layers are trained."""
  make: Any = NETWORKS[name]
  plain, both = make(), make(elapsed=True, guidance_input=True)
  x = np.random.default_rng(1).standard_normal((2, 4, 4, 3), np.float32)
  noise = np.array([0.3, 0.9], np.float32)
  cond = {'elapsed': noise / 3, 'guidance_scale': np.float32([1.0, 4.0])}
  old = jax.eval_shape(plain.init, key, x, noise)['params']
  new = jax.eval_shape(both.init, key, x, noise, cond)['params']
  names = [n for n in new if n not in old]
  assert {*names} == {f'{n}_dense_{i}' for n in cond for i in (1, 2)}
  # An initial value depends on the name of its parameter.
  assert {n: new[n] for n in new if n not in names} == old

  @jax.jit
  def initial(key):
    params = both.init(key, x, noise, cond)['params']
    return {n: params[n] for n in names}

  added = jax.device_get(initial(key))
  # Zeros at the end of the network would hide the embeddings.
  rng = np.random.default_rng(0)
  draw = lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32)
  new = jax.tree.map(draw, old)
  jitted = jax.jit(both.apply)
  apply = lambda *args: np.asarray(jitted(*args))
  found = apply({'params': new | added}, x, noise, cond)
  expected = jax.jit(plain.apply)({'params': new}, x, noise)
  np.testing.assert_array_equal(found, expected)
  # Once trained, each of the two has an effect.
  loud = jax.tree.map(draw, added)
  outputs = [apply({'params': new | loud}, x, noise, cond)]
  for n in cond:
    changed = cond | {n: cond[n] + 0.5}
    outputs.append(apply({'params': new | loud}, x, noise, changed))
    with pytest.raises(ValueError, match=rf"needs cond\['{n}'\] \[B\]"):
      rest = {m: cond[m] for m in cond if m != n}
      jax.eval_shape(both.apply, {'params': new}, x, noise, rest)
  assert all(np.abs(outputs[0] - other).max() > 1e-3 for other in outputs[1:])
  with pytest.raises(ValueError, match='no condition .*elapsed'):
    jax.eval_shape(plain.apply, {'params': new}, x, noise, cond)
