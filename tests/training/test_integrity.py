"""Damaged checkpoints in small folders (for Orbax see test_checksums.py)."""

import pytest

from diffusion_jax.training import checksums, integrity


@pytest.fixture
def folder(tmp_path):
  """Makes checkpoints 1 to 3 with one file each."""
  folder = tmp_path / 'run' / 'checkpoints'
  for step in (1, 2, 3):
    path = folder / str(step)
    (path / 'params').mkdir(parents=True)
    (path / 'params' / 'w').write_text(f'numbers of step {step}')
    (path / '_CHECKPOINT_METADATA').write_text('{}')
    checksums.write(path)
  return folder


def damage(folder, *steps):
  for step in steps:
    (folder / str(step) / 'params' / 'w').write_text('other numbers')


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_nothing_happens_to_good_ones(folder, capsys):
  integrity.move_damaged(folder)
  integrity.check(folder, 2, (1, 2, 3))
  assert names(folder) == ['1', '2', '3'] and capsys.readouterr().err == ''


def test_damaged_ones_beyond_the_newest_good_one_are_moved(folder, capsys):
  """The older one is not moved, since no training starts from it."""
  damage(folder, 1, 3)
  integrity.move_damaged(folder)
  assert names(folder) == ['1', '2']
  assert names(folder.parent / 'damaged') == ['3']
  said = capsys.readouterr().err
  assert said.count('\n') == 1 and 'checkpoint 3 is damaged' in said


def test_the_newest_good_one_is_named(folder):
  damage(folder, 3)
  with pytest.raises(ValueError, match='checkpoint 3 .*take checkpoint=2'):
    integrity.check(folder, 3, (1, 2, 3))
  damage(folder, 1, 2)
  with pytest.raises(ValueError, match='and no other is good'):
    integrity.check(folder, 3, (1, 2, 3))
  with pytest.raises(ValueError, match='no checkpoint of .* is good'):
    integrity.move_damaged(folder)
  assert names(folder) == []
