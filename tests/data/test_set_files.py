"""Files of a data set are found by their suffix, each once."""

import os
from pathlib import Path

import pytest

from diffusion_jax.data import set_files


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
  monkeypatch.setattr(set_files, '_SAID', set())


def touch(top, *names):
  for name in names:
    path = top / os.fsdecode(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_names_have_a_suffix_in_any_case_and_are_not_hidden(tmp_path):
  """Names may have bytes that UTF-8 lacks."""
  seen = ['a.png', 'b/c.PnG', 'b/d.x', b'b/e\xe9.png', 'f.png.png']
  touch(tmp_path, *seen, '.git/a.png', 'b/._c.png', '.png', 'g.png.txt', 'pngg', 'h.png/.i')
  assert set_files.files_below(tmp_path, ['.png', '.x']) == sorted(map(os.fsdecode, seen))


# links and their targets: what is found besides a/0.png
LINKS = """
a/up . :
a/up .. : a/up/more/1.png a/up/more/x/2.png a/up/o.png
0 a b a :
0 ../more 1 ../more : 0/1.png 0/x/2.png
0 ../more 1 ../more/x : 0/1.png 0/x/2.png
0 ../more/x 1 ../more : 0/2.png 1/1.png
../more/back . 1 ../more : 1/1.png 1/x/2.png
self self :
"""


@pytest.mark.parametrize('row', LINKS.strip().split('\n'))
def test_each_file_behind_links_is_read_once(tmp_path, row):
  top = tmp_path / 'top'
  touch(tmp_path, 'top/a/0.png', 'o.png', 'more/1.png', 'more/x/2.png')
  links, expected = map(str.split, row.split(':'))
  for name, target in zip(links[::2], links[1::2], strict=True):
    (top / name).symlink_to(top / target)
  assert set_files.files_below(top, ['.png']) == sorted(['a/0.png', *expected])


def test_sets_with_too_few_files_get_a_line(capsys):
  whole = [f'all-{i}-of-2.tar' for i in range(2)]
  names = ['x/train-00000-of-00003.parquet', 'x/train-00002-of-00003.parquet']
  names += ['x/test-00001-of-99999999999', Path('a/train-00000-of-00001.tar')]
  for _ in range(2):
    set_files.say_missing([*names, *whole])
  assert capsys.readouterr().out.splitlines() == [
    'x/train-*-of-00003.parquet has 2 of 3 files: the others are left out',
    'x/test-*-of-99999999999 has 1 of 99999999999 files: the others are left out',
  ]
