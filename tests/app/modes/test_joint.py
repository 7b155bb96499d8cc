"""Any conditional of a vector by one network: the commands, and the truth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import diffusion_jax as dj
from diffusion_jax.app import models
from diffusion_jax.app.modes import MODES
from diffusion_jax.networks.functional import network_fn
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.mlp import MLP
from diffusion_jax.training.conditions import make_condition, subsets
from tests.app.conftest import (
  arrays_of, of_run, read, refused, trial, untrained,
)  # fmt: skip

N = np.nan
ROWS = np.array(
  [[N, N, 0.2, 0.1], [0.3, 1.0, N, N], [N, -0.4, 0.3, N], 4 * [N]]
)
FEW = {
  'data.num_examples': 100,
  'data.num_test': 16,
  'training.evaluate_every': 4,
  'sampling.num_samples': 5,
  'sampling.batch_size': 8,
}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of random parameters."""
  config = trial('joint', **FEW)
  return untrained(config, tmp_path_factory.mktemp('joint') / 'run', 0.05)


def draw(run, rows, **fields):
  """Returns what --mode=sample writes for rows of sampling.context."""
  np.save(run / 'row.npy', rows)
  fields = {'sampling.name': 'given'} | fields
  fields['sampling.context'] = str(run / 'row.npy')
  MODES['sample'](of_run(run, **fields), run)
  return arrays_of(run, 'given')


@pytest.mark.parametrize('task, network', [
  ('two_moons', 'dit'), ('slcp', 'mlp'),
])  # fmt: skip
def test_every_choice_trains_and_draws(task, network, tmp_path):
  config = trial('joint', task, **FEW | {'network': network})
  MODES['train'](config, tmp_path)
  size = {'two_moons': 4, 'slcp': 13}[task]
  rows = np.full((2, size), N)
  rows[0, 3:], rows[1, ::2] = 0.5, 0.25
  found = draw(tmp_path, rows)
  np.testing.assert_array_equal(found['context'], rows)
  each = np.repeat(rows, 5, axis=0)
  x, known = found['arr_0'], ~np.isnan(each)
  np.testing.assert_array_equal(x[known], np.float32(each[known]))
  assert np.isfinite(x).all()
  MODES['sample'](of_run(tmp_path), tmp_path)
  joint = arrays_of(tmp_path)['arr_0']
  assert joint.shape == (5, size)
  assert (joint.std(axis=0) > 0.01).all()  # nothing is given


def test_given_numbers_are_kept_and_others_drawn(run, capsys):
  found = draw(run, ROWS)
  x = found['arr_0'].reshape(4, 5, 4)
  for row, each in zip(ROWS, x, strict=True):
    known = ~np.isnan(row)
    np.testing.assert_array_equal(
      each[:, known], np.float32(row[known])[None] * np.ones((5, 1), np.float32)
    )
    assert (each[:, ~known].std(axis=0) > 1e-3).all()
  assert (np.abs(x[:, :, :2]) <= 1.0).all()  # the box of the parameters
  assert 'of the draws were outside data.bounds' in capsys.readouterr().out
  far = draw(run, [N, N, 99.0, 0.0], **{'sampling.name': 'far'})
  assert np.isfinite(far['arr_0']).all()
  assert 'note: number 2 of row 0 of the context is' in capsys.readouterr().out


@pytest.mark.parametrize('row, message', [
  ([N, 0.1, 0.2], r'row.npy has the shape \[3\], and \[4\] or \[K, 4\]'),
  ([[N] * 4, [0.1] * 4], 'row 1 of .*row.npy gives all numbers of x: NaN marks'),
  ([N, N, np.inf, 0.1], 'has numbers that are not finite'),
  ([1.5, N, N, N], 'row 0 of .*row.npy has a number outside data.bounds'),
])  # fmt: skip
def test_another_row_is_refused(run, row, message):
  refused(message, draw, run, row)


def test_what_does_not_fit_is_refused(run):
  def train(name='joint', **fields):
    config = trial(name, **FEW | fields)
    models.make(config, run / 'none').check('train')
    models.make(config, run / 'none').network()

  known = {'conditioning.known': 'subsets', 'conditioning.known.parameters': 2}
  context = {'conditioning.context': 'vector'}
  refused('context in x: set context=None', train, **context)
  four = {'conditioning.known.parameters': 4}
  refused('parameters=4 must be less than the 4 numbers', train, **four)
  refused('dropout=0.1 has no effect', train, **{'conditioning.dropout': 0.1})
  refused('needs vectors', train, 'gp_sequences', **known)
  unet = {'network': 'unet', 'conditioning.known.parameters': 2}
  refused('input known, which unet .* dit or mlp', train, **unet)
  row = {'sampling.context_row': 0}
  refused('no rows are given', MODES['sample'], of_run(run, **row), run)
