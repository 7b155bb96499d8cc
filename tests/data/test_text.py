import numpy as np
import pytest
from hypothesis import given, strategies as st

from diffusion_jax.data import text


@given(st.lists(st.text(max_size=30).filter(str.strip), max_size=4))
def test_texts_come_back(sentences):
  tokens, mask = text.encode(sentences, 120)
  assert tokens.shape == mask.shape == (len(sentences), 120)
  assert (tokens.dtype, mask.dtype) == (np.int32, bool)
  assert text.decode(tokens) == sentences


def test_tokens_are_bytes_and_padding():
  tokens, mask = text.encode(['aé'], 5)  # U+00E9 is C3 A9
  assert tokens.tolist() == [[0x61 + 1, 0xC3 + 1, 0xA9 + 1, 0, 0]]
  assert mask.tolist() == [[True, True, True, False, False]]
  assert tokens.max() < text.NUM_TOKENS


def test_a_text_may_fill_its_length_and_no_more():
  assert text.encode(['abc'], 3)[1].all()
  with pytest.raises(
    ValueError, match="text_length=3 bytes, got 'abcd' with 4"
  ):
    text.encode(['abc', 'abcd'], 3)
  for empty in ('', '  '):
    with pytest.raises(ValueError, match='a text must have a word'):
      text.encode(['abc', empty], 3)


def test_bytes_that_are_no_text_are_marked():
  assert text.decode(np.array([[0xC3 + 1, 0x61 + 1, 0]])) == ['\ufffda']
