"""The parts of data: for tests without a split of their own, and for validation."""

import numpy as np
from numpy.testing import assert_array_equal

from diffusion_jax.data import pipeline, small_sets, sources
from diffusion_jax.data.splits import Part, random_part, validation_part

DIGITS = small_sets.digits('test')


def test_a_fraction_of_a_permutation_is_for_tests():
  """Rows are permuted as docs/data.md says, and each is in one of the two parts."""
  train, test = (random_part(30, split, 0.2, 'a set') for split in ('train', 'test'))
  order = np.random.default_rng(0).permutation(30)
  assert_array_equal(test, np.sort(order[:6]))
  assert_array_equal(train, np.sort(order[6:]))


def test_the_seed_draws_the_validation_part():
  parts = [validation_part(30, split, 0.2, 0) for split in ('validation', 'train')]
  assert [*map(len, parts)] == [6, 24]
  assert_array_equal(np.sort(np.concatenate(parts)), np.arange(30))
  others = [validation_part(30, 'validation', 0.2, seed) for seed in range(1000)]
  counts = np.bincount(np.ravel(others), minlength=30)  # binomial, of 1000 and 0.2
  assert np.abs(counts - 200).max() < 5 * np.sqrt(160)


def test_a_part_reads_its_rows_and_has_a_sum_of_its_own():
  rows = np.array([3, 5, 8])
  part = Part(DIGITS, rows)
  assert part.facts == DIGITS.facts and part.in_memory and len(part) == 3
  read, whole = part.read(np.array([2, 0])), DIGITS.read(np.array([8, 3]))
  for name, array in whole.items():
    assert_array_equal(read[name], array)
  assert part.checksum() != Part(DIGITS, rows[:2]).checksum() != DIGITS.checksum()
  assert not Part(object(), rows).checksum()
  assert_array_equal(
    pipeline.batch_at(part, 3, 0, 2)['label'],
    DIGITS.label[rows[np.random.default_rng((0, 0, 2)).permutation(3)]],
  )


def test_a_part_keeps_the_order_and_the_draws_of_its_source():
  """The order is the source's without the rest; images are drawn in each epoch."""
  rows = np.arange(1, 360, 2)
  source = sources.Binarized(DIGITS)
  source.order = lambda rng: np.arange(360)[::-1]
  part = Part(source, rows)
  assert_array_equal(part.order(None), np.arange(180)[::-1])
  assert part.order is part.order  # `pipeline` keeps permutations by it
  batch = pipeline.batch_at(part, 180, 5, 3)
  redrawn = source.redrawn(5, np.full(180, 3)).read(rows[::-1])
  assert_array_equal(batch['x'], 2.0 * redrawn['x'] - 1.0)
  assert_array_equal(batch['label'], redrawn['label'])
