"""Two sets as one: pairs, and points of a source that change every epoch."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.data import pipeline
from diffusion_jax.data.between import Between
from diffusion_jax.data.sources import ArraySource, checksum, measured
from diffusion_jax.data.tables import csv_table


def points(n, shift=0.0):
  return ArraySource(np.arange(n, dtype=np.float32)[:, None] + shift)


def test_pairs_stay_together_in_every_epoch():
  joined = Between(points(6), points(6, 100.0), paired=True)
  batch = pipeline.batch_at(joined, 4, 0, 2)
  assert_array_equal(batch['context'], batch['x'] + 100.0)
  with pytest.raises(ValueError, match='the target has 6 examples and the source 5'):
    Between(points(6), points(5), paired=True)


def test_each_epoch_meets_other_points_of_the_source():
  """Within it each point is taken as often as the lengths allow."""
  joined = Between(points(6), points(3))
  epochs = [pipeline.batch_at(joined, 6, 0, i) for i in range(20)]
  for batch in epochs:
    assert_array_equal(np.sort(batch['context'].ravel()), np.repeat([0, 1, 2], 2))
  pairs = {tuple(pair) for b in epochs for pair in zip(b['x'].flat, b['context'].flat, strict=True)}
  assert len(pairs) == 18


def test_its_order_and_its_random_examples_are_those_of_its_sets():
  """A pair of sets keeps its order, and redraws its examples by seed and epoch."""

  class Random(ArraySource):
    redrawn = lambda self, seed, epoch: ArraySource(self.x + 100 * seed + epoch[:, None])

  random, first = Random(points(6).x, order=lambda rng: np.arange(6)), np.zeros(1, int)
  joined = Between(random, random, paired=True)
  assert joined.order is random.order and Between(points(6), random).order is None
  drawn = joined.redrawn(2, np.array([3, 4, 5, 6, 7, 8])).read(np.array([1]))
  assert drawn['x'] == drawn['context'] == 1 + 200 + 4
  others = [Between(points(6), points(6)).redrawn(seed, first).read(first) for seed in range(9)]
  assert len({other['context'].item() for other in others}) > 3


def test_columns_of_tables_are_joined_by_name(tmp_path):
  """Other names are joined by place, and half the same are refused."""
  path = tmp_path / 'a.csv'
  path.write_text('a,b,c,d\n1,2,3,4\n5,6,7,8\n9,0,1,2\n')
  of = lambda *x: csv_table(path, x)
  joined = Between(of('a', 'b', 'c'), of('c', 'a', 'b'), paired=True)
  batch = joined.read(np.arange(3))
  assert_array_equal(batch['context'], batch['x'])
  facts = measured(joined)
  assert facts.context == facts.x and facts.x.names == ('a', 'b', 'c')
  by_place = Between(of('a', 'b'), of('d', 'c'), paired=True)
  assert_array_equal(by_place.read(np.arange(1))['context'], [[4.0, 3.0]])
  for names in (('b', 'c'), ('a', 'b', 'c')):
    with pytest.raises(ValueError, match='the target has the columns a, b, and the source .*, c'):
      Between(of('a', 'b'), of(*names))


def test_the_checksum_is_of_both_sets():
  sums = [checksum(Between(points(6, a), points(3, b))) for a, b in [(0, 0), (1, 0), (0, 1)]]
  assert len({*sums}) == 3
