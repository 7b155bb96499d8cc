"""Programs that run without this package."""

import runpy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.interop import stablehlo


def test_a_sampler_is_run_by_its_script(tmp_path, monkeypatch):
  params = {'scale': {'w': np.float32([2.0, 3.0])}}
  compute = lambda params, index, cond: jnp.outer(index, params['scale']['w']) + cond['label']
  cond = {'label': jax.ShapeDtypeStruct((3, 2), jnp.int32)}
  stablehlo.save(tmp_path / 'out', compute, params, cond, 3)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'argv', ['run.py', '4'])
  runpy.run_path('out/run.py')
  np.testing.assert_array_equal(np.load('images.npy'), np.outer([4, 5, 6], [2.0, 3.0]))


def test_a_classifier_is_features_of_any_number_of_images(tmp_path):
  compute = lambda images: {'features': images.astype(jnp.float32).mean(axis=(1, 2))}
  path = tmp_path / 'new' / 'judge'
  stablehlo.save_features(path, compute, (4, 2, 2, 3))
  images = np.arange(5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3)
  found = stablehlo.load_features(path)(images)['features']
  np.testing.assert_allclose(found, images.mean(axis=(1, 2)))
  with pytest.raises(ValueError, match='reads images of 2x2x3, and these are 1x2x3'):
    stablehlo.load_features(path)(images[:, :1])
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(ValueError, match='is not an exported classifier: give as weights'):
    stablehlo.load_features(path)
