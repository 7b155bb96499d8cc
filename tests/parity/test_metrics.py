"""Metrics against torch-fidelity, pytorch-fid and prdc, on equal features."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.metrics.accuracy import inception_score
from diffusion_jax.metrics.fid import frechet_distance, statistics
from diffusion_jax.metrics.manifolds import density_coverage, precision_recall
from diffusion_jax.metrics.mmd import kernel_distance
from tests.parity.torch_packages import load

pytestmark = pytest.mark.parity

CASES = {'many': (900, 48), 'rank_deficient': (60, 200), 'small': (12, 5)}


@pytest.fixture(params=CASES)
def features(request):
  """Positive, correlated features, like a network's."""
  n, dim = CASES[request.param]
  rng = np.random.default_rng(0)
  mix = rng.standard_normal((dim, dim)) / dim**0.5
  x = np.maximum(rng.standard_normal((n, dim)) @ mix, 0.0)
  return x, np.maximum(rng.standard_normal((n - 3, dim)) @ mix + 0.2, 0.0)


def fid(package, x, y):
  if package == 'torch-fidelity':
    module = load('torch_fidelity.metric_fid')
    p, q = ({'mu': v.mean(0), 'sigma': np.cov(v.T)} for v in (x, y))
    return module.fid_statistics_to_metric(p, q, verbose=False)['frechet_inception_distance']
  module = load('pytorch_fid.fid_score')
  p, q = ((v.mean(axis=0), np.cov(v.T)) for v in (x, y))
  return module.calculate_frechet_distance(*p, *q)


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('package', ['torch-fidelity', 'pytorch-fid'])
def test_frechet_distance(features, package):
  x, y = features
  found = frechet_distance(statistics(x), statistics(y))
  assert_allclose(found, fid(package, x, y), rtol=1e-6)
  # the other is 0 up to the root of the rounding error
  same = frechet_distance(statistics(x), statistics(x.copy()))
  scale = np.trace(statistics(x).covariance)
  assert_allclose(same, 0.0, atol=1e-12 * scale)
  assert_allclose(same, fid(package, x, x), atol=1e-5 * scale)


@pytest.mark.parametrize('seed', [2020, 1])
def test_kernel_distance(features, seed):
  module = load('torch_fidelity.metric_kid')
  torch = load('torch')
  x, y = features
  size = min(len(y), 300)
  expected = module.kid_features_to_metric(
    torch.tensor(x),
    torch.tensor(y),
    kid_subsets=7,
    kid_subset_size=size,
    kid_kernel='poly',
    rng_seed=seed,
    verbose=False,
  )
  found = kernel_distance(x, y, num_subsets=7, subset_size=size, seed=seed)
  assert_allclose(found, list(expected.values()), rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize('splits', [1, 10])
def test_inception_score(features, splits):
  module = load('torch_fidelity.metric_isc')
  torch = load('torch')
  logits = 4.0 * features[0]
  expected = module.isc_features_to_metric(torch.tensor(logits), splits)
  found = inception_score(logits, splits)
  assert_allclose(found, list(expected.values()), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize('k', [1, 3, 5])
def test_precision_recall_density_coverage(features, k):
  """The counts are the same; prdc's fractions are averages of them."""
  prdc = pytest.importorskip('prdc')
  x, y = features
  expected = prdc.compute_prdc(y, x, nearest_k=k)
  found = precision_recall(x, y, k)._asdict()
  found |= density_coverage(x, y, k)._asdict()
  sizes = {'precision': len(x), 'recall': len(y), 'density': k * len(x)}
  for name, estimate in found.items():
    size = sizes.get(name, len(y))
    assert round(size * estimate.value) == round(size * expected[name]), name
    assert_allclose(estimate.value, expected[name], rtol=1e-12)


def test_equal_sets():
  """Ties: the k-th neighbour is on the sphere, outside for prdc and here."""
  prdc = pytest.importorskip('prdc')
  x = np.random.default_rng(0).integers(0, 9, (80, 6)).astype(np.float64)
  x = np.unique(x, axis=0)
  expected = prdc.compute_prdc(x, x, nearest_k=5)
  found = density_coverage(x, x, 5)
  assert (found.density.value, found.coverage.value) == (expected['density'], expected['coverage'])
