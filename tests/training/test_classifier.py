"""The objective of classifiers, on Gaussian classes with a known posterior."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from diffusion_jax.training.classifier import classifier, label_log_prob
from diffusion_jax.training.objectives import Context, Network

CLASSES = oracles.mixture(
  [1, 1, 1],
  [[-1.0, 0.5], [1.0, 0.0], [0.2, -0.8]],
  [0.1 * np.eye(2), 0.2 * np.eye(2), 0.3 * np.eye(2)],
)
SCHEDULE = dj.CosineSchedule()


def exact(params, x, noise, cond, *, key=None):
  assert cond == {}
  level = SCHEDULE.from_logsnr(noise)
  return params + 3.0 + CLASSES.class_log_prob(x, level)  # unnormalised


def mlp(params, x, noise, cond, *, key=None):
  h = jnp.concatenate([x, 0.1 * noise[:, None]], axis=1)
  return jnp.tanh(h @ params['a'] + params['b'][None]) @ params['c']


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


def test_the_loss_is_the_cross_entropy_of_noised_images(key):
  """The posterior is computed at the same draws of levels and noise."""
  data = batch(2000)
  run = jax.jit(objective(exact))
  loss, (metrics, state) = jax.device_get(
    run({'network': np.zeros(())}, Context(), key, data)
  )

  @jax.jit
  def posterior(key, x0):
    time_key, eps_key, _ = jax.random.split(key, 3)
    level, _ = dj.uniform_times(time_key, 2000, SCHEDULE)
    eps = jax.random.normal(eps_key, (2000, 2))
    xt = dj.q_sample(x0, eps, level)
    return CLASSES.class_log_prob(xt, level), level

  log_p, level = jax.device_get(posterior(key, data['x']))
  log_p = np.asarray(log_p, np.float64)
  label, every = data['label'], np.arange(2000)
  np.testing.assert_allclose(loss, -log_p[every, label].mean(), rtol=1e-4)
  right = log_p.argmax(axis=1) == label
  assert state == () and float(metrics['accuracy'].total) == pytest.approx(
    right.mean(), abs=2e-3
  )
  quarter = np.clip(np.ceil(4 * np.asarray(level.t)), 1, 4)
  means = []
  for q in range(1, 5):
    found = metrics[f'accuracy_quarter_{q}']
    means.append(float(found.total / found.count))
    assert means[-1] == pytest.approx(right[quarter == q].mean(), abs=5e-3)
  assert means[0] > 0.8 > means[3] + 0.3  # noise hides the class


def test_training_finds_the_classes():
  """The loss falls from chance, log 3, towards the posterior's own loss."""
  rng = np.random.default_rng(0)
  shapes = {'a': (3, 32), 'b': (32,), 'c': (32, 3)}
  params = {
    'network': {n: np.float32(0.5 * rng.normal(size=s))
                for n, s in shapes.items()}
  }  # fmt: skip
  optimizer = optax.adam(1e-2)
  loss_fn = objective(mlp)

  @jax.jit
  def train(params):
    def step(carry, i):
      params, state = carry
      key = jax.random.fold_in(jax.random.key(0), i)
      (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(
        params, Context(), key, data
      )
      updates, state = optimizer.update(grads, state)
      return (optax.apply_updates(params, updates), state), loss

    carry = params, optimizer.init(params)
    return jax.lax.scan(step, carry, jnp.arange(300))[1]

  data = batch(512)
  losses = np.asarray(train(params))
  run = jax.jit(objective(exact))
  best = float(run({'network': 0.0}, Context(), jax.random.key(0), data)[0])
  assert losses[0] > 0.9
  assert losses[-50:].mean() < best + 0.12


def test_its_dropout_has_a_key_of_its_own(key):
  """It differs from the keys of the times and the noise."""
  seen = []

  def network_fn(params, x, noise, cond, *, key=None):
    seen.append(jax.random.key_data(key))
    return jnp.zeros((len(x), 3))

  data = batch(8)

  @jax.jit
  def run(key):
    objective(network_fn)({'network': ()}, Context(), key, data)
    return seen, jax.random.key_data(jax.random.split(key, 3))

  (found,), (_, _, dropout_key) = jax.device_get(run(key))
  np.testing.assert_array_equal(found, dropout_key)


def test_log_probabilities_of_labels():
  logits = np.random.default_rng(0).normal(size=(4, 3)) * 5
  label = np.array([0, 2, 1, 1])
  p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  expected = np.log(p[np.arange(4), label])
  found = label_log_prob(jnp.float32(logits), jnp.asarray(label))
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_unlabelled_images_are_refused(key):
  with pytest.raises(ValueError, match="needs batch.'label'"):
    objective(exact)({'network': 0.0}, Context(), key, {'x': jnp.zeros((2, 2))})
