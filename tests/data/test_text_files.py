"""Texts are bytes: tokens of sentences, sequences, and pictures of letters."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.data.text_files import UNKNOWN, draw_bytes, printable, text_files
from tests.refusals import one_line


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'b.MD').write_text('é234567')  # 8 bytes
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a' / 'a.txt').write_text('abcdefghijk')
  (tmp_path / 'c.png').write_bytes(b'no text')
  for name in ('.git/a.txt', '._a.txt'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('hidden')
  return tmp_path


def test_splits_are_the_pieces_of_all_texts_in_order(folder):
  splits = [
    text_files(split, str(folder), length=4, test_fraction=0.4) for split in ('train', 'test')
  ]
  assert [x.facts.x.shape for x in splits] == [(4,)] * 2
  pieces = [x.tobytes() for s in splits for x in s.read(np.arange(len(s)))['x']]
  assert b''.join(pieces) == 'abcdefghijk\né234567'.encode()
  assert [*map(len, splits)] == [3, 2]
  file = text_files(path=str(folder / 'c.png'), length=7, test_fraction=0.0)
  assert file.x.tobytes() == b'no text'


def test_lines_have_lengths_and_longer_ones_are_cut(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr('diffusion_jax.data.set_files._SAID', set())
  (tmp_path / 'a.txt').write_bytes('ab\r\n\n  \nabcde \nabcéf\n\xe9\nlast'.encode())
  splits = {
    split: text_files(split, str(tmp_path / 'a.txt'), 4, test_fraction=0.2, pieces='lines')
    for split in ('train', 'test')
  }
  assert '2 of 5 lines are longer than data.length=4 bytes: their ends are cut' in (
    capsys.readouterr().out
  )
  lines = []
  for source in splits.values():
    arrays = source.read(np.arange(len(source)))
    lines += [x[:n].tobytes().decode() for x, n in zip(arrays['x'], arrays['length'], strict=True)]
    assert not any(x[n:].any() for x, n in zip(arrays['x'], arrays['length'], strict=True))
  assert lines == ['ab', 'abcd', 'abc', 'é', 'last']
  assert splits['train'].facts.lengths == (0, 2, 1, 1) and splits['test'].facts.x.is_text


def test_wrong_lines_get_a_line(tmp_path):
  (tmp_path / 'a.txt').write_bytes(b'\n \n')
  with one_line('too few for a line in the train split'):
    text_files(path=str(tmp_path / 'a.txt'), test_fraction=0.0, pieces='lines')
  wrong: Any = 'words'
  with one_line("pieces 'words' is not one of equal, lines"):
    text_files(pieces=wrong)


def test_the_own_text_has_the_modules():
  assert b'def text_files(' in text_files(length=1000, test_fraction=0.0).x.tobytes()


def test_drawn_bytes():
  pictures = draw_bytes(np.frombuffer(b'ab ' + bytes([UNKNOWN]) + b'b', np.uint8)[None], columns=2)
  assert pictures.shape == (1, 36, 14, 1)
  a, b, space, unknown, again, padding = (
    pictures[0, i : i + 12, j : j + 7, 0] for i in (0, 12, 24) for j in (0, 7)
  )
  assert_array_equal(b, again)
  assert a.max() > 100 and (a != b).any()
  assert not space.any() and not padding.any()
  assert (unknown[1:-1, 1:-1] == 96).all()


def test_characters_that_control_a_terminal_are_not_printed():
  """ESC ] 0 ; sets a title, and BEL ends it."""
  assert printable('a\x1b]0;b\x07\tc\né') == 'a\ufffd]0;b\ufffd\ufffdc\né'
