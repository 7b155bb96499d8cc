"""Averages chosen after the training, on a tiny run."""

import json
import shutil

import jax
import numpy as np
import pytest

from diffusion_jax.app.modes import MODES
from diffusion_jax.interop import files
from diffusion_jax.training import power_ema, snapshots
from tests.app.conftest import (
  assert_same,
  of_run,
  params_of,
  refused,
  restored,
  smoke,
)

TRACKED = {
  'training.ema_sigma_rels': (0.05, 0.10),
  'training.snapshot_every': 1,
  'training.checkpoint_every': 1,
  'training.keep_checkpoints': 4,
}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Trains four steps, each with a checkpoint and a snapshot."""
  workdir = tmp_path_factory.mktemp('runs') / 'digits'
  MODES['train'](smoke(**TRACKED), str(workdir))
  return workdir


def restore(workdir, **fields):
  return restored(workdir, **{f'sampling.{n}': x for n, x in fields.items()})


def average(workdir, **fields):
  fields = {f'average.{name}': value for name, value in fields.items()}
  MODES['average'](of_run(workdir, **fields), str(workdir))


def test_snapshots_hold_the_averages_of_the_training(run):
  """The recursion is computed in float64 from the parameters of each step."""
  params = [params_of(run, False, checkpoint=i) for i in (1, 2, 3, 4)]
  for sigma_rel, name in ((0.05, 'sigma_rel_0.05'), (0.1, 'sigma_rel_0.1')):
    gamma = power_ema.exponent(sigma_rel)
    expected = jax.tree.map(np.float64, params[0])
    for t, now in enumerate(params[1:], 2):
      beta = (1.0 - 1.0 / t) ** (gamma + 1.0)
      expected = jax.tree.map(
        lambda a, x, beta=beta: beta * a + (1.0 - beta) * np.float64(x),
        expected,
        now,
      )
    stored = files.read_tensors(snapshots.path_of(run, 4))
    for path, x in files.flatten(expected).items():
      np.testing.assert_allclose(
        stored[f'{name}/{path}'], x, rtol=1e-4, atol=1e-6
      )
    assert_same(restore(run, ema_sigma_rel=sigma_rel), params_of(run, name))
  assert snapshots.read_images(run, 3) == 3 * 8


def test_an_average_is_a_run_that_all_modes_read(run, capsys):
  average(run, sigma_rel=0.07)
  out = run / 'averages' / '0.07-4'
  printed = capsys.readouterr().out
  assert 'relative width 0.07 at step 4 (32 images), of 4 snapshots' in printed
  found = restore(out)
  assert_same(found, restore(run, ema_sigma_rel=0.07))
  assert_same(found, restore(out, ema=False))
  norm = np.linalg.norm(found['network']['conv_in']['kernel'])
  assert norm != np.linalg.norm(
    restore(run, ema_sigma_rel=0.05)['network']['conv_in']['kernel']
  )
  record = json.loads((out / 'average.json').read_text())
  assert record['step'] == 4 and record['images'] == 32
  average(run, sigma_rel=0.10, step=3, out=str(run / 'third'))
  expected = files.read_tensors(snapshots.path_of(run, 3))
  bias = restore(run / 'third')['network']['conv_in']['bias']
  np.testing.assert_array_equal(
    bias, expected['sigma_rel_0.1/network/conv_in/bias']
  )


def test_mistakes_are_one_clear_line(run, tmp_path):
  for fields, message in (
    ({'sigma_rel': 0.07, 'step': 7}, 'no snapshot 7: give one of'),
    ({'sigma_rel': 0.004}, 'cannot make an average of width 0.004: its pr'),
    ({'sigma_rel': 0.1, 'out': str(run)}, 'holds a run: give another --conf'),
  ):
    refused(message, average, run, **fields)
  copy = tmp_path / 'copy'
  shutil.copytree(run / 'snapshots', copy / 'snapshots')
  config = json.loads((run / 'config.json').read_text())

  def write(section, **fields):
    changed = config | {section: config[section] | fields}
    (copy / 'config.json').write_text(json.dumps(changed))

  write('network', channels=12)
  message = 'snapshot 4 in .* is of another network'
  refused(message, average, copy, sigma_rel=0.05)
  write('network')
  path = snapshots.path_of(copy, 4)
  path.write_bytes(path.read_bytes()[:-4] + b'1234')
  refused('00000004.safetensors is damaged', average, copy, sigma_rel=0.05)
  average(copy, sigma_rel=0.05, step=3)  # needs no other file
  message = 'is an average: give'
  refused(message, average, copy / 'averages' / '0.05-3', sigma_rel=0.07)
