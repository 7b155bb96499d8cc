"""Trainings on the default device: bfloat16, attention, and the same bits."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.app.modes import MODES
from diffusion_jax.app.train import mode as train
from diffusion_jax.app.train.setup import prepare
from diffusion_jax.errors import Preempted
from diffusion_jax.runtime.files import read_json_lines
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training import preemption
from diffusion_jax.weights import load
from tests.app.conftest import smoke, trial

STEPS = 4 if jax.default_backend() == 'cpu' else 200
LENGTH = {
  'training.num_steps': STEPS,
  'training.log_every': STEPS // 4,
  'training.batch_size': 64,
  'training.machine.mesh': (1, 1),
  'training.sample_every': 0,
  'training.held_out': None,
  'training.checkpoints.every': 0,
  'report.after_training': False,
}


def losses(config, folder):
  MODES['train'](config, folder)
  lines = read_json_lines(folder / 'metrics.jsonl')
  return np.array([line['loss'] for line in lines if 'loss' in line])


def test_bfloat16_trains_as_float32(tmp_path):
  """Batches and noise are the same; means of the last steps differ by 3 %."""
  found = [
    losses(smoke(**LENGTH, **{'network.dtype': dtype}), tmp_path / dtype)
    for dtype in ('float32', 'bfloat16')
  ]
  full, half = (np.mean(x[-2:]) for x in found)
  assert abs(half / full - 1.0) < 0.03
  if STEPS > 4:
    assert full < 0.7 * found[0][0]


@pytest.mark.skipif(jax.default_backend() != 'gpu', reason='cuDNN needs a GPU')
def test_attention_by_cudnn_trains_as_by_xla(tmp_path):
  own = {'network.dtype': 'bfloat16', 'network.num_heads': 1, **LENGTH}
  found = [
    losses(trial('digits_dit', **own, **{'network.attention': x}), tmp_path / x)
    for x in ('auto', 'xla')
  ]
  assert_allclose(found[0][-2:], found[1][-2:], rtol=0.03)


def weights(folder):
  params = load.open(folder, 'raw').params
  return [np.asarray(x) for x in jax.tree.leaves(params)]


def test_a_deterministic_training_has_the_same_bits(tmp_path):
  """The training runs twice from the start, and once stopped and continued."""
  config = smoke(**LENGTH, **{'training.machine.deterministic': True})
  for name in ('once', 'again'):
    MODES['train'](config, tmp_path / name)
  with pytest.raises(Preempted):
    parts = prepare(config, RunFolder.at(tmp_path / 'stopped'))
    half = STEPS // 2
    train.train(parts, lambda i: preemption.SIGTERM if i == half else '')
  MODES['train'](config, tmp_path / 'stopped')
  once = weights(tmp_path / 'once')
  for name in ('again', 'stopped'):
    for a, b in zip(once, weights(tmp_path / name), strict=True):
      assert_array_equal(a, b)
