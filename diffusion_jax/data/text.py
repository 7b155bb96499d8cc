"""Converts sentences to tokens, the bytes of UTF-8, and back."""

from collections.abc import Iterable, Sequence

import numpy as np

NUM_TOKENS = 257  # 0 is padding, byte b is token b + 1


def encode(sentences: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns (tokens int32 [N, length], mask bool [N, length]) of N sentences.

  The mask is True at bytes and False at the padding after them. Raises
  ValueError for a sentence that is blank or longer than `length` bytes.
  """
  tokens = np.zeros((len(sentences), length), np.int32)
  for row, sentence in zip(tokens, sentences, strict=True):
    data = np.frombuffer(to_bytes(sentence, length), np.uint8)
    row[: len(data)] = data.astype(np.int32) + 1
  return tokens, tokens > 0


def to_bytes(sentence: str, length: int) -> bytes:
  """Returns UTF-8. Raises ValueError for a blank or too long sentence."""
  data = sentence.encode()
  if not sentence.strip() or len(data) > length:
    raise ValueError(
      f'each text must have a word and at most text_length={length} bytes, got '
      f'{sentence!r} with {len(data)} bytes'
    )
  return data


def decode(tokens: np.ndarray) -> list[str]:
  """Returns the N sentences of tokens [N, L], the inverse of `encode`.

  Padding is dropped; bytes that are not UTF-8 become U+FFFD.
  """
  return decode_bytes((row[row > 0] - 1).astype(np.uint8) for row in np.asarray(tokens))


def decode_bytes(texts: Iterable[np.ndarray]) -> list[str]:
  """Returns the N texts of bytes, uint8 [N, ...]; invalid ones are U+FFFD."""
  return [text.tobytes().decode(errors='replace') for text in texts]
