"""The folder of a run: its name in messages, its files, and whether it may be written."""

from pathlib import Path

import pytest

from diffusion_jax.runtime.run_folder import RunFolder


def test_a_folder_of_this_machine_has_the_words_of_the_user():
  run = RunFolder.at('runs/digits/')
  assert str(run) == 'runs/digits/' and run.path == Path('runs/digits')
  assert run.config == Path('runs/digits/config.json') and run.written


def test_a_run_in_a_bucket_is_named_by_its_address(address):
  """The files of a run in a bucket are in its twin, by whose path later doors find the same run."""
  run = RunFolder.at(address)
  assert str(run) == address and run.path.is_dir() and address not in str(run.path)
  assert RunFolder.at(run.path) == run
  assert str(run.autoencoder) == f'{address}/autoencoder'


def test_a_run_that_is_read_is_not_made(tmp_path):
  assert RunFolder.at(tmp_path).make('samples') == tmp_path / 'samples'
  with pytest.raises(AssertionError, match='is a run that is read'):
    RunFolder.at(tmp_path / 'theirs', written=False).make()
  with pytest.raises(AssertionError, match='is a run that is read'):
    RunFolder.at(tmp_path, written=False).autoencoder.make()
  assert not (tmp_path / 'theirs').exists()
