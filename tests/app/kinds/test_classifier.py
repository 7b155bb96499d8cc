"""A classifier is trained from its config, and its accuracy is counted literally."""

from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run import weights
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.data import small_sets
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import lines_of, printed_by, trial
from tests.app.small_network import SmallClassifier


def classifier_smoke(**changes):
  small = {'network': f'{SmallClassifier.__module__}:SmallClassifier'}
  return trial('digits_classifier', **small | changes)


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'classifier'
  fields = {'training.held_out.every': 4, 'training.sample_every': 4}
  printed = printed_by(MODES['train'], classifier_smoke(**fields), workdir)
  assert 'a classifier makes no images' in printed
  return workdir


def test_a_classifier_run_trains(classifier):
  losses = lines_of(classifier, 'loss')
  assert len(losses) == 4 and all(0 < loss < 10 for loss in losses)
  assert 0 <= lines_of(classifier)[-1]['test_accuracy'] <= 1
  assert not list((classifier / 'samples').iterdir())


def test_accuracy_literally(classifier):
  """Accuracy is the fraction of right classes, with the metric's own noise."""
  config = classifier_smoke()
  model: Any = make_model(config, RunFolder.at(classifier))
  params, _ = weights.restore(model)
  images, labels = small_sets.digits('test').read(np.arange(4)).values()
  images = np.float32(images) / 8 - 1
  keys = jax.random.split(jax.random.key(0), 4)
  measure = jax.jit(model.schema.metrics['accuracy']().measure(model.measured))
  right = measure(params, keys, images, {'label': labels})['right']
  ask = jax.jit(model.noisy.network.apply)
  normal = jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (8, 8, 1))))
  split = jax.vmap(lambda key: jax.random.split(key, 11))
  noise = np.asarray(jax.jit(lambda keys: normal(split(keys)))(keys))
  alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
  for i, t in enumerate([1, *range(100, 1001, 100)]):
    alpha, sigma = alpha_bar[t - 1] ** 0.5, (1 - alpha_bar[t - 1]) ** 0.5
    x = np.float32(alpha * images + sigma * noise[:, i])
    at = np.full(4, t - 1.0, np.float32)
    logits = ask({'params': params['network']}, x, at)
    guess = np.asarray(logits).argmax(axis=1)
    assert_array_equal(right[:, i], guess == labels)
