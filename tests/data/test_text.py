"""Sentences are tokens of bytes."""

import numpy as np

from diffusion_jax.data import text


def test_texts_come_back():
  rng = np.random.default_rng(0)
  starts = np.array([0x20, 0xE0, 0x4E00, 0x1F600])
  points = rng.choice(starts, (50, 20)) + rng.integers(0, 64, (50, 20))
  sentences = ['x' + ''.join(map(chr, row)) for row in points]
  tokens, mask = text.encode(sentences, 120)
  assert tokens.shape == mask.shape == (50, 120)
  assert (tokens.dtype, mask.dtype) == (np.int32, bool)
  assert text.decode(tokens) == sentences


def test_tokens_are_bytes_and_padding():
  tokens, mask = text.encode(['aé'], 5)  # U+00E9 is C3 A9
  assert tokens.tolist() == [[0x61 + 1, 0xC3 + 1, 0xA9 + 1, 0, 0]]
  assert mask.tolist() == [[True, True, True, False, False]]
  assert tokens.max() < text.NUM_TOKENS
  assert text.encode(['abc'], 3)[1].all()  # a string may fill its length


def test_bytes_that_are_no_text_are_marked():
  assert text.decode(np.array([[0xC3 + 1, 0x61 + 1, 0]])) == ['\ufffda']
