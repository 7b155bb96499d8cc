"""The Inception score of a set of images, by the logits of any classifier."""

import numpy as np

from diffusion_jax.core.arguments import check_at_least
from diffusion_jax.metrics.estimates import Estimate
from diffusion_jax.metrics.metric import (
  SampleMetric,
  Score,
  check_counts,
  take,
)


def inception_score(
  logits: np.ndarray, num_splits: int = 10, seed: int | None = 2020
) -> Estimate:
  """Returns exp(E KL(p(y | x) || p(y))), mean and deviation over the splits.

  logits: [N, K]; for the published score Inception's, without its bias
  (Salimans et al. 2016). The score is 1 to K. The images are shuffled by
  RandomState(seed), as in torch-fidelity, or not at all for None. The deviation
  divides by the number of splits. Raises ValueError.
  """
  if logits.ndim != 2 or not 1 <= num_splits <= len(logits):
    raise ValueError(
      f'{num_splits} splits of logits {list(logits.shape)}: give [N, K] and '
      'at most N splits'
    )
  n = len(logits)
  order = np.arange(n)
  if seed is not None:
    order = np.random.RandomState(seed).permutation(n)
  ends = [i * n // num_splits for i in range(num_splits + 1)]
  scores = [
    _score(logits[order[start:end]])
    for start, end in zip(ends, ends[1:], strict=False)
  ]
  return Estimate(float(np.mean(scores)), float(np.std(scores)))


def inception(
  num_splits: int = 10, features: tuple[str, ...] = ()
) -> SampleMetric:
  """Inception score by the logits of a classifier (Salimans et al. 2016).

  The mean and the deviation over num_splits parts of the samples.
  """
  check_at_least(1, num_splits=num_splits)

  def compute(samples, reference):
    logits = take('is', samples, 'logits')
    check_counts('is', samples=(len(logits), num_splits))
    note = f'deviation over {num_splits} splits'
    return [Score('is', inception_score(logits, num_splits), note)]

  return SampleMetric({'is': True}, ('logits',), compute, features)


def _score(logits):
  import scipy.special  # not at every start of the program

  log_p = scipy.special.log_softmax(np.asarray(logits, np.float64), axis=1)
  log_mean = scipy.special.logsumexp(log_p, axis=0) - np.log(len(log_p))
  divergence = np.sum(np.exp(log_p) * (log_p - log_mean), axis=1)
  return np.exp(divergence.mean())
