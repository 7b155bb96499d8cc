"""A run whose schedule is learned, from training to samples."""

import json

import jax
import numpy as np
import optax
import pytest

from configs import digits_vdm
from diffusion_jax import build, families
from diffusion_jax.errors import UserError
from diffusion_jax.programs import PROGRAMS, train
from diffusion_jax.training import checkpoints
from diffusion_jax.runtime.sharding import replicated
from diffusion_jax.training.state import init_state


def config(**changes):
  config = digits_vdm.get_config('smoke')
  config.training.mesh = (1, 1)
  config.training.sample_every = 0
  config.training.ema_warmup = False
  config.training.ema_decay = 0.0
  config.update_from_flattened_dict(changes)
  return config


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'vdm'
  PROGRAMS['train'](config(), str(workdir))
  return workdir


def test_it_trains_its_schedule_and_evaluates_the_bound(run):
  text = (run / 'metrics.jsonl').read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  test = [line for line in lines if 'test_loss' in line][-1]
  parts = ('prior', 'diffusion', 'reconstruction')
  total = sum(test[f'test_{name}'] for name in parts)
  np.testing.assert_allclose(test['test_loss'], total, rtol=1e-5)
  c = config().schedule
  params = checkpoints.restore_params(run)[0]['schedule']
  moved = float(params['bias']) - c.gamma_min
  assert 1e-4 < abs(moved) < 0.1
  np.testing.assert_allclose(test['test_logsnr_0'], -params['bias'], rtol=1e-5)


def test_the_bound_on_the_test_split_is_without_dropout(run):
  """Two networks that differ in their dropout say the same of one state."""
  found = []
  for rate in (0.0, 0.9):
    changed = config(**{'network.dropout': rate})
    mesh = build.build_mesh(changed)
    like = checkpoints.restore_params(run)[0]
    state = init_state(like, optax.identity())
    found.append(train.make_evaluate(changed, mesh)(state)['test_loss'])
  assert found[0] == found[1]


def test_its_samples_follow_its_own_schedule(run):
  PROGRAMS['sample'](config(), str(run))
  with np.load(run / 'samples' / 'samples.npz') as arrays:
    assert arrays['arr_0'].shape == (16, 8, 8, 1)
  mesh = build.build_mesh(config())
  params = checkpoints.restore_params(run)[0]
  generate = families.of(config()).generate(config(), mesh)
  place = lambda params: jax.device_put(params, replicated(mesh))
  images = generate(place(params), np.arange(2), {})
  bias = params['schedule']['bias'] + 2.0
  params['schedule'] = params['schedule'] | {'bias': bias}
  assert not np.allclose(images, generate(place(params), np.arange(2), {}))


def test_steps_of_a_schedule_without_steps_are_refused(run):
  with pytest.raises(UserError, match="config.sampling: spacing='steps' needs"):
    PROGRAMS['sample'](config(**{'sampling.spacing': 'steps'}), str(run))
