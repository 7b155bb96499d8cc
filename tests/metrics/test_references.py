"""Features of real images and their cache."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_equal

from diffusion_jax.data import small_sets, sums
from diffusion_jax.metrics import features, fid, references
from diffusion_jax.metrics.judges import digits_judge

ABOUT = {'data': {'name': 'digits'}, 'split': 'test'}


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  return tmp_path


def load(extractor):
  return references.load(small_sets.digits('test'), ABOUT, extractor, 100)


def test_the_statistics_are_of_all_and_some_features_are_kept(cache, monkeypatch):
  monkeypatch.setattr(references, 'LIMIT', 100)
  extractor = features.make('pixels')
  found, protocol = load(extractor)
  whole = digits_judge.real('test').reshape(-1, 64) / 255.0
  assert protocol['images'] == len(whole) == 360
  expected = fid.statistics(whole)
  assert_allclose(found['mu'], expected.mean, rtol=1e-5)
  assert_allclose(found['sigma'], expected.covariance, atol=1e-6)
  kept = found['features']
  assert len(kept) == 100
  distances = np.abs(kept[:, None] - whole[None]).max(axis=-1)
  assert distances.min(axis=1).max() < 1e-6  # each is one of them
  assert not np.allclose(kept, whole[:100])  # but not the first ones
  # again from the cache, bit for bit
  again, _ = load(extractor._replace(extract=lambda x: 1 / 0))
  assert_equal(dict(again), dict(found))


def test_the_name_in_the_cache_depends_on_all_that_the_features_do():
  extractor, source = features.make('pixels'), small_sets.digits('train')
  found = [references.describe(source, ABOUT, extractor)]
  for field in ABOUT:
    found.append(references.describe(source, ABOUT | {field: 'x'}, extractor))
  found.append(references.describe(small_sets.digits('test'), ABOUT, extractor))
  for field in extractor.identity:
    other = extractor._replace(identity=extractor.identity | {field: 'x'})
    found.append(references.describe(source, ABOUT, other))
  black = dataclasses.replace(source, x=np.zeros_like(source.x))
  found.append(references.describe(black, ABOUT, extractor))
  assert len({sums.of_json(protocol) for protocol in found}) == len(found)


def test_a_cache_that_cannot_be_written_is_a_warning(cache):
  (cache / 'diffusion_jax').write_text('a file')
  with pytest.warns(UserWarning, match='features are not kept'):
    found, _ = load(features.make('pixels'))
  assert len(found['features']) == 360
