"""Damaged pictures are listed, or left out."""

import numpy as np
import pytest

from diffusion_jax.data import damage, image_folder, set_files
from tests.data import encoded
from tests.refusals import one_line


@pytest.mark.parametrize('check', [False, True])
def test_damaged_pictures_are_found_before_they_are_read(check, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(set_files, '_SAID', set())
  for i in range(200):
    (tmp_path / f'{i:03}.png').write_bytes(encoded.LARGE)
  for i in range(70, 82):
    (tmp_path / f'{i:03}.png').write_bytes(encoded.LARGE[:20])
  (tmp_path / '100.png').write_bytes(encoded.LARGE[:2000])  # cut later
  (tmp_path / '199.png').unlink()
  (tmp_path / '199.png').symlink_to('nowhere.png')
  listed = ', '.join(f'{i:03}.png' for i in range(70, 80))
  with one_line(
    f'{13 + check} of 200 pictures in {tmp_path} are damaged: {listed} and '
    f'{3 + check} more ({tmp_path}/070.png cannot be read as an image: '
  ):
    image_folder.folder(tmp_path, check=check)
  source = image_folder.folder(tmp_path, skip_damaged=True)
  assert 'pictures are left out, such as 070.png,' in capsys.readouterr().out
  assert len(source) == 186
  assert source.facts.skipped[10:] == ('080.png', '081.png', '100.png', '199.png')
  source.read(np.arange(186))
  with one_line('2 of 2 pictures in all are damaged: a, b (cut): replace them, or'):
    damage.left_out({0: 'cut', 1: 'cut'}, 2, 'ab', 'all', skip=True)
  (tmp_path / '100.png').write_bytes(encoded.LARGE)
  assert len(image_folder.folder(tmp_path, skip_damaged=True)) == 187
