"""Series with gaps: trained, continued, measured, and what cannot be done with them."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.data.npz import npz
from diffusion_jax.data.sources import measured
from diffusion_jax.runtime.files import read_json_lines
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import arrays_of, of_run, refused, trial
from tests.app.fields import typed

N, T = 64, 6
RNG = np.random.default_rng(0)
GAPS = RNG.random((N, T, 1)) < 0.3
X = np.where(GAPS, np.nan, 280.0 + 10.0 * np.cumsum(RNG.standard_normal((N, T, 1)), axis=1))
FEW = typed("""
  data=npz data.gaps=True data.test_fraction=0.25 network=dit network.channels=16
  network.num_blocks=1 network.num_heads=2 training.num_steps=4 training.batch_size=8
  training.held_out.every=2 training.held_out.batches=1 training.checkpoints.every=4
  sampling.num_samples=5 sampling.batch_size=5 sampling.num_steps=3 sampling.checkpoint=latest
""")


def save(path, x=X):
  np.savez(path, x=x)
  return path


def config(path, **fields):
  return trial('rollout', **FEW | {'data.path': str(path)} | fields)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('gaps')
  MODES['train'](config(save(folder / 'series.npz')), folder / 'run')
  return folder / 'run'


def test_mean_and_deviation_are_of_known_numbers(tmp_path):
  source = npz(str(save(tmp_path / 'x.npz')), gaps=True)
  facts = measured(source)
  assert facts.gaps
  assert_allclose(facts.x.mean, [np.nanmean(X)])
  assert_allclose(facts.x.std, [np.nanstd(X)])


def test_a_run_of_gaps_is_trained_drawn_and_measured(run, tmp_path):
  lines = read_json_lines(run / 'metrics.jsonl')
  losses = [line[name] for line in lines for name in ('loss', 'test_loss') if name in line]
  assert len(losses) >= 3 and np.isfinite(losses).all()
  rows = np.full((1, T, 1), np.nan)
  rows[0, [0, 3], 0] = 280.0, 290.0
  np.save(tmp_path / 'some.npy', rows)
  MODES['sample'](of_run(run, **{'sampling.context': tmp_path / 'some.npy'}), run)
  x = arrays_of(run, 'samples-context=some')['arr_0']
  assert np.isfinite(x).all() and len(np.unique(x[:, 1])) == 5
  assert_allclose(x[:, [0, 3], 0], [[280.0, 290.0]] * 5)
  MODES['evaluate'](of_run(run, **{'evaluation.num_generated': 20}), run)
  (path,) = (run / 'evaluation').glob('moments-*/result.json')
  assert all(np.isfinite(x['value']) for x in json.loads(path.read_text())['metrics'].values())


def test_the_same_gaps_in_other_numbers_are_the_same_data_for_the_mean(tmp_path):
  """What stood in a gap is in no fact: a file that never had it has the same facts."""
  whole = np.where(GAPS, 1e6, X)
  facts = [
    measured(npz(str(save(tmp_path / f'{i}.npz', np.where(GAPS, np.nan, x))), gaps=True))
    for i, x in enumerate((X, whole))
  ]
  assert facts[0] == facts[1]


def checked(config, mode='train'):
  make_model(config, RunFolder.at('nowhere')).check(mode)


def test_what_is_of_whole_examples_is_refused(run, tmp_path):
  path = save(tmp_path / 'x.npz')
  refused('not finite', lambda: checked(config(path, **{'data.gaps': False})))
  levels = {'objective.levels': None}
  refused('gaps=True: a number that is not known', lambda: checked(config(path, **levels)))
  for metric in ('crps', 'sliced_w2'):
    model = make_model(of_run(run, **{'evaluation.metrics': metric}), RunFolder.at(run))
    refused(f'metrics={metric} is of whole examples', model.check, 'evaluate')
  empty, infinite = X.copy(), X.copy()
  empty[:], infinite[3, 2] = np.nan, np.inf
  refused('has only gaps at 0', lambda: checked(config(save(tmp_path / 'empty.npz', empty))))
  refused('not finite', lambda: checked(config(save(tmp_path / 'infinite.npz', infinite))))
  for kind, x in (('angles', X[..., 0]), (None, np.zeros((9, 4), np.uint8))):
    np.savez(tmp_path / 'other.npz', x=x)
    with pytest.raises(ValueError, match='gaps=True is of numbers'):
      npz(str(tmp_path / 'other.npz'), gaps=True, kind=kind)
