"""Statistics in the files of other projects, and what is said of them."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.metrics import features, fid, mmd, published, vectors
from tests import refusals

MU, SIGMA = np.arange(4.0), np.diag([1.0, 2.0, 3.0, 4.0])
BOTH = {'mu': MU, 'sigma': SIGMA}
IMAGES = np.zeros((5, 4, 4, 1), np.uint8)
FD, SFD, KID = fid.fid(), fid.sfid(), mmd.kid()
IDENTITY = {'features': 'Inception 2015-12-05', 'preprocessing': 'means', 'weights': '1'}
EXTRACTOR = features.Extractor(lambda x: {'features': np.zeros((len(x), 4))}, IDENTITY)
OURS = '{"features": "Inception 2015-12-05", "preprocessing": "means"}'


def read(name='a.npz', **arrays):
  np.savez(name, **BOTH | arrays)
  return published.read(name, EXTRACTOR, {}, (4, 4, 1))


def pickled(name):
  with open(name, 'wb') as file:
    file.write(b'\x80\x04}.')
  return published.read(name, EXTRACTOR, {}, (4, 4, 1))


def lacking(metric, *shape, **arrays):
  np.savez('a.npz', **BOTH | arrays)
  return published.read('a.npz', EXTRACTOR, {'kid': metric}, shape)


def compared(**arrays):
  images, *_ = read(**arrays)
  published.check_sizes(images, EXTRACTOR.extract(IMAGES))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


NAMES = """
VIRTUAL_imagenet64_labeled.npz: resized as here (ADM)
cifar10-32x32.npz fid_stats_cifar10_train.npz: neither the file nor its name says
cifar10_legacy_tensorflow_train_32.npz: resized as here (clean-fid)
cifar10_legacy_pytorch_train_32.npz: resized by PyTorch, not as here
cifar10_clean_train_32.npz: resized by PIL, not as here (clean-fid)
vggface2_train.npz VGG-Face.npz vgg_sound.npz clipart.npz clip_art10.npz eclipse.npz clips.npz \
virtual_kitti.npz cleanroom.npz clean_faces.npz legacy_pyramids.npz resnetlike.npz: neither the \
file nor its name says
"""
ORIGINS = [
  ('mine.npz', {'mu_s': MU, 'sigma_s': SIGMA}, 'resized as here (ADM)'),
  ('a.npz', {'protocol': OURS}, 'Inception 2015-12-05 (means)'),
]
for names, origin in (row.split(': ') for row in NAMES.strip().split('\n')):
  ORIGINS += [(name, {}, origin) for name in names.split()]


@pytest.mark.parametrize('name, arrays, origin', ORIGINS)
def test_a_file_or_its_name_says_of_which_network_it_is(name, arrays, origin):
  images, facts, lacks = read(name, **arrays)
  assert facts['origin'].startswith(f'{name} (sha256 ') and origin in facts['origin']
  assert not lacks
  assert_array_equal(fid.given(images.arrays).covariance, SIGMA)


def test_covariances_of_float32_are_symmetric_up_to_rounding(rng):
  root = rng.normal(size=(4, 4)).astype(np.float32)
  sigma = root @ root.T
  sigma[0, 1] = np.nextafter(sigma[0, 1], np.float32(9.0))
  assert (sigma != sigma.T).any()
  assert_array_equal(fid.given({'mu': MU, 'sigma': sigma}).covariance, sigma)


VALUES = features.of_values(vectors.Standard(np.array([5.0, -1.0]), np.array([2.0, 10.0])))


def of_values(units=None, extractor=VALUES):
  """Reads statistics of two channels at two places."""
  more = {} if units is None else {'protocol': json.dumps({'preprocessing': units})}
  np.savez('v.npz', **BOTH | more)
  return fid.given(published.read('v.npz', extractor, {}, (2, 2))[0].arrays)


def test_statistics_of_values_are_in_the_units_that_the_file_says(rng):
  """Statistics of raw values become statistics of (x - mean) / std."""
  x = rng.multivariate_normal(MU, SIGMA, 50).reshape(50, 2, 2)
  centre, scale = np.tile([5.0, -1.0], 2), np.tile([2.0, 10.0], 2)
  raw = of_values('raw')
  assert_allclose(raw.mean, (MU - centre) / scale)
  assert_allclose(raw.covariance, np.diag(np.diag(SIGMA) / scale**2))
  here = fid.statistics(VALUES.extract(x)['features'])
  there = fid.statistics(x.reshape(50, 4))
  np.savez('v.npz', mu=there.mean, sigma=there.covariance, protocol='{"preprocessing": "raw"}')
  images, *_ = published.read('v.npz', VALUES, {}, (2, 2))
  assert fid.frechet_distance(here, fid.given(images.arrays)) < 1e-9
  for units in ('standardised', VALUES.identity['preprocessing']):
    assert_array_equal(of_values(units).covariance, SIGMA)


def test_eigenvalues_may_be_negative_by_rounding(rng):
  root = rng.normal(size=(40, 4)).astype(np.float32)
  sigma = root @ root.T  # of rank 4
  assert np.linalg.eigvalsh(sigma)[0] < 0.0
  fid.given({'mu': np.zeros(40), 'sigma': sigma})
  fid.given({'mu': np.zeros(2), 'sigma': np.zeros((2, 2))})


SKEW = SIGMA + np.eye(4, k=1)
WRONG = [
  (
    lambda: pickled('a.pkl'),
    'a.pkl is a pickle, which may run code and is not read: where you trust it, load it as d '
    "and write numpy.savez('a.npz', mu=d['mu'], sigma=d['sigma'])",
  ),
  (
    lambda: read(mu=np.array([None])),
    'a.npz is not an npz file of arrays: it contains Python objects',
  ),
  (lambda: read(sigma=SIGMA[:3]), 'a.npz: mu is [4] and sigma [3, 4], not [D] and [D, D]'),
  (
    lambda: read(sigma=SKEW),
    'a.npz: sigma is not symmetric, as covariances are: it differs from its transpose by up '
    'to 1, and its largest number is 4',
  ),
  (
    lambda: read(sigma=SIGMA - 1.01 * np.eye(4)),
    'a.npz: sigma is not a covariance: its eigenvalues are -0.01 to 2.99, and none of a '
    'covariance is negative',
  ),
  (lambda: read(sigma=np.eye(4) - 0.5), 'sigma is not a covariance: its eigenvalues are -1 to 1'),
  (
    lambda: read(sigma=SIGMA + 0j),
    'a.npz: sigma has numbers of the type complex128, not real ones',
  ),
  (lambda: read(mu=MU * 1j), 'a.npz: mu has numbers of the type complex128'),
  (lambda: read(mu_s=MU[:1], sigma_s=-np.eye(1)), 'a.npz: sigma_s is not a covariance'),
  (
    lambda: of_values(),
    'v.npz does not say the units of mu and sigma: add protocol=\'{"preprocessing": "raw"}\' '
    'to the file, or "standardised"',
  ),
  (
    lambda: of_values('standardised by 0123'),
    "v.npz was made with preprocessing 'standardised by 0123'",
  ),
  (lambda: read('vgg16_ffhq.npz'), 'is of vgg by its name'),
  (lambda: read('clip-vit-b.npz'), 'is of clip by its name'),
  (lambda: read(sigma=SIGMA * np.nan), 'a.npz: sigma: 4 of 4 rows'),
  (lambda: read(mu_s=MU, sigma_s=SKEW), 'a.npz: sigma_s is not symmetric'),
  (
    lambda: read('ffhq_clean_clip_vit_b_32_trainval_256.npz'),
    'is of clip by its name, and the samples have features of Inception 2015-12-05',
  ),
  (
    lambda: read(protocol='{"features": "DINOv2"}'),
    "a.npz was made with features 'DINOv2', and the other set with 'Inception 2015-12-05': "
    'they cannot be compared',
  ),
  (
    lambda: compared(mu=MU[:3], sigma=SIGMA[:3, :3]),
    'mu of a.npz has 3 numbers, and the samples have 4 features',
  ),
  (lambda: lacking(KID, 4, 4, 1), 'kid needs images, and a.npz has only mu, sigma'),
  (lambda: lacking(SFD, 4, 4, 1), 'kid needs images, and a.npz has only mu, sigma'),
  (
    lambda: lacking(FD, 8, 8, 1, arr_0=IMAGES),
    'a.npz has images [4, 4, 1], and the run has images [8, 8, 1]',
  ),
]


@pytest.mark.parametrize('error, call, message', [*refusals.rows((ValueError, OSError), WRONG)])
def test_other_files_are_refused_in_one_line(error, call, message):
  with refusals.one_line(error=error, match=message):
    call()
