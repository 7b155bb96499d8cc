"""Parameters of a run that are used: checkpoints, and averages old and new."""

import json
import shutil

import jax
import numpy as np
import pytest

from diffusion_jax.app import models
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run import weights
from diffusion_jax.interop import files
from diffusion_jax.training import power_ema
from diffusion_jax.weights import averages
from tests.app.conftest import (
  assert_same,
  of_run,
  params_of,
  refused,
  restored,
  smoke,
  unet_smoke,
  untrained,
)
from tests.app.fields import within

TRACKED = within('training', ema_sigma_rels=(0.05, 0.10), snapshot_every=1)
TRACKED |= within('training', checkpoint_every=1, keep_checkpoints=4)
TRACKED |= within('training', more_ema_decays=(0.5,))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Trains four steps with averages, each with a checkpoint and a snapshot."""
  workdir = tmp_path_factory.mktemp('runs') / 'digits'
  MODES['train'](smoke(**TRACKED), str(workdir))
  return workdir


def restore(workdir, **fields):
  return restored(workdir, **within('sampling', **fields))


def bias(run, **fields):
  """Returns a bias of the parameters that config.sampling chooses."""
  return restore(run, **fields)['network']['conv_in']['bias']


def average(workdir, **fields):
  fields = within('average', **fields)
  MODES['average'](of_run(workdir, **fields), str(workdir))


def test_any_average_and_checkpoint_can_be_sampled_from(run):
  raw, slow, half = (
    bias(run, checkpoint='2', **fields) for fields in ({'ema': False}, {}, {'ema_decay': 0.5})
  )
  # steps 1 and 2 of ema_warmup: decays 0.1 and 2/11, for any rate
  np.testing.assert_allclose(half, slow, rtol=1e-5)
  assert (raw != slow).any()
  expected = params_of(run, 'raw', step=2)['network']['conv_in']['bias']
  np.testing.assert_array_equal(raw, expected)
  latest = bias(run)
  assert (latest == bias(run, checkpoint='4')).all()
  assert (latest != slow).any()


def test_what_the_run_does_not_have_is_one_line(run):
  message = "no average '0.9' of the parameters, but .*, 0.5"
  refused(message, bias, run, ema_decay=0.9)
  refused('contains no checkpoint 7 but 1, 2, 3, 4', bias, run, checkpoint='7')


def test_another_network_is_refused_and_the_same_is_not_traced(tmp_path, monkeypatch):
  run = untrained(unet_smoke(), tmp_path)
  other = models.make(unet_smoke(**{'network.channels': 12}), run)
  message = r'checkpoint 4 is of another network: network/conv_in/bias is \[8\]'
  refused(message, weights.restore, other)
  monkeypatch.setattr(models, 'shapes', None)
  _, step = weights.restore(models.make(unet_smoke(), run))
  assert step == 4


def test_snapshots_hold_the_averages_of_the_training(run):
  """The recursion is computed in float64 from the parameters of each step."""
  params = [params_of(run, 'raw', step=i) for i in (1, 2, 3, 4)]
  for sigma_rel, name in ((0.05, 'sigma_rel_0.05'), (0.1, 'sigma_rel_0.1')):
    gamma = power_ema.exponent(sigma_rel)
    expected = jax.tree.map(np.float64, params[0])
    for t, now in enumerate(params[1:], 2):
      beta = (1.0 - 1.0 / t) ** (gamma + 1.0)
      expected = jax.tree.map(
        lambda a, x, beta=beta: beta * a + (1.0 - beta) * np.float64(x), expected, now
      )
    stored = files.read_tensors(averages.path_of(run, 4))
    for path, x in files.flatten(expected).items():
      np.testing.assert_allclose(stored[f'{name}/{path}'], x, rtol=1e-4, atol=1e-6)
    assert_same(restore(run, ema_sigma_rel=sigma_rel), params_of(run, name))
  assert averages.read_images(run, 3) == 3 * 8


def test_an_average_is_a_run_that_all_modes_read(run, capsys):
  average(run, sigma_rel=0.07)
  out = run / 'averages' / '0.07-4'
  printed = capsys.readouterr().out
  assert 'relative width 0.07 at step 4 (32 images), of 4 snapshots' in printed
  found = restore(out)
  assert_same(found, restore(run, ema_sigma_rel=0.07))
  assert_same(found, restore(out, ema=False))
  kernel = found['network']['conv_in']['kernel']
  other = restore(run, ema_sigma_rel=0.05)['network']['conv_in']['kernel']
  assert np.linalg.norm(kernel) != np.linalg.norm(other)
  record = json.loads((out / 'average.json').read_text())
  assert record['step'] == 4 and record['images'] == 32
  average(run, sigma_rel=0.10, step=3, out=str(run / 'third'))
  expected = files.read_tensors(averages.path_of(run, 3))
  third = expected['sigma_rel_0.1/network/conv_in/bias']
  np.testing.assert_array_equal(bias(run / 'third'), third)


def test_mistakes_of_averages_are_one_clear_line(run, tmp_path):
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
  path = averages.path_of(copy, 4)
  path.write_bytes(path.read_bytes()[:-4] + b'1234')
  refused('00000004.safetensors is damaged', average, copy, sigma_rel=0.05)
  average(copy, sigma_rel=0.05, step=3)  # needs no other file
  message = 'is an average: give'
  refused(message, average, copy / 'averages' / '0.05-3', sigma_rel=0.07)
