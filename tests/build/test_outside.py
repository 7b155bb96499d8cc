"""Networks, schedules, samplers, objectives and data of a user's own module."""

import os
import pathlib
import subprocess
import sys

import pytest

from diffusion_jax import build
from diffusion_jax.build import audit, own_parts
from diffusion_jax.errors import UserError
from tests.build import toy_parts
from tests.programs.conftest import unet_smoke as smoke

ROOT = pathlib.Path(__file__).parents[2]

CONFIG = '''"""Five parts of my_parts.py, which is beside this file."""

from configs import base


def get_config(arg=''):
  config = base.get_config()
  config.data.name = 'my_parts:pictures'
  config.data.num_made = 24
  config.data.image_shape = (4, 4, 1)
  config.schedule.name = 'my_parts:Schedule'
  config.schedule.first = 0.2
  config.network.name = 'my_parts:Network'
  config.network.width = 3
  config.conditioning.noise_input = 'logsnr'
  config.objective.name = 'my_parts:objective'
  config.objective.parametrization = 'v'
  config.sampling.sampler = 'my_parts:sampler'
  config.sampling.damping = 0.5
  config.evaluation.num_steps = 3
  config.evaluation.batch_size = 8
  return base.with_argument(config, arg)
'''


def launch(folder, *arguments):
  command = [sys.executable, str(ROOT / 'launch.py')]
  command += ['--config=mine.py:smoke', '--workdir=run', *arguments]
  path = os.environ.get('PYTHONPATH', '')
  return subprocess.run(
    command,
    cwd=folder,
    env=os.environ | {'PYTHONPATH': f'{ROOT}{os.pathsep}{path}'},
    capture_output=True,
    text=True,
  )


@pytest.mark.slow
def test_parts_of_a_users_own_are_trained_sampled_and_evaluated(tmp_path):
  parts = pathlib.Path(toy_parts.__file__).read_text()
  (tmp_path / 'my_parts.py').write_text(parts)
  (tmp_path / 'mine.py').write_text(CONFIG)
  steps = '--config.training.num_steps=2'
  for arguments in ([steps], ['--mode=sample'], ['--mode=evaluate']):
    done = launch(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
  assert 'elbo: ' in done.stdout
  assert (tmp_path / 'run/samples/samples.npz').exists()
  done = launch(tmp_path, steps, '--config.network.fourier=1,2')
  assert done.returncode == 2
  assert 'my_parts:Network takes no fourier; it takes width' in done.stderr
  stored = f'--config={ROOT}/configs/run.py:run'
  done = launch(tmp_path, stored, '--mode=evaluate')
  assert done.returncode == 2 and 'would be imported' in done.stderr
  parts = 'pictures Schedule Network objective sampler'.split()
  allowed = '--allow=' + ','.join(f'my_parts:{part}' for part in parts)
  done = launch(tmp_path, stored, '--mode=evaluate', allowed)
  assert done.returncode == 0, done.stderr[-2000:]


def outside(**changes):
  module = toy_parts.__name__
  names = {
    'network.name': f'{module}:Network',
    'schedule.name': f'{module}:Schedule',
    'objective.name': f'{module}:objective',
    'sampling.sampler': f'{module}:sampler',
  }
  config = smoke(**names | changes)
  own_parts.allow_named(config)
  audit.drop_unused(config, audit.DIRECT)
  return config


def test_parts_of_a_users_own_are_given_facts_and_fields():
  config = outside(
    **{'conditioning.labels': False, 'conditioning.dropout': 0.0}
  )
  audit.audit(config)
  assert build.build_network(config) == toy_parts.Network(out_channels=1)
  assert build.build_schedule(config) == toy_parts.Schedule()
  assert callable(build.build_sampler(config, None).step)
  with pytest.raises(
    UserError, match='labels=True needs network.name=unet or dit or vdm'
  ):
    build.build_network(outside(**{'conditioning.labels': True}))
