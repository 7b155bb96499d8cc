"""Exported programs compute what the run does."""

import hashlib
from typing import Any

import jax
import numpy as np
import pytest

from diffusion_jax.app import models
from diffusion_jax.metrics import features
from diffusion_jax.metrics.judges import digits_judge
from tests.app.conftest import (
  params_of,
  trial,
  untrained,
)
from tests.app.modes.test_convert import write


def test_a_classifier_becomes_features(tmp_path):
  """The logits are the run's, and a linear map of the features."""
  config = trial('digits_classifier', **{'evaluation.batch_size': 4})
  run = untrained(config, tmp_path / 'run')
  out = tmp_path / 'judge'
  write(run, 'stablehlo', out, **{'sampling.checkpoint': 'latest'})
  images = digits_judge.real('test')[:7]  # a batch and a half
  extractor = features.make('classifier', str(out))
  found = extractor.extract(images)
  model: Any = models.make(config, run)
  params = params_of(run)
  logits = jax.jit(model.noisy.logits(params))
  level = model.noisy.schedule()(0.0)
  expected = logits(level.alpha * (images / 127.5 - 1.0), level)
  assert np.ptp(expected) > 0.01
  np.testing.assert_allclose(found['logits'], expected, rtol=1e-4, atol=1e-5)
  last = jax.device_get(params['network']['pool']['proj_out'])
  linear = found['features'] @ last['kernel'] + last['bias']
  np.testing.assert_allclose(linear, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(found['predicted'], expected.argmax(axis=1))
  digest = hashlib.sha256(out.read_bytes()).hexdigest()
  assert extractor.identity['weights'] == digest
  with pytest.raises(ValueError, match='reads images of 8x8x1, and .* 6x8x1'):
    extractor.extract(images[:, :6])
