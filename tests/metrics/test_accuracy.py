"""Accuracy is the share of right classes, and falls with the noise."""

import types

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

import diffusion_jax as dj
from diffusion_jax.metrics import accuracy
from diffusion_jax.metrics.accuracy import inception_score
from tests.jitted import level_at
from tests.transcribed import transcribes


def test_of_samples_it_is_the_share_of_their_labels():
  samples = {'predicted': np.arange(40) % 4, 'labels': np.zeros(40)}
  [score] = accuracy.of_samples().compute(samples, {})
  assert score.estimate.value == 0.25


def test_of_a_classifier_it_falls_with_the_noise(tmp_path):
  """The sign of a pixel of +-1 is read wrongly with Phi(-alpha / sigma)."""
  metric = accuracy.of_classifier(t_min=0.05)

  class Model:
    facts = types.SimpleNamespace(num_classes=2)
    schedule = staticmethod(lambda params: dj.CosineSchedule())

    def logits(self, params):
      return lambda x, level: jnp.stack([-x, x], -1).reshape(len(x), 2)

  n = 4000
  labels = np.arange(n) % 2
  x0 = np.float32(2 * labels - 1).reshape(n, 1, 1, 1)
  keys = jax.random.split(jax.random.key(0), n)
  arrays = jax.device_get(jax.jit(metric.measure(Model()))({}, keys, x0, {'label': labels}))
  assert arrays['right'].shape == (n, 11)
  times = np.array([0.05, *np.linspace(0.1, 1.0, 10)])
  level = jax.device_get(level_at(dj.CosineSchedule(), times))
  exact = norm.cdf(level.alpha / level.sigma)
  parts = {'right': arrays['right'].reshape(2, -1, 11).sum(axis=1)}
  found = metric.report(parts | {'chance': arrays['chance']}, tmp_path)
  assert_allclose(found['t'], times)
  error = np.sqrt(exact * (1 - exact) / n)
  assert (np.abs(found['accuracy'] - exact) < 4.5 * error + 1e-9).all()
  assert_allclose(found['standard_error'][-1], error[-1], rtol=0.01)
  assert (tmp_path / 'accuracy.png').stat().st_size > 1000
  [score] = metric.compute(parts | {'chance': arrays['chance']})
  assert score.estimate.value == found['accuracy'][0]
  assert_array_equal(arrays['chance'], np.full(n, 0.5))


@transcribes(
  'Inception score (Salimans et al. 2016)',
  'exp E KL(p(y | x) ‖ p(y))',
  '`metrics.accuracy.inception_score`',
)
def test_it_is_the_formula_of_each_split():
  """The inception score is exp of the mean divergence, of images in their order."""
  logits = np.random.default_rng(0).standard_normal((11, 3)).astype(np.float32)
  p = np.exp(logits.astype(np.float64))
  p /= p.sum(axis=1, keepdims=True)
  scores = []
  for part in (p[:5], p[5:]):
    kl = (part * np.log(part / part.mean(axis=0))).sum(axis=1)
    scores.append(np.exp(kl.mean()))
  found = inception_score(logits, 2, seed=None)
  assert_allclose(found.value, np.mean(scores), rtol=1e-6)
  assert_allclose(found.error, np.std(scores), rtol=1e-4)
