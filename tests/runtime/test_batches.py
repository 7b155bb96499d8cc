"""Batches that are kept in files."""

import numpy as np
import pytest

from diffusion_jax.runtime.batches import gathered, kept
from tests.app.conftest import refused


class Squares:
  """Squares of 0..6 in batches of three; call number `stop_at` is killed."""

  def __init__(self, stop_at=None):
    self.started, self.stop_at = [], stop_at

  def start(self, index):
    self.started.append(index.tolist())

    def finish():
      if len(self.started) == self.stop_at:
        raise KeyboardInterrupt
      return {'square': index**2, 'pair': np.stack([index, -index], axis=1)}

    return finish


def test_a_killed_computation_goes_on(tmp_path):
  folder, killed, again = tmp_path / 'parts', Squares(3), Squares()
  with pytest.raises(KeyboardInterrupt):
    kept(killed.start, 7, 3, folder, 'squares')
  # One batch is under way while the one before it is written.
  assert [x.name for x in folder.iterdir()] == ['00000000.npz']
  paths = kept(again.start, 7, 3, folder, 'squares')
  assert again.started == [[3, 4, 5], [6]]
  arrays = gathered(paths)
  np.testing.assert_array_equal(arrays['square'], np.arange(7) ** 2)
  np.testing.assert_array_equal(arrays['pair'][:, 1], -np.arange(7))
  assert gathered(paths, without=['pair']).keys() == {'square'}


def test_a_damaged_file_is_named(tmp_path):
  paths = kept(Squares().start, 7, 3, tmp_path, 'squares')
  for content in (
    {'square': np.zeros(3)},
    {'square': np.zeros(3), 'pair': np.zeros((3, 5))},
  ):
    np.savez(paths[1], **content)
    refused('00000003.npz is damaged .*: delete it', gathered, paths)
