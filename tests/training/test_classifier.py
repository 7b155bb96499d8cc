"""The objective of classifiers, on Gaussian classes with a known posterior."""

import functools

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import log_softmax

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from diffusion_jax.training.classifier import classifier
from diffusion_jax.training.objectives import Context, Network
from tests.transcribed import transcribes

CLASSES = oracles.mixture(
  [1, 1, 1],
  [[-1.0, 0.5], [1.0, 0.0], [0.2, -0.8]],
  [0.1 * np.eye(2), 0.2 * np.eye(2), 0.3 * np.eye(2)],
)
SCHEDULE = dj.CosineSchedule()


def flattened(params, x, noise, cond, *, key=None):
  assert cond == {}
  level = SCHEDULE.from_logsnr(noise)
  dropout = 0.1 * jax.random.normal(key, (1, 3))
  return params * CLASSES.class_log_prob(x, level) + 3.0 + dropout  # unnormalised


def objective(network_fn):
  network = Network(network_fn, dj.logsnr_input)
  return classifier(network, SCHEDULE, times=dj.uniform_times)


@functools.partial(jax.jit, static_argnums=1)
def draws(key, n):
  keys = jax.random.split(key, 3)
  return [CLASSES.component(k).sample(keys[k], n) for k in range(3)]


def batch(n):
  label = np.random.default_rng(0).integers(0, 3, n)
  images = np.stack(draws(jax.random.key(1), 2000))
  return {'x': images[label, np.arange(n)], 'label': label}


@transcribes(
  'Classifier guidance (Dhariwal & Nichol 2021)',
  'section 4: the classifier and its loss',
  '`training.classifier.classifier`',
)
def test_the_loss_is_the_cross_entropy_of_noised_images(key):
  """The classifier's q is p^(1/2) of the posterior p at the same draws."""
  data = batch(2000)
  run = jax.jit(jax.value_and_grad(objective(flattened), has_aux=True))
  (loss, (metrics, state)), gradient = jax.device_get(
    run({'network': np.float32(0.5)}, Context(), key, data)
  )

  @jax.jit
  def posterior(key, x0):
    time_key, eps_key, dropout_key = jax.random.split(key, 3)
    level, _ = dj.uniform_times(time_key, 2000, SCHEDULE)
    eps = jax.random.normal(eps_key, (2000, 2))
    xt = dj.q_sample(x0, eps, level)
    return CLASSES.class_log_prob(xt, level), level, jax.random.normal(dropout_key, (1, 3))

  log_p, level, noise = jax.device_get(posterior(key, data['x']))
  log_p = np.asarray(log_p, np.float64)
  label, every = data['label'], np.arange(2000)
  log_q = log_softmax(0.5 * log_p + 0.1 * noise, axis=1)
  assert_allclose(loss, -log_q[every, label].mean(), rtol=1e-4)
  slope = np.sum(np.exp(log_q) * log_p, axis=1) - log_p[every, label]
  assert_allclose(gradient['network'], slope.mean(), rtol=1e-4)
  right = log_q.argmax(axis=1) == label
  assert state == () and float(metrics['accuracy'].total) == pytest.approx(right.mean(), abs=2e-3)
  quarter = np.clip(np.ceil(4 * np.asarray(level.t)), 1, 4)
  means = []
  for q in range(1, 5):
    found = metrics[f'accuracy_quarter_{q}']
    means.append(float(found.total / found.count))
    assert means[-1] == pytest.approx(right[quarter == q].mean(), abs=5e-3)
  assert means[0] > 0.8 > means[3] + 0.3  # noise hides the class
