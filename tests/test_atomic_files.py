"""Files and folders get their names when they are whole."""

import numpy as np
import pytest

from diffusion_jax.atomic_files import draft, draft_folder, write_figure
from diffusion_jax.data import drawings
from diffusion_jax.interop.weight_files import write_safetensors
from diffusion_jax.runtime import files
from tests.runtime.test_files import PLANTED, planted

PICTURE = np.zeros((4, 4, 3), np.uint8)


class Figure:
  """Stands for matplotlib's, which takes a second."""

  @staticmethod
  def savefig(file, format):
    file.write(format.encode())


# Everything that writes a file of a run by its path.
WRITERS = {
  'text': lambda path: files.write_text(path, 'new'),
  'json': lambda path: files.write_json(path, {'new': 1}),
  'npz': lambda path: files.write_npz(path, {'new': PICTURE}),
  'png': lambda path: drawings.write_png(path, PICTURE),
  'gif': lambda path: drawings.write_gif(path, [PICTURE, PICTURE]),
  'plot': lambda path: write_figure(path, Figure),
  'safetensors': lambda path: write_safetensors(path, {'new': PICTURE}),
}


def test_a_folder_gets_its_name_when_it_is_whole(tmp_path):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'link').symlink_to('empty')
  for name in ('above/new', 'link'):
    with pytest.raises(ZeroDivisionError), draft_folder(tmp_path / name) as new:
      (new / 'half').touch()
      raise ZeroDivisionError
    with draft_folder(tmp_path / name) as new:
      (new / 'whole').touch()
      assert not (tmp_path / name / 'whole').exists()
    assert [x.name for x in (tmp_path / name).iterdir()] == ['whole']
  assert not [*tmp_path.rglob('*.tmp')]
  with pytest.raises(OSError), draft_folder(tmp_path / 'link'):
    pass  # It is not empty: nothing is replaced.
  assert (tmp_path / 'empty' / 'whole').exists()


@pytest.mark.parametrize('how', PLANTED)
@pytest.mark.parametrize('write', WRITERS)
def test_nothing_is_written_through_a_link(write, how, tmp_path):
  with planted(how, tmp_path, 'file', 'file.tmp', 'file.draft.tmp') as run:
    WRITERS[write](run / 'file')
  path = run / 'file'
  assert path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1
  assert path.stat().st_size and len([*run.iterdir()]) == 3
  assert path.stat().st_mode == (tmp_path / 'mine').stat().st_mode


def test_a_write_that_fails_keeps_the_old_file(tmp_path):
  path = tmp_path / 'file'
  path.write_text('old')
  with pytest.raises(KeyError):
    with draft(path) as file:
      file.write(b'half')
      raise KeyError
  assert path.read_text() == 'old' and [*tmp_path.iterdir()] == [path]
