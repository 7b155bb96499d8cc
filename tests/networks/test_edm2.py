"""EDM2's size, gradients, magnitudes; tests/interop/ has its equations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.networks.edm2 import (
  EDM2,
  MPFourier,
  mp_cat,
  mp_sum,
  normalize,
  normalize_kernels,
)
from diffusion_jax.networks.inputs import Inputs
from tests.networks.literal import shapes
from tests.transcribed import transcribes


def test_the_size_is_as_published():
  """The smallest network of 512x512 pixels, with the 128 weights of u."""
  network = EDM2(128, out_channels=4, inputs=Inputs(num_classes=1000))
  found = shapes(network, 64, 4, {'label': jnp.zeros(1, jnp.int32)})
  leaves = jax.tree_util.tree_leaves_with_path(found)
  trained = [x.size for path, x in leaves if path[-1].key not in ('frequencies', 'phases')]
  assert sum(trained) + 128 == 124_713_253


@transcribes(
  'EDM2 (Karras et al. 2024)',
  '47, 75, 81, 88, 103: weights, Fourier features, SiLU, sums, concatenations',
  '`networks.edm2`',
)
@pytest.mark.parametrize('t', [0.0, 0.3, 0.5, 1.0])
def test_a_sum_of_independent_inputs_keeps_their_magnitude(t):
  """The norm of a sum of the orthogonal (1, 0) and (0, 1) is 1."""
  a, b = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
  found = np.asarray(mp_sum(a, b, t))
  assert_allclose(np.linalg.norm(found), 1.0, rtol=1e-6)
  assert_allclose(found[1] * (1 - t), found[0] * t, atol=1e-6)


@transcribes(
  'EDM2 (Karras et al. 2024)',
  '47, 75, 81, 88, 103: weights, Fourier features, SiLU, sums, concatenations',
)
@pytest.mark.parametrize('t', [0.5, 0.25])
def test_a_concatenation_weighs_its_parts_whatever_their_widths(t):
  """5 and 3 channels become 8 of magnitude 1, weighted (1-t)^2 to t^2."""
  a = jnp.array([1.0, -1.0, 1.0, 1.0, -1.0])
  found = np.asarray(mp_cat(a, a[:3], t))
  assert_allclose(np.mean(found**2), 1.0, rtol=1e-6)
  shares = np.sum(found[:5] ** 2), np.sum(found[5:] ** 2)
  assert_allclose(shares[1] / shares[0], (t / (1 - t)) ** 2, 1e-6)


def test_normalisation_literally_and_at_0():
  x = np.random.default_rng(0).standard_normal((2, 3, 5), np.float32)
  x[1, 1] = 0.0
  wide = np.asarray(x, np.float64)
  expected = wide / (1e-4 + np.sqrt(np.mean(wide**2, axis=-1, keepdims=True)))
  assert_allclose(jax.jit(normalize)(x), expected, atol=1e-6)
  gradient = jax.jit(jax.grad(lambda x: normalize(x).sum()))(x)
  assert np.isfinite(gradient).all()


@transcribes(
  'EDM2 (Karras et al. 2024)',
  '66: forced weight normalisation',
  '`networks.edm2.normalize_kernels`, `training.objectives.Objective`',
)
def test_kernels_get_rows_of_exactly_one_norm():
  """The norm is sqrt(fan in); other leaves do not change."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal(shape, np.float32)
  params = {
    'conv': {'kernel': 7 * normal(3, 3, 4, 5)},
    'linear': {'kernel': normal(6, 5), 'gain': np.ones(())},
    'frequencies': np.arange(3.0),
  }
  found = jax.jit(normalize_kernels)(params)
  for name, fan_in in (('conv', 36), ('linear', 6)):
    kernel = np.asarray(found[name]['kernel'], np.float64).reshape(fan_in, 5)
    norms = np.linalg.norm(kernel, axis=0)
    assert_allclose(norms, math.sqrt(fan_in), rtol=1e-6)
    before = np.asarray(params[name]['kernel']).reshape(fan_in, 5)
    ratio = kernel / before  # one factor per output channel
    assert_allclose(ratio, ratio[:1] + 0 * ratio, rtol=1e-5)
  assert found['linear']['gain'] == 1.0
  assert_array_equal(found['frequencies'], params['frequencies'])


@transcribes(
  'EDM2 (Karras et al. 2024)',
  '47, 75, 81, 88, 103: weights, Fourier features, SiLU, sums, concatenations',
)
def test_fourier_features_have_magnitude_1(key):
  layer = MPFourier(4096)
  noise = np.float32([-1.5, 0.0, 1.1])
  found, variables = jax.jit(layer.init_with_output)(key, noise)
  params = variables['params']
  f, p = (np.asarray(params[n], float) for n in ('frequencies', 'phases'))
  angles = 2 * np.pi * (f * np.asarray(noise, float)[:, None] + p)
  assert_allclose(found, np.sqrt(2) * np.cos(angles), atol=2e-5)
  squares = np.mean(np.square(found), axis=1)  # +- 1 / sqrt(2 * 4096) each
  assert_allclose(squares, 1.0, atol=0.05)
  assert 0.0 <= p.min() and p.max() <= 1.0 and abs(f.std() - 1.0) < 0.05
