"""Series of lengths of their own: trained, measured, and what cannot be done with them."""

import json
import shutil

import numpy as np
import pytest

from diffusion_jax.app.modes import MODES
from diffusion_jax.runtime.files import read_json_lines
from tests.app.conftest import assert_same, of_run, params_of, refused, trial
from tests.app.fields import typed

N, T = 64, 6
RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(2, T + 1, N)
VALID = np.arange(T) < LENGTHS[:, None]
X = np.where(VALID, 280.0 + 10.0 * np.cumsum(RNG.standard_normal((N, T)), axis=1), np.nan)[
  ..., None
]
FEW = typed("""
  data=npz data.test_fraction=0.25 network=dit network.channels=16 network.num_blocks=1
  network.num_heads=2 training.num_steps=4 training.batch_size=8 training.held_out.every=2
  training.held_out.batches=1 training.checkpoints.every=2 training.checkpoints.keep=2
  training.steps_per_call=1 sampling.num_samples=5 sampling.batch_size=4 sampling.num_steps=3
  sampling.checkpoint=latest
""")


def save(path, x=X, lengths=LENGTHS, **more):
  np.savez(path, x=x, lengths=lengths, **more)
  return path


def config(path, **fields):
  return trial('rollout', **FEW | {'data.path': str(path)} | fields)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of four steps on series with lengths, with what pads them NaN."""
  folder = tmp_path_factory.mktemp('lengths')
  MODES['train'](config(save(folder / 'series.npz')), folder / 'run')
  return folder / 'run'


def test_a_run_keeps_the_lengths_and_the_scale_of_what_is_valid(run):
  facts = json.loads((run / 'config.json').read_text())['facts']
  train = np.ones(N, bool)
  train[np.random.default_rng(0).permutation(N)[:16]] = False  # as `random_part` draws
  assert facts['lengths'] == np.bincount(LENGTHS[train], minlength=T + 1)[1:].tolist()
  values = X[train][VALID[train]]
  np.testing.assert_allclose(
    [*facts['x']['mean'], *facts['x']['std']], [values.mean(), values.std()]
  )
  losses = [line for line in read_json_lines(run / 'metrics.jsonl') if 'test_loss' in line]
  assert losses and all(np.isfinite(line['test_loss']) for line in losses)


def test_what_pads_them_changes_no_weight(run, tmp_path):
  MODES['train'](config(save(tmp_path / 'a.npz', np.nan_to_num(X, nan=1e30))), tmp_path / 'run')
  assert_same(params_of(tmp_path / 'run'), params_of(run))


def test_an_interruption_changes_no_weight(run, tmp_path):
  shutil.copytree(run, tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run/checkpoints/4')
  MODES['train'](of_run(tmp_path / 'run'), tmp_path / 'run')
  assert_same(params_of(tmp_path / 'run'), params_of(run))


def test_devices_and_parts_change_no_weight(run, tmp_path):
  """Eight devices, and two parts of the batch, whose examples have other lengths."""
  for name, fields in {
    'mesh': 'training.mesh=-1,1',
    'parts': 'training.machine.accumulate=2',
  }.items():
    MODES['train'](config(run.parent / 'series.npz', **typed(fields)), tmp_path / name)
    for a, b in zip(*map(leaves, (tmp_path / name, run)), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


def leaves(folder):
  import jax

  return jax.tree.leaves(params_of(folder))


WRONG = {
  'above': (LENGTHS + 100, f'whole numbers in 1..{T}'),
  'zero': (0 * LENGTHS, f'whole numbers in 1..{T}'),
  'negative': (-LENGTHS, f'whole numbers in 1..{T}'),
  'not whole': (LENGTHS - 0.5, f'whole numbers in 1..{T}, the length of x, and that of example 0 is'),
  'nan': (np.where(LENGTHS > 3, np.nan, LENGTHS), f'whole numbers in 1..{T}'),
  'of others': (LENGTHS[:-1], f'lengths must be whole numbers \\[{N}\\]'),
  'of elements': (VALID, f'lengths must be whole numbers \\[{N}\\]'),
}


@pytest.mark.parametrize('lengths, message', WRONG.values(), ids=WRONG)
def test_wrong_lengths_get_a_line(lengths, message, tmp_path):
  path = save(tmp_path / 'a.npz', lengths=lengths)
  line = refused(message, MODES['train'], config(path), tmp_path / 'run')
  assert str(path) in line


def test_arrays_without_elements_have_no_lengths(tmp_path):
  path = save(tmp_path / 'a.npz', X[..., 0], LENGTHS)
  refused('reshape numbers to', MODES['train'], config(path), tmp_path / 'run')
  path = save(tmp_path / 'b.npz', np.zeros((N, T, 4), np.uint8))
  refused('lengths are of sequences', MODES['train'], config(path), tmp_path / 'run')
  path = save(tmp_path / 'c.npz', test_x=X)
  refused('it needs test_lengths', MODES['train'], config(path), tmp_path / 'run')
  path = save(tmp_path / 'd.npz', np.where(VALID[..., None], np.nan, X))
  refused('x has numbers that are not finite', MODES['train'], config(path), tmp_path / 'run')


CANNOT = {
  'network': (
    'objective.levels=None network=mlp',
    'examples have lengths.* which mlp does not have: set network to dit',
  ),
  'coupling': (
    'objective.levels=None objective.coupling=exact',
    'objective.coupling=exact compares whole examples',
  ),
}


@pytest.mark.parametrize('fields, message', CANNOT.values(), ids=CANNOT)
def test_what_has_no_lengths_says_so(fields, message, run, tmp_path):
  given = config(run.parent / 'series.npz', **typed(fields))
  refused(message, MODES['train'], given, tmp_path / 'run')


def test_data_without_lengths_are_another_kind(run, tmp_path):
  np.savez(tmp_path / 'a.npz', x=np.nan_to_num(X, nan=280.0))
  other = of_run(run, **{'data.path': str(tmp_path / 'a.npz'), 'evaluation.metrics': 'moments'})
  refused(
    'whether examples have lengths is False, and True in this run', MODES['evaluate'], other, run
  )


def test_metrics_of_one_length_say_so(run):
  refused(
    'metrics=c2st is of examples of one length',
    MODES['evaluate'],
    of_run(run, **typed('evaluation.metrics=c2st')),
    run,
  )
