"""A run of a classifier of noisy images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.app import models
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run import weights
from diffusion_jax.data import small_sets
from tests.app.conftest import lines_of, printed_by
from tests.app.models.test_guidance import classifier_smoke


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'classifier'
  fields = {'training.evaluate_every': 4, 'training.sample_every': 4}
  printed = printed_by(MODES['train'], classifier_smoke(**fields), workdir)
  assert 'a classifier makes no images' in printed
  return workdir


def test_a_classifier_run_trains(run):
  losses = lines_of(run, 'loss')
  assert len(losses) == 4 and all(0 < loss < 10 for loss in losses)
  assert 0 <= lines_of(run)[-1]['test_accuracy'] <= 1
  assert not list((run / 'samples').iterdir())


def test_accuracy_literally(run):
  """It is the fraction of right classes, with the metric's own noise."""
  config = classifier_smoke()
  model: Any = models.make(config, run)
  params, _ = weights.restore(model)
  images, labels = small_sets.digits('test').read(np.arange(4)).values()
  images, labels = jnp.asarray(images, jnp.float32) / 8 - 1, jnp.array(labels)
  keys = jax.random.split(jax.random.key(0), 4)
  measure = jax.jit(model.schema.metrics['accuracy']().measure(model.measured))
  right = measure(params, keys, images, {'label': labels})['right']
  ask = jax.jit(model.noisy.network.apply)
  split = jax.vmap(lambda key: jax.random.split(key, 11))(keys)
  alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
  for i, t in enumerate([1, *range(100, 1001, 100)]):
    eps = jax.vmap(lambda k: jax.random.normal(k, (8, 8, 1)))(split[:, i])
    x = alpha_bar[t - 1] ** 0.5 * images + (1 - alpha_bar[t - 1]) ** 0.5 * eps
    logits = ask({'params': params['network']}, x, jnp.full(4, t - 1.0))
    guess = np.asarray(logits).argmax(axis=1)
    np.testing.assert_array_equal(right[:, i], guess == labels)
