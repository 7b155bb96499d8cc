"""Perceptrons of judges are fitted once, and their features are scikit-learn's."""

import hashlib

import numpy as np
import pytest
import safetensors.numpy
from numpy.testing import assert_allclose

from diffusion_jax.data import small_sets, sources
from diffusion_jax.metrics import features
from diffusion_jax.metrics.judges import perceptrons


@pytest.mark.parametrize('name, highest, right', [('digits', 16, 0.98), ('two_levels', 1, 0.92)])
def test_features_are_those_of_the_file(name, highest, right):
  """Each layer is computed by hand, and the classifier is good."""
  source = small_sets.digits('test')
  source = sources.Binarized(source, 'threshold') if highest == 1 else source
  x, labels = source.read(np.arange(360)).values()
  x = np.rint(x * (255.0 / highest)).astype(np.uint8)
  extractor = features.make(name)
  found = extractor.extract(x)
  path = perceptrons.FOLDER / f'{name}.safetensors'
  arrays = safetensors.numpy.load_file(path)
  names = 'kernel', 'bias', 'last', 'shift'
  kernel, bias, last, shift = (np.float64(arrays[name]) for name in names)
  levels = np.rint(x.reshape(360, 64) / 255.0 * highest) / highest
  hidden = np.maximum(levels @ kernel + bias, 0.0)
  assert_allclose(found['features'], hidden, atol=1e-12)
  assert_allclose(found['logits'], hidden @ last + shift, atol=1e-12)
  assert np.mean(found['predicted'] == labels) > right
  assert np.mean(np.argmax(found['logits'], axis=1) == labels) > right
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  assert extractor.identity['weights'] == digest


@pytest.mark.slow
@pytest.mark.parametrize('name', perceptrons.FITTED)
def test_kept_weights_are_those_of_the_fit(name):
  """Fitted weights differ slightly: rounding errors grow in hundreds of iterations."""
  kept, _ = perceptrons.load(name)
  fitted = perceptrons.FITTED[name]()
  x = np.random.default_rng(0).uniform(0.0, 1.0, (500, len(kept.kernel)))
  theirs = fitted.logits(fitted.features(x))
  ours = kept.logits(kept.features(x))
  assert np.abs(ours - theirs).max() < 0.05 * theirs.std()
