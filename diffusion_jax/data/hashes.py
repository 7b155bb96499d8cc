"""Hashes of examples, by which the same ones are found in other data."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from diffusion_jax.data.sources import ArraySource, Source, blocks
from diffusion_jax.data.splits import Part

DIGITS = 6  # numbers are rounded to as many digits
# The work of hashing a set, in bytes of levels; about 5 s on one core.
MOST = 2 * 10**9
_OF_NUMBER, _OF_PICTURE = 50, 50_000  # the work of rounding one, and of decoding a file


def work(source: Source, count: int) -> int:
  """Returns the work of hashing `count` examples, which should not exceed MOST."""
  inner = source.source if isinstance(source, Part) else source
  x, context = source.facts.x, source.facts.context
  size = int(np.prod(x.shape))
  if not x.levels:
    size = _OF_NUMBER * (size + int(np.prod(context.shape if context else 0)))
  is_decoded = not source.in_memory and not isinstance(inner, ArraySource)
  return count * max(size, _OF_PICTURE * is_decoded)


def of_examples(source: Source, count: int) -> dict[str, np.ndarray]:
  """Returns {'exactly': hashes, 'to_6_digits': hashes} of the first examples, uint64 [count].

  An example is x if x has levels, which are not rounded, or x and the context.
  Numbers are hashed as float64, so the dtype of the data does not matter.
  """
  names = ['x'] if source.facts.x.levels else ['x', 'context']

  def some(index):
    read = source.read(index)
    arrays = [np.asarray(read[name]).reshape(len(index), -1) for name in names if name in read]
    if source.facts.x.levels:
      return [_of_rows(arrays)]
    numbers = [np.asarray(array, np.float64) + 0.0 for array in arrays]  # -0.0 is 0.0
    return [_of_rows(numbers), _of_rows(map(rounded, numbers))]

  parts = [*blocks(count, 200)]
  with ThreadPoolExecutor(2) as pool:
    bar = tqdm(pool.map(some, parts), 'hashing examples', len(parts), disable=None, leave=False)
    exactly, *to_digits = map(np.concatenate, zip(*bar, strict=True))
  return {'exactly': exactly, f'to_{DIGITS}_digits': to_digits[0] if to_digits else exactly}


def _of_rows(arrays: Iterable[np.ndarray]) -> np.ndarray:
  # Returns a hash for each row of the arrays, uint64 [n].
  rows = [[row.tobytes() for row in array] for array in arrays]
  sums = (hashlib.blake2b(b''.join(row), digest_size=8) for row in zip(*rows, strict=True))
  return np.frombuffer(b''.join(x.digest() for x in sums), np.uint64)


def rounded(x: np.ndarray) -> np.ndarray:
  """Returns an integer for each float64, the same if they agree to 6 digits.

  It is rounded as printf's %.6g rounds, which also a table's text is. NaN, a cell that is
  missing, is as a number that no data have.
  """
  x = np.where(np.isnan(x), 1e299, x)
  size = np.abs(x)
  exponent = np.floor(np.log10(size, out=np.zeros_like(x), where=size > 0.0)).astype(np.int64)
  exponent = np.clip(exponent, -300, 300)  # 10**x is finite.
  scaled = x * 10.0 ** (DIGITS - 1 - exponent)
  digits = np.rint(scaled).astype(np.int64)
  # A product near a half may be on the wrong side of it.
  for i in zip(*np.nonzero(np.abs(np.abs(scaled - np.trunc(scaled)) - 0.5) < 1e-6), strict=True):
    mantissa, _, power = f'{x[i]:.{DIGITS - 1}e}'.partition('e')
    digits[i], exponent[i] = int(mantissa.replace('.', '')), int(power)
  carried = np.abs(digits) == 10**DIGITS
  digits, exponent = np.where(carried, digits // 10, digits), exponent + carried
  return np.where(digits == 0, 0, 1000 * digits + exponent)
