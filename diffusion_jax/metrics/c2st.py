"""The classifier two-sample test: can a perceptron tell two sets apart?"""

import numpy as np

from diffusion_jax.core.arguments import check_at_least
from diffusion_jax.metrics.estimates import Estimate, check_pair
from diffusion_jax.metrics.metric import SampleMetric, Score, sizes
from diffusion_jax.metrics.values import take_values


def classifier_accuracy(
  samples: np.ndarray,
  reference: np.ndarray,
  num_folds: int = 5,
  seed: int = 1,
) -> Estimate:
  """Returns C2ST of samples [N, D] and reference [M, D], as sbibm defines it.

  The mean accuracy of scikit-learn's MLPClassifier (two hidden layers of 10 D
  units, Adam) over num_folds shuffled folds, 0.5 at best for N = M, 1 at worst;
  the error is the deviation over folds (Lopez-Paz & Oquab 2017; Lueckmann et
  al. 2021). Both sets are standardised by the reference; N and M should be
  equal. Raises ValueError.
  """
  from sklearn.model_selection import KFold, cross_val_score
  from sklearn.neural_network import MLPClassifier

  check_pair(samples, reference)
  reference = np.asarray(reference, np.float64)
  # sbibm's deviations are PyTorch's, over M - 1.
  mean, std = reference.mean(axis=0), reference.std(axis=0, ddof=1)
  x = np.concatenate([reference, samples])
  x = (x - mean) / np.where(std > 0.0, std, 1.0)
  labels = np.repeat([0, 1], [len(reference), len(samples)])
  width = 10 * x.shape[1]
  classifier = MLPClassifier((width, width), max_iter=10_000, random_state=seed)
  folds = KFold(num_folds, shuffle=True, random_state=seed)
  scores = cross_val_score(classifier, x, labels, cv=folds)
  return Estimate(float(scores.mean()), float(scores.std()))


def c2st(
  num_folds: int = 5, seed: int = 1, max_samples: int = 10_000
) -> SampleMetric:
  """Accuracy of a classifier of samples and reference, of equal numbers.

  See `classifier_accuracy`. max_samples: of each set, the first ones.
  """
  check_at_least(2, num_folds=num_folds)

  def compute(samples, reference):
    x, y = take_values('c2st', samples, reference, num_folds)
    count = min(len(x), len(y), max_samples)
    x, y = x[:count], y[:count]
    note = f'0.5 at best; deviation over {num_folds} folds, {sizes(x, y)}'
    return [Score('c2st', classifier_accuracy(x, y, num_folds, seed), note)]

  return SampleMetric({'c2st': False}, ('values',), compute)
