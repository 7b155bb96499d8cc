"""Examples that train have the losses of the program, bit for bit without optimization by XLA."""

import importlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

import diffusion_jax as dj
from diffusion_jax.app.kinds import store
from diffusion_jax.app.modes import MODES
from examples.own_loss import test_the_loss_of_no_prediction_is_a_mean_of_chi  # noqa: F401
from tests.app.conftest import lines_of, read

CONFIGS = {'ddpm': 'digits:long', 'flow': 'digits_dit:flow', 'edm': 'digits_edm'}


UPPER = {'channels': 16, 'multipliers': (1,), 'attention_resolutions': ()}
CASES = [('ddpm', 3)]
CASES += [pytest.param(name, 100, marks=pytest.mark.slow) for name in CONFIGS]


@pytest.mark.docs
@pytest.mark.parametrize('name, steps', CASES)
def test_the_losses_are_those_of_launch(name, steps, tmp_path, monkeypatch):
  """Few steps are of a network without its lower half."""
  example = importlib.import_module(f'examples.{name}')
  fields = {'num_steps': steps, 'log_every': 1, 'sample_every': 0, 'held_out': None}
  fields |= {'mesh': '1,1', 'checkpoints.every': 0}
  fields = {f'training.{field}': value for field, value in fields.items()}
  fields |= {'optimizer.decay_steps': example.STEPS, 'report.after_training': False}
  if steps < 100:
    monkeypatch.setattr(example, 'unet', example.unet.clone(**UPPER))
    fields |= {f'network.{field}': value for field, value in UPPER.items()}
  config = store.with_flags(read(CONFIGS[name]), [(n, str(x)) for n, x in fields.items()])
  MODES['train'](config, tmp_path)
  _, losses = example.train(steps)
  assert len(losses) == steps
  assert_array_equal(losses, np.float32(lines_of(tmp_path, 'loss')))


@pytest.mark.docs
@pytest.mark.parametrize(
  'name', ['ddpm', *(pytest.param(x, marks=pytest.mark.slow) for x in ('flow', 'edm'))]
)
def test_an_example_draws_its_pictures(name, tmp_path, monkeypatch):
  example = importlib.import_module(f'examples.{name}')
  if name == 'ddpm':
    monkeypatch.setattr(example, 'unet', example.unet.clone(**UPPER))
  monkeypatch.setattr(
    dj, 'level_grid', lambda schedule, steps, grid=dj.level_grid: grid(schedule, 2)
  )
  example.main(['--steps=1', f'--out={tmp_path / "table.png"}'])
  with Image.open(tmp_path / 'table.png') as table:
    assert table.mode == 'L' and np.asarray(table).std() > 20
