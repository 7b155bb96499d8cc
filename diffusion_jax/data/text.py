"""Sentences <-> tokens, the bytes of UTF-8."""

from collections.abc import Sequence

import numpy as np

NUM_TOKENS = 257  # 0 is padding, byte b is token b + 1


def encode(
  sentences: Sequence[str], length: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns (tokens int32 [N, length], mask bool [N, length]) of N sentences.

  The mask is True at bytes, False at the padding after them. Raises ValueError
  for a sentence that is empty or longer than `length` bytes.
  """
  tokens = np.zeros((len(sentences), length), np.int32)
  for row, sentence in zip(tokens, sentences, strict=True):
    found = to_bytes(sentence, length)
    row[: len(found)] = np.frombuffer(found, np.uint8).astype(np.int32) + 1
  return tokens, tokens > 0


def to_bytes(sentence: str, length: int) -> bytes:
  """Returns UTF-8. Raises ValueError for a blank or too long sentence."""
  found = sentence.encode()
  if not sentence.strip():
    raise ValueError('a text is empty: it needs a word at least')
  if len(found) > length:
    raise ValueError(
      f'{sentence!r} has {len(found)} bytes, more than text_length={length}'
    )
  return found


def decode(tokens: np.ndarray) -> list[str]:
  """Returns the N sentences of tokens [N, L], the inverse of `encode`.

  Padding is left out; bytes that are not UTF-8 become U+FFFD.
  """
  rows = [(row[row > 0] - 1).astype(np.uint8) for row in np.asarray(tokens)]
  return [row.tobytes().decode(errors='replace') for row in rows]
