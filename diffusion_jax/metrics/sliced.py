"""The sliced Wasserstein-2 distance."""

import numpy as np

from diffusion_jax.core.arguments import check_at_least
from diffusion_jax.metrics.estimates import bootstrap, check_pair
from diffusion_jax.metrics.metric import SampleMetric, Score, sizes
from diffusion_jax.metrics.values import take_values


def directions(count: int, dimension: int, seed: int = 0) -> np.ndarray:
  """Draws random unit vectors, [count, dimension]."""
  vectors = np.random.default_rng(seed).normal(size=(count, dimension))
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def wasserstein_2(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Returns the squared Wasserstein-2 distances of columns, [P].

  x: [N, P], y: [M, P], one-dimensional samples in columns. The distance is the
  integral of the squared difference of their quantile functions, exactly.
  """
  n, m = len(x), len(y)
  edges = np.union1d(np.arange(1, n + 1) / n, np.arange(1, m + 1) / m)
  widths = np.diff(edges, prepend=0.0)
  centres = edges - 0.5 * widths
  x, y = np.sort(x, axis=0), np.sort(y, axis=0)
  apart = x[(centres * n).astype(int)] - y[(centres * m).astype(int)]
  return widths @ apart**2


def sliced_w2(
  samples: np.ndarray,
  reference: np.ndarray,
  num_directions: int = 100,
  seed: int = 0,
) -> float:
  """Computes the sliced W2 of samples [N, D] and reference [M, D].

  The root of the mean over random directions of the squared W2 of the
  projections (Bonneel et al. 2015). Raises ValueError.
  """
  check_pair(samples, reference)
  axes = directions(num_directions, samples.shape[1], seed).T
  return float(np.sqrt(wasserstein_2(samples @ axes, reference @ axes).mean()))


def sliced(
  num_directions: int = 100, num_draws: int = 10, seed: int = 0
) -> SampleMetric:
  """Sliced Wasserstein-2 distance, in the reference's standard deviations.

  See `sliced_w2`. num_draws: of the bootstrap, for its error.
  """
  check_at_least(1, num_directions=num_directions)
  check_at_least(0, num_draws=num_draws)

  def compute(samples, reference):
    x, y = take_values('sliced_w2', samples, reference)

    def distance(rows):
      return sliced_w2(rows, y, num_directions, seed)

    note = f'{num_directions} directions, {sizes(x, y)}'
    return [Score('sliced_w2', bootstrap(distance, x, num_draws), note)]

  return SampleMetric({'sliced_w2': False}, ('values',), compute)
