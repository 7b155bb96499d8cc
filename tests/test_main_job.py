"""Slow tests of whole runs: `pytest -m slow -n 0`."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusion_jax.app.config import experiments
from diffusion_jax.app.kinds import store
from diffusion_jax.app.smoke import shrunk
from tests.app.config.test_overrides import FILES as EXPERIMENTS
from tests.conftest import HANG_SECONDS

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


def call(*command):
  # Like a user: one device, XLA's default optimisation, and no cache.
  drop = ('XLA_FLAGS', 'JAX_COMPILATION_CACHE_DIR')
  env = {k: v for k, v in os.environ.items() if k not in drop}
  result = subprocess.run(
    [sys.executable, *command],
    cwd=ROOT,
    env=env,
    capture_output=True,
    text=True,
    timeout=HANG_SECONDS,
  )
  assert result.returncode == 0, result.stderr
  return result.stdout


def test_the_main_job_makes_digits_that_a_classifier_reads(tmp_path):
  workdir = f'--workdir={tmp_path / "digits"}'
  config = '--config=configs/digits.py'
  start = time.time()
  call('launch.py', config, workdir)
  print(f'main job: {time.time() - start:.0f} s')
  assert (tmp_path / 'digits' / 'report.html').stat().st_size < 5e6
  many = '--config.sampling.num_samples=500', '--config.sampling.name=samples'
  call('launch.py', config, workdir, '--mode=sample', *many)
  path = tmp_path / 'digits' / 'samples' / 'samples.npz'
  verdict = call('-m', 'diffusion_jax.metrics.judges.digits_judge', str(path))
  print(verdict)
  accuracy = float(re.search(r'500 samples: ([\d.]+)%', verdict)[1])
  assert accuracy >= 97.0


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_the_smoke_run_of_every_config(name, tmp_path):
  args = ['launch.py', f'--config=configs/{name}.py:smoke', f'--workdir={tmp_path}/r']
  config = shrunk(store.completed(experiments.from_file(f'configs/{name}.py')))
  others = {
    'latent.run': config.latent.run if config.get('latent') else '',
    'training.start.run': config.at('training.start.run'),
    'training.teacher': config.training.teacher,
  }
  for field, other in others.items():
    if other:  # runs/<config>-<argument>, to train first
      stem, argument = Path(other).name.split('-')
      first = f'--config=configs/{stem}.py:{argument}', '--mode=train'
      if not (tmp_path / stem).exists():
        call('launch.py', *first, f'--workdir={tmp_path}/{stem}')
      args.append(f'--config.{field}={tmp_path}/{stem}')
  if config.objective.name == 'classifier':  # makes no images
    call(*args)
    call(*args, '--mode=evaluate')
    assert list(tmp_path.glob('r/evaluation/*/result.json'))
  else:
    call(*args)
    call(*args, '--mode=sample')
    assert [*(tmp_path / 'r' / 'samples').glob('samples-*.png')]
