"""Examples are recognised in another set by hashes of rounded numbers or of pixels."""

import numpy as np
import pytest

from diffusion_jax.data import hashes
from diffusion_jax.data.sources import ArraySource

# Numbers of 7 digits, the last 5, at five powers of ten.
SEVEN = np.array([float(f'{i}5e-{9 + i % 4000 // 800}') for i in range(104_000, 108_000)])


@pytest.mark.parametrize(
  'x',
  [
    np.random.default_rng(0).normal(size=1000) * 10.0 ** np.arange(-50, 50).repeat(10),
    -SEVEN,
    SEVEN.astype(np.float32).astype(float),
    np.array([0.0, -0.0, 1000.0, 999.9999, 999.99949999, -1e-5, 123456.5, 123457.5, 1e308]),
  ],
)
def test_numbers_are_rounded_as_printf_rounds_them(x):
  texts = np.array([float(f'{value:.6g}') for value in x])
  same = hashes.rounded(x)[:, None] == hashes.rounded(x)
  np.testing.assert_array_equal(same, texts[:, None] == texts)


def found(source, other):
  """Returns how many examples of `other` are in `source`: exactly, and to 6 digits."""
  known, new = (hashes.of_examples(x, len(x)) for x in (source, other))
  return [int(np.isin(new[name], known[name]).sum()) for name in ('exactly', 'to_6_digits')]


def test_rows_are_found_in_a_shuffled_copy_of_another_type():
  rng = np.random.default_rng(0)
  x, context = rng.normal(size=(450, 3)), rng.normal(size=(450, 2))
  part = rng.permutation(450)[:300]
  trained = ArraySource(x[:400], context=context[:400])
  shared = int((part < 400).sum())
  assert found(trained, ArraySource(x[part], context=context[part])) == [shared, shared]
  text = [np.array([[float(f'{v:.6g}') for v in row] for row in a[part]]) for a in (x, context)]
  assert found(trained, ArraySource(text[0], context=text[1])) == [0, shared]
  assert found(trained, ArraySource(x[part], context=context[part][::-1].copy())) == [0, 0]
  single = ArraySource(x[:400].astype(np.float32))
  same = ArraySource(x[part].astype(np.float32).astype(float))
  assert found(single, same) == [shared, shared]


def test_pictures_are_found_whatever_their_labels_are():
  x = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1)).astype(np.uint8)
  labels = np.zeros(20, np.int32)
  other = x[10:].copy()
  other[0, 0, 0, 0] ^= 1
  assert found(ArraySource(x[:20], labels, 2), ArraySource(other, labels + 1, 2)) == [9, 9]


def test_a_large_set_is_too_much_work():
  """About 40 million vectors of a number are, and 41 thousand files of pictures."""
  numbers = ArraySource(np.zeros((3, 1)))
  assert hashes.work(numbers, 30_000_000) < hashes.MOST < hashes.work(numbers, 50_000_000)
