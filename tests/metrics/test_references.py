"""Features of real images: what they depend on, and the cache."""

from typing import Any

import numpy as np
import pytest

from diffusion_jax.build import build_source
from diffusion_jax.metrics import digits, features, fid
from diffusion_jax.runs import references
from tests.programs.conftest import smoke


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  return tmp_path


def test_the_statistics_are_of_all_and_some_features_are_kept(
  cache, monkeypatch
):
  monkeypatch.setattr(references, 'LIMIT', 100)
  extractor = features.make('pixels')
  found, protocol = references.load(smoke(), extractor, 'test')
  whole = digits.real('test').reshape(-1, 64) / 255.0
  assert protocol['images'] == len(whole) == 360
  expected = fid.statistics(whole)
  np.testing.assert_allclose(found.statistics.mean, expected.mean, rtol=1e-5)
  np.testing.assert_allclose(
    found.statistics.covariance, expected.covariance, atol=1e-6
  )
  kept = found.found['features']
  assert len(kept) == 100
  distances = np.abs(kept[:, None] - whole[None]).max(axis=-1)
  assert distances.min(axis=1).max() < 1e-6  # each is one of them
  assert not np.allclose(kept, whole[:100])  # but not the first ones
  # again from the cache, bit for bit
  broken = extractor._replace(extract=lambda x: 1 / 0)
  again, _ = references.load(smoke(), broken, 'test')
  np.testing.assert_array_equal(again.found['features'], kept)
  np.testing.assert_array_equal(
    again.statistics.covariance, found.statistics.covariance
  )


def test_the_name_in_the_cache_depends_on_all_that_the_features_do():
  config, extractor = smoke(), features.make('pixels')
  source = build_source(config, 'train')
  found = [references.describe(config, source, 'train', extractor)]
  test = build_source(config, 'test')
  found.append(references.describe(config, test, 'test', extractor))
  for field in extractor.identity:
    identity = extractor.identity | {field: 'x'}
    other = extractor._replace(identity=identity)
    found.append(references.describe(config, source, 'train', other))
  changed: Any = build_source(config, 'train')
  changed.images[:] = 0
  found.append(references.describe(config, changed, 'train', extractor))
  names = {references.digest(protocol) for protocol in found}
  assert len(names) == len(found)


def test_a_cache_that_cannot_be_written_is_a_warning(cache):
  (cache / 'diffusion_jax').write_text('a file')
  with pytest.warns(UserWarning, match='features are not kept'):
    found, _ = references.load(smoke(), features.make('pixels'), 'test')
  assert len(found.found['features']) == 360
