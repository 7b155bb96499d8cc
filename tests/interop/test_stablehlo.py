"""Programs that run without this package."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.app.run.weights import make_model
from diffusion_jax.data.sources import pictures
from diffusion_jax.interop import stablehlo
from diffusion_jax.metrics import features
from diffusion_jax.metrics.judges import digits_judge
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import params_of, trial, untrained
from tests.app.modes.test_convert import write


def test_a_classifier_is_features_of_any_number_of_images(tmp_path):
  compute = lambda images: {'features': images.astype(jnp.float32).mean(axis=(1, 2))}
  path = tmp_path / 'new' / 'judge'
  stablehlo.save_features(path, compute, 4, pictures((2, 2, 3)))
  images = np.arange(5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3)
  found = stablehlo.load_features(path)(images)['features']
  assert_allclose(found, images.mean(axis=(1, 2)))
  with pytest.raises(ValueError, match='reads images of 2x2x3, and these are 1x2x3'):
    stablehlo.load_features(path)(images[:, :1])
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(ValueError, match='is not an exported classifier: give as weights'):
    stablehlo.load_features(path)


def test_a_classifier_becomes_features(tmp_path):
  """The logits are the run's, and a linear map of the features."""
  config = trial('digits_classifier', **{'evaluation.batch_size': 4})
  run = untrained(config, tmp_path / 'run')
  out = tmp_path / 'judge'
  write(run, 'stablehlo', out, **{'sampling.checkpoint': 'latest'})
  images = digits_judge.real('test')[:7]  # a batch and a half
  extractor = features.make('classifier', str(out))
  found = extractor.extract(images)
  model: Any = make_model(config, RunFolder.at(run))
  params = params_of(run)
  logits = jax.jit(model.noisy.logits(params))
  level = model.noisy.schedule()(0.0)
  expected = logits(level.alpha * (images / 127.5 - 1.0), level)
  assert np.ptp(expected) > 0.01
  assert_allclose(found['logits'], expected, rtol=1e-4, atol=1e-5)
  last = jax.device_get(params['network']['pool']['proj_out'])
  linear = found['features'] @ last['kernel'] + last['bias']
  assert_allclose(linear, expected, rtol=1e-4, atol=1e-5)
  assert_array_equal(found['predicted'], expected.argmax(axis=1))
  assert extractor.facts == pictures((8, 8, 1), 10)
  digest = hashlib.sha256(out.read_bytes()).hexdigest()
  assert extractor.identity['weights'] == digest
  with pytest.raises(ValueError, match='reads images of 8x8x1, and .* 6x8x1'):
    extractor.extract(images[:, :6])
