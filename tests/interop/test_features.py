"""Batches of features, files of weights, and messages without them."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.interop import dinov2, features
from diffusion_jax.interop.features import Features, load_features
from tests import as_main, refusals
from tests.interop.test_dinov2 import SHAPES as TWO_LAYERS

SHAPES = {n: s for n, s in TWO_LAYERS.items() if 'layer.1.' not in n}


def images(count, channels=3):
  return np.random.default_rng(0).integers(0, 256, (count, 6, 5, channels), np.uint8)


@jax.jit
def toy(params, x):
  x = x.astype(jnp.float32)
  return {'features': params * x.mean(axis=(1, 2)), 'logits': x[:, 0, 0]}


@pytest.mark.parametrize('batch_size', [3, 8, 16])
@pytest.mark.parametrize('count', [1, 8, 13])
def test_features_of_any_number_of_images_in_order(count, batch_size):
  found = Features(toy, np.float32(2.0), {}, batch_size)(images(count))
  x = images(count).astype(np.float64)
  assert_allclose(found['features'], 2.0 * x.mean(axis=(1, 2)), rtol=1e-6)
  assert_array_equal(found['logits'], x[:, 0, 0])
  assert {a.dtype for a in found.values()} == {np.dtype(np.float32)}


def test_batches_have_one_size_and_are_spread_over_the_devices():
  seen = []

  def compute(params, x):
    seen.append((x.shape, len(x.sharding.device_set)))
    return toy(params, x)

  Features(compute, np.float32(1.0), {}, 8)(images(11))
  assert seen == [((8, 6, 5, 3), 8)] * 2
  seen.clear()
  Features(compute, np.float32(1.0), {}, 5)(images(5))
  assert seen == [((5, 6, 5, 3), 1)]


@pytest.fixture
def folder(tmp_path):
  draw = np.random.default_rng(0).standard_normal
  tensors = {n: 0.2 * draw(shape, np.float32) for n, shape in SHAPES.items()}
  safetensors.numpy.save_file(tensors, tmp_path / 'model.safetensors')
  return tmp_path


def test_features_of_a_file_and_their_protocol(folder, monkeypatch):
  monkeypatch.setenv('DIFFUSION_JAX_WEIGHTS', str(folder))
  file = folder / 'model.safetensors'
  found = load_features('dinov2', batch_size=3)
  assert found.protocol['weights'] == hashlib.sha256(file.read_bytes()).hexdigest()
  assert found.protocol['features'] == 'DINOv2 ViT of width 128, depth 1'
  network, params, _ = dinov2.read(file)

  @jax.jit
  def apply(params, x):
    x = dinov2.PREPROCESS(x)
    return network.apply({'params': params}, x)

  expected = apply(params, images(4, 1))['features']
  assert_allclose(found(images(4, 1))['features'], expected, atol=1e-4)


def test_files_are_checked_and_converted(folder, capsys):
  file, target = folder / 'model.safetensors', folder / 'out.safetensors'
  features.main('dinov2', str(folder), str(target))
  assert f'{file}: dinov2, ' in capsys.readouterr().out
  before, after = map(safetensors.numpy.load_file, (file, target))
  assert set(before) == set(after) == set(SHAPES)
  jax.tree.map(assert_array_equal, before, after)


def test_a_wrong_file_ends_the_command_with_2():
  found = as_main.run(features, 'inception', __file__)
  assert found.returncode == 2
  assert found.stderr.startswith(f'error: {__file__} cannot be read as the Incep')
  assert 'classify_image_graph_def.pb' in found.stderr
  assert found.stderr.count('\n') == 1


WRONG = [
  (lambda: Features(toy, 2.0, {}, 2)(images(2).astype(np.float32)), 'not float32: quantise once'),
  (lambda: Features(toy, 2.0, {}, 2)(images(2)[0]), '[N, H, W, 3 or 1], not [6, 5, 3]'),
  (lambda: Features(toy, 2.0, {}, 2)(images(2, 4)), 'not [2, 6, 5, 4]'),
  (lambda: Features(toy, 2.0, {}, 2)(images(2)[:0]), 'not [0, 6, 5, 3]'),
  (lambda: load_features('vgg'), "'vgg' are not one of inception, dino"),
  (
    lambda: features.find_weights('inception'),
    'pytorch-fid ... the environment variable DIFFUSION_JAX_WEIGHTS',
  ),
  (
    lambda: features.find_weights('dinov2'),
    'dinov2-large ... the environment variable DIFFUSION_JAX_WEIGHTS',
  ),
  (lambda: features.find_weights('dinov2', 'none.pb'), 'none.pb is neither a file nor a folder'),
  (lambda: features.find_weights('dinov2', '.'), 'is neither a file nor a folder'),
]


@pytest.mark.parametrize('error, call, message', [*refusals.rows(ValueError, WRONG)])
def test_what_is_wrong_is_named(error, call, message, tmp_path, monkeypatch):
  monkeypatch.delenv('DIFFUSION_JAX_WEIGHTS', raising=False)
  monkeypatch.chdir(tmp_path)
  with refusals.one_line(error=error, match=message):
    call()
