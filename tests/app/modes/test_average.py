"""--mode=average, of the snapshots of a training."""

import json
import shutil

import numpy as np
from numpy.testing import assert_array_equal

from diffusion_jax.app.modes import MODES
from diffusion_jax.interop import weight_files
from diffusion_jax.runtime.files import write_summed
from diffusion_jax.weights import averages
from tests.app.conftest import assert_same, of_run, refused
from tests.app.fields import within
from tests.app.run.test_weights import bias, restore


def average(workdir, **fields):
  fields = within('average', **fields)
  MODES['average'](of_run(workdir, **fields), str(workdir))


def test_an_average_is_a_run_that_all_modes_read(averaged, capsys):
  average(averaged, sigma_rel=0.07)
  out = averaged / 'averages' / '0.07-4'
  printed = capsys.readouterr().out
  assert 'relative width 0.07 at step 4 (32 images), of 4 snapshots' in printed
  found = restore(out)
  assert_same(found, restore(averaged, weights='width', weights__sigma_rel=0.07))
  assert_same(found, restore(out, weights='raw'))
  kernel = found['network']['conv_in']['kernel']
  other = restore(averaged, weights='width', weights__sigma_rel=0.05)
  other = other['network']['conv_in']['kernel']
  assert np.linalg.norm(kernel) != np.linalg.norm(other)
  record = json.loads((out / 'average.json').read_text())
  assert record['step'] == 4 and record['images'] == 32
  average(averaged, sigma_rel=0.10, step=3, out=str(averaged / 'third'))
  expected = weight_files.read_tensors(averages.path_of(averaged, 3))
  third = expected['sigma_rel_0.1/network/conv_in/bias']
  assert_array_equal(bias(averaged / 'third'), third)


def test_mistakes_of_averages_are_one_clear_line(averaged, tmp_path):
  for fields, message in (
    ({'sigma_rel': 0.07, 'step': 7}, 'no snapshot 7: give one of'),
    ({'sigma_rel': 0.004}, 'cannot make an average of width 0.004: its pr'),
    ({'sigma_rel': 0.1, 'out': str(averaged)}, 'holds a run: give another --conf'),
  ):
    refused(message, average, averaged, **fields)
  copy = tmp_path / 'copy'
  shutil.copytree(averaged / 'snapshots', copy / 'snapshots')
  config = json.loads((averaged / 'config.json').read_text())
  other = config | {'network': config['network'] | {'channels': 12}}
  write_summed(copy / 'config.json', other)
  message = 'snapshot 4 in .* is of another network'
  refused(message, average, copy, sigma_rel=0.05)
  shutil.copy(averaged / 'config.json', copy)
  path = averages.path_of(copy, 4)
  path.write_bytes(path.read_bytes()[:-4] + b'1234')
  refused('00000004.safetensors is damaged', average, copy, sigma_rel=0.05)
  average(copy, sigma_rel=0.05, step=3)  # needs no other file
  message = 'is an average: give'
  refused(message, average, copy / 'averages' / '0.05-3', sigma_rel=0.07)
