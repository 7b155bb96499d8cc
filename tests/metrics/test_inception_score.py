import numpy as np

from diffusion_jax.metrics.accuracy import inception_score


def test_sure_and_uniform_classes_score_their_number():
  """KL(p(y | x) || p(y)) is log K for each image."""
  logits = np.tile(100.0 * np.eye(7), (5, 1))
  found = inception_score(logits, num_splits=1)
  np.testing.assert_allclose(found, (7.0, 0.0), rtol=1e-12)


def test_equal_answers_score_one():
  logits = np.tile(np.arange(4.0), (20, 1))
  np.testing.assert_allclose(inception_score(logits, 5), (1.0, 0.0), atol=1e-9)


def test_it_is_the_formula_of_each_split():
  """It is exp of the mean divergence, of images in their order."""
  logits = np.random.default_rng(0).standard_normal((11, 3)).astype(np.float32)
  p = np.exp(logits.astype(np.float64))
  p /= p.sum(axis=1, keepdims=True)
  scores = []
  for part in (p[:5], p[5:]):
    kl = (part * np.log(part / part.mean(axis=0))).sum(axis=1)
    scores.append(np.exp(kl.mean()))
  found = inception_score(logits, 2, seed=None)
  np.testing.assert_allclose(found.value, np.mean(scores), rtol=1e-6)
  np.testing.assert_allclose(found.error, np.std(scores), rtol=1e-4)
