"""The classifier two-sample test against sbibm's lines."""

import numpy as np
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier

from diffusion_jax.metrics import values


def test_the_accuracy_is_that_of_sbibm(rng):
  """X is the reference, Y the samples; its seed is 1."""
  reference = 3.0 + 2.0 * rng.standard_normal((150, 2))
  samples = reference[::-1] + 1.0
  mean, std = reference.mean(axis=0), reference.std(axis=0, ddof=1)
  data = np.concatenate([(reference - mean) / std, (samples - mean) / std])
  target = np.concatenate([np.zeros(150), np.ones(150)])
  network = MLPClassifier(
    activation='relu',
    hidden_layer_sizes=(20, 20),
    max_iter=10000,
    solver='adam',
    random_state=1,
  )
  folds = KFold(n_splits=5, shuffle=True, random_state=1)
  scores = cross_val_score(network, data, target, cv=folds, scoring='accuracy')
  found = values.classifier_accuracy(samples, reference)
  np.testing.assert_allclose(found, (scores.mean(), scores.std()))
  [score] = values.c2st().compute({'values': samples}, {'values': reference})
  assert score.name == 'c2st' and '150 against 150' in score.note
  np.testing.assert_allclose(score.estimate.value, scores.mean(), atol=0.02)


def test_a_shift_has_the_accuracy_of_the_best_classifier(rng):
  """N(0, 1) and N(1, 1) are told apart with probability Phi(1/2) = 0.691."""
  x, y = rng.standard_normal((2, 1500, 1))
  same, other = (values.classifier_accuracy(x + s, y) for s in (0.0, 1.0))
  assert abs(same.value - 0.5) < 0.04
  assert abs(other.value - 0.691) < 0.04 and 0.0 < other.error < 0.05


def test_the_larger_set_is_cut(rng):
  x, y = (
    {'values': rng.normal(size=(40, 1))},
    {'values': rng.normal(size=(90, 1))},
  )
  [score] = values.c2st(max_samples=30).compute(x, y)
  assert '30 against 30' in score.note
  [score] = values.c2st().compute(x, y)
  assert '40 against 40' in score.note
