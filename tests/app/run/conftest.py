"""A run with samples and evaluations, and its shared folder."""

import pytest
from absl.testing import flagsaver

from diffusion_jax.app import cli
from diffusion_jax.runtime.files import write_json
from diffusion_jax.weights import checksums
from tests.app.conftest import params_of, smoke, untrained

QUICK = '--config.sampling.num_samples=10', '--config.compilation_cache='


def command(*args):
  """Runs a command line; returns its exit code."""
  with flagsaver.flagsaver():
    try:
      cli.parse(['launch.py', *map(str, args)])
      cli.main([])
    except SystemExit as stop:
      return stop.code
  return 0


def sample(config, *args):
  assert not command(f'--config={config}', '--mode=sample', *QUICK, *args)


def write(run, out):
  to = '--config.convert.to=huggingface', f'--config.convert.out={out}'
  return command(f'--config={run}', '--mode=convert', *to)


@pytest.fixture(scope='session')
def evaluated(tmp_path_factory):
  """Makes a run with samples and an evaluation, as the modes would."""
  config = smoke(**{'training.start.run': '/home/me/runs/a', 'sampling.num_steps': 3})
  run = untrained(config, tmp_path_factory.mktemp('runs') / 'digits')
  sample(run)
  weights = checksums.of_arrays(params_of(run))
  place = run / 'evaluation' / 'elbo-test'
  place.mkdir(parents=True)
  metrics = {'elbo': {'value': 3.14159, 'error': 0.02, 'note': 'bits/dim'}}
  bits = {'metric': 'elbo', 'metrics': metrics, 'examples': 1000}
  about = {'split': 'test', 'settings': {'weights': weights}}
  write_json(place / 'result.json', bits | about)
  place = run / 'evaluation' / 'samples'
  place.mkdir()
  scores = {
    'fid': {'value': 12.5, 'error': None, 'note': 'of 50'},
    'kid': {'value': float('nan'), 'error': None, 'note': ''},
  }
  drawn = {'weights': weights, 'sampling': {'seed': 0, 'num_samples': 50}}
  content = {'protocol': {'samples': drawn}, 'metrics': scores}
  write_json(place / 'result.json', content)
  return run


@pytest.fixture(scope='session')
def shared(evaluated, tmp_path_factory):
  out = tmp_path_factory.mktemp('hub') / 'digits-small'
  assert write(evaluated, out) == 0
  return out
