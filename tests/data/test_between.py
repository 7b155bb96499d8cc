"""Two sets as one: pairs, and points of a source that change every epoch."""

import numpy as np
import pytest

from diffusion_jax.data import pipeline
from diffusion_jax.data.between import Between
from diffusion_jax.data.sources import ArraySource, checksum


def points(n, shift=0.0):
  return ArraySource(np.arange(n, dtype=np.float32)[:, None] + shift)


def test_pairs_stay_together_in_every_epoch():
  joined = Between(points(6), points(6, 100.0), paired=True)
  batch = pipeline.batch_at(joined, 4, 0, 2)
  np.testing.assert_array_equal(batch['context'], batch['x'] + 100.0)
  with pytest.raises(ValueError, match='the target has 6 examples and the source 5'):
    Between(points(6), points(5), paired=True)


def test_each_epoch_meets_other_points_of_the_source():
  """Within it each point is taken as often as the lengths allow."""
  joined = Between(points(6), points(3))
  epochs = [pipeline.batch_at(joined, 6, 0, i) for i in range(20)]
  for batch in epochs:
    np.testing.assert_array_equal(np.sort(batch['context'].ravel()), np.repeat([0, 1, 2], 2))
  pairs = {tuple(pair) for b in epochs for pair in zip(b['x'].flat, b['context'].flat, strict=True)}
  assert len(pairs) == 18


def test_the_checksum_is_of_both_sets():
  sums = [checksum(Between(points(6, a), points(3, b))) for a, b in [(0, 0), (1, 0), (0, 1)]]
  assert len({*sums}) == 3
