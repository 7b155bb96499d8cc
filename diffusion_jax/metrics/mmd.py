"""Maximum mean discrepancies: KID, CMMD, and the energy distance."""

from collections.abc import Callable

import numpy as np

from diffusion_jax.core.arguments import check_at_least, check_positive
from diffusion_jax.data.sources import some_of
from diffusion_jax.declared import declares
from diffusion_jax.metrics import lattices
from diffusion_jax.metrics.estimates import Estimate, Missing, check_pair
from diffusion_jax.metrics.metric import SampleMetric, Score, sizes, take_features
from diffusion_jax.metrics.vectors import take_values

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]

ENTRIES = 2**24  # entries of a kernel matrix in memory at a time


def kernel_distance(
  samples: np.ndarray,
  reference: np.ndarray,
  num_subsets: int = 100,
  subset_size: int = 1000,
  seed: int = 2020,
) -> Estimate:
  """Returns KID and its deviation over subsets, of features [N, D], [M, D].

  The unbiased squared MMD with the kernel (x.y / D + 1)^3 (Binkowski et al.
  2018), averaged over subsets of both sets, which are drawn by
  RandomState(seed) as in torch-fidelity. Subsets are at most as large as the
  smaller set; the expectation does not depend on their size. Raises ValueError.
  """
  check_pair(samples, reference)
  size = min(subset_size, len(samples), len(reference))
  if size < 2:
    raise ValueError('the kernel distance needs 2 images or more in each set')
  rng = np.random.RandomState(seed)
  draws = []
  for _ in range(num_subsets):
    x = samples[rng.choice(len(samples), size, replace=False)]
    y = reference[rng.choice(len(reference), size, replace=False)]
    draws.append(unbiased_mmd(x, y, cubic))
  return Estimate(float(np.mean(draws)), float(np.std(draws)))


def cmmd(samples: np.ndarray, reference: np.ndarray, sigma: float = 10.0) -> Estimate:
  """Returns 1000 times the biased squared MMD of unit vectors, and its error.

  The kernel is exp(-|x - y|^2 / (2 sigma^2)). It is CMMD (Jayasumana et al.
  2024) if samples [N, D] and reference [M, D] are image embeddings of CLIP;
  they are normalised here. The error comes from the first-order projection
  (delta method); it is NaN for a set of one image. Raises ValueError.
  """
  check_pair(samples, reference)
  x, y = _normalised(samples), _normalised(reference)

  def kernel(a, b):
    return np.exp((a @ b.T - 1.0) / sigma**2)  # |a - b|^2 = 2 - 2 a.b

  value, error = _with_error(x, y, kernel, own=True)
  known = min(len(x), len(y)) > 1
  return Estimate(1e3 * value, 1e3 * error if known else float('nan'))


def energy_distance(samples: np.ndarray, reference: np.ndarray) -> Estimate:
  """Returns 2 E|x - y| - E|x - x'| - E|y - y'|, unbiased, and its error.

  Of samples [N, D] and reference [M, D] (Szekely & Rizzo 2013, Eq. 6); it is
  the MMD with the kernel -|x - y|, may be negative, and its expectation is 0
  for equal laws. The error is as in `cmmd`. Raises ValueError.
  """
  from scipy.spatial.distance import cdist

  def kernel(x, y):
    return -cdist(x, y)

  check_pair(samples, reference)
  return Estimate(*_with_error(samples, reference, kernel, own=False))


def unbiased_mmd(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> float:
  """Returns the unbiased squared MMD of x [N, D] and y [M, D].

  Gretton et al. 2012, Eq. 3, without the pairs of an image with itself. It may
  be negative.
  """
  return float(
    row_means(x, x, kernel, own=False).mean()
    + row_means(y, y, kernel, own=False).mean()
    - 2.0 * row_means(x, y, kernel).mean()
  )


def cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Returns the kernel of KID, (x.y / D + 1)^3, [n, m] of [n, D] and [m, D]."""
  return (x @ y.T / x.shape[1] + 1.0) ** 3


def row_means(x: np.ndarray, y: np.ndarray, kernel: Kernel, own: bool = True) -> np.ndarray:
  """Returns the mean over j of kernel(x_i, y_j), [N]; without j = i if not own.

  The kernel is evaluated in float64, in blocks of ENTRIES at most.
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  rows = max(1, ENTRIES // len(y))
  sums = []
  for start in range(0, len(x), rows):
    block = kernel(x[start : start + rows], y)
    if not own:
      i = np.arange(len(block))
      block[i, start + i] = 0.0
    sums.append(block.sum(axis=1))
  return np.concatenate(sums) / (len(y) if own else len(y) - 1)


def _with_error(x, y, kernel, own):
  # Returns the squared MMD and its error by the first-order projection.
  xx, yy = (row_means(a, a, kernel, own) for a in (x, y))
  xy, yx = row_means(x, y, kernel), row_means(y, x, kernel)
  value = xx.mean() + yy.mean() - 2.0 * xy.mean()
  variance = np.var(xx - xy) / len(x) + np.var(yy - yx) / len(y)
  return float(value), 2.0 * float(np.sqrt(variance))


def _normalised(x):
  x = np.asarray(x, np.float64)
  length = np.linalg.norm(x, axis=1, keepdims=True)
  if not np.all(length > 0.0):
    raise Missing('cmmd needs directions, and a feature vector of length 0 has no direction')
  return x / length


@declares(
  what=(
    'the unbiased squared MMD with the kernel (x·y / D + 1)³ (Bińkowski et al. 2018), mean '
    'and deviation over 100 subsets of 1,000'
  ),
)
@lattices.named
def kid(
  num_subsets: int = 100, subset_size: int = 1000, features: tuple[str, ...] = ()
) -> SampleMetric:
  """Kernel distance of the features, unbiased (Binkowski et al. 2018).

  The mean and the deviation over num_subsets random subsets of both sets.
  """
  check_at_least(1, num_subsets=num_subsets)
  check_at_least(2, subset_size=subset_size)

  def compute(samples, reference):
    x, y = take_features('kid', samples, reference, (2, 2))
    size = min(subset_size, len(x), len(y))
    note = f'deviation over {num_subsets} subsets of {size}'
    return [Score('kid', kernel_distance(x, y, num_subsets, size), note)]

  return SampleMetric({'kid': False}, ('features',), compute, features)


@declares(
  what=(
    '1000 times the biased squared MMD of unit vectors, Gaussian kernel of width 10 '
    "(Jayasumana et al. 2024, of CLIP's features)"
  ),
  data='pictures',
  instead='take fd, c2st or others of numbers',
)
@lattices.named
def unit_mmd(sigma: float = 10.0, features: tuple[str, ...] = ()) -> SampleMetric:
  """CMMD, 1000 times the biased squared MMD of unit vectors.

  Jayasumana et al. 2024, who take the features of CLIP; sigma: the width of the
  kernel.
  """
  check_positive(sigma=sigma)

  def compute(samples, reference):
    x, y = take_features('cmmd', samples, reference, (1, 1))
    return [Score('cmmd', cmmd(x, y, sigma), f'sigma {sigma:g}, {sizes(x, y)}')]

  return SampleMetric({'cmmd': False}, ('features',), compute, features)


@declares(what='2 E|x − y| − E|x − x′| − E|y − y′|, unbiased: 0 on average for equal laws')
@lattices.named
def energy(max_samples: int = 10_000) -> SampleMetric:
  """Energy distance, in the reference's standard deviations.

  See `energy_distance`. max_samples: of each set, random ones; the cost is
  their product.
  """
  check_at_least(2, max_samples=max_samples)

  def compute(samples, reference):
    x, y = take_values('energy', samples, reference)
    x, y = (z[some_of(z, max_samples)] for z in (x, y))
    return [Score('energy', energy_distance(x, y), sizes(x, y))]

  return SampleMetric({'energy': False}, ('values',), compute)
