"""How many examples of other data a run was trained on."""

import numpy as np
import pytest

from diffusion_jax.app.inputs import datasets, trained_on
from diffusion_jax.data.sources import ArraySource, checksum
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.inputs.test_datasets import TABLE, reopened, trained, written  # noqa: F401


def kept(run, **fields):
  """Keeps the training examples of a run as a training does."""
  source = datasets.source_of(reopened(run, **fields))
  trained_on.keep(RunFolder.at(run), source, checksum(source))


def counted(run, split='test', most=0, **fields):
  return [*trained_on.count(RunFolder.at(run), reopened(run, **fields), split, most).values()]


def test_rows_of_a_shuffled_copy_are_known(trained, tmp_path, capsys):  # noqa: F811
  run, copy = trained(test_fraction=0.2), tmp_path / 'copy.csv'
  written(copy, TABLE[::-1])
  assert not counted(run, path=copy, test_fraction=0.5)  # a run without hashes
  kept(run)
  rows = {tuple(row) for row in datasets.source_of(reopened(run)).read(np.arange(32))['x']}
  test = datasets.source_of(reopened(run, path=copy, test_fraction=0.5), 'test')
  shared = [tuple(row) in rows for row in test.read(np.arange(20))['x']]
  assert 0 < sum(shared) < 20
  fields = {'path': copy, 'test_fraction': 0.5}
  assert counted(run, **fields) == [20, sum(shared), sum(shared)]
  assert counted(run, most=7, **fields) == [7, sum(shared[:7]), sum(shared[:7])]
  assert counted(run) == [8, 0, 0]
  note = trained_on.in_words({'examples': 30, 'exactly': 20, 'to_6_digits': 20}, 'test examples')
  assert note == 'note: 20 of these 30 test examples were trained on'


def test_hashes_stay_when_a_run_goes_on_with_other_data(trained, tmp_path):  # noqa: F811
  run, other = trained(test_fraction=0.2), tmp_path / 'other.csv'
  written(other, [f'{i},{i / 7},1' for i in range(50, 60)])
  kept(run)
  kept(run, path=other)
  before = (run / trained_on.FILE).read_bytes()
  kept(run, path=other)  # It is not written again.
  assert (run / trained_on.FILE).read_bytes() == before
  assert counted(run, split='train', path=other)[1] == 8
  assert counted(run, split='train')[1] == 32


def test_damaged_hashes_are_refused(trained, tmp_path):  # noqa: F811
  run = trained(test_fraction=0.2)
  kept(run)
  path = run / trained_on.FILE
  content = bytearray(path.read_bytes())
  content[200] ^= 1
  path.write_bytes(content)
  with pytest.raises(UserError, match='trained_on.npz'):
    counted(run)


def test_nothing_is_kept_of_examples_that_are_drawn_anew(tmp_path):
  class Redrawn(ArraySource):
    def redrawn(self, seed, epoch):
      return ArraySource(self.x + epoch[:, None] if len(epoch) == len(self.x) else self.x)

  trained_on.keep(
    RunFolder.at(tmp_path), Redrawn(np.random.default_rng(0).normal(size=(8, 1))), 'a'
  )
  assert not [*tmp_path.iterdir()]
