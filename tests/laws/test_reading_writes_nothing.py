"""Law: a mode that reads a run writes nothing into its folder, unless the folder is the workdir.

So a colleague's run can be used, also one that may only be read. Planted faults: the rows of
tests/faults.txt with this file, such as simulations that are kept in the run that is read.
"""

import shutil

import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.app import cli
from diffusion_jax.app.modes import MODES
from diffusion_jax.data import drawings
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import of_run, trial, untrained
from tests.app.fields import typed
from tests.rows import slow

DRAW = 'sampling.num_samples=4 sampling.batch_size=4'
COMMANDS = {
  'sample': f'{DRAW} sampling.sampler=ddim',
  'edit': 'edit=sdedit edit.strength=0.0 edit.num_samples=1 sampling.batch_size=4',
  'evaluate': 'evaluation.metrics=loss evaluation.num_images=4 evaluation.batch_size=4',
  'explain': """
    evaluation.num_generated=4 evaluation.num_images=4 evaluation.batch_size=4
    evaluation.features=pixels
  """,
  'average': 'average.sigma_rel=0.1',
  'report': 'report.trajectory=False',
  'convert': 'convert.to=safetensors',
}
OF_PAIRS = {
  'sample': DRAW,
  'evaluate': """
    evaluation.metrics=sbc evaluation.num_pairs=10 evaluation.draws_per_pair=3
    evaluation.batch_size=4
  """,
}


def state_of(folder):
  """Returns the contents and times of all files, and the names of all folders."""
  return {
    path.relative_to(folder): path.is_file() and (path.read_bytes(), path.stat().st_mtime_ns)
    for path in folder.rglob('*')
  }


def start(mode, run, workdir, fields):
  """Starts a mode as --config=<run> --workdir=<workdir> does."""
  cli.start(MODES[mode], of_run(run, **fields), RunFolder.at(workdir), RunFolder.at(run))


def test_every_mode_that_reads_a_run_is_tried():
  """Every mode that reads a run is tried, except the server, which ends with a key."""
  reads = {name for name, mode in MODES.items() if mode.uses_a_run}
  assert {*COMMANDS} == reads - {'serve'} | {'convert'}


@pytest.mark.parametrize('mode', COMMANDS)
def test_a_mode_that_reads_a_run_writes_nothing_into_it(mode, averaged, tmp_path):
  run = shutil.copytree(averaged, tmp_path / 'theirs')
  image, workdir = tmp_path / 'image.png', tmp_path / 'mine'
  drawings.write_png(image, np.zeros((8, 8, 1), np.uint8))
  fields = typed(COMMANDS[mode])
  if mode == 'edit':
    fields['edit.image'] = str(image)
  if mode == 'convert':
    fields['convert.out'] = str(workdir / 'weights.safetensors')
  before = state_of(run)
  start(mode, run, workdir, fields)
  assert state_of(run) == before
  assert any(path.is_file() for path in workdir.rglob('*'))


@pytest.mark.parametrize('mode', [slow(x) if x == 'evaluate' else x for x in OF_PAIRS])
def test_a_mode_that_simulates_writes_nothing_into_it(mode, tmp_path):
  config = trial('two_moons', **typed('data.num_examples=64 data.num_test=16'))
  run = untrained(config, tmp_path / 'theirs')
  before = state_of(run)
  start(mode, run, tmp_path / 'mine', typed(OF_PAIRS[mode] + ' sampling.checkpoint=latest'))
  dj.open_run(run, num_samples=2, batch_size=4, checkpoint='latest').draw(2)
  assert state_of(run) == before
