import contextlib
import io
import shutil

import jax
import numpy as np
import pytest

from configs import digits
from diffusion_jax import families
from diffusion_jax.build import audit, own_parts
from diffusion_jax.runs import run_folder
from diffusion_jax.training import checkpoints
from tests.programs.small_network import SmallNetwork


def printed_by(function, *args):
  """What a call prints, for fixtures of a module, which have no capsys."""
  with contextlib.redirect_stdout(io.StringIO()) as output:
    function(*args)
  return output.getvalue()


@pytest.fixture
def config():
  return smoke()


def smoke(**changes):
  """digits:smoke with fields changed, as the command line would.

  On one of the eight simulated devices, without previews and evaluations while
  it trains (`SEEN` has them), and with a network whose training takes a third
  of the time of a U-Net's, with all programs in the cache.
  """
  config = without_extras(digits.get_config('smoke'))
  take_small_network(config)
  config.update_from_flattened_dict(changes)
  return config


def unet_smoke(**changes):
  """The same with the config's own network, of one resolution."""
  config = without_extras(digits.get_config('smoke'))
  config.network.multipliers = (1,)
  config.network.attention_resolutions = ()
  config.network.middle_attention = 'none'
  config.update_from_flattened_dict(changes)
  return config


def take_small_network(config):
  config.network.name = f'{SmallNetwork.__module__}:SmallNetwork'
  own_parts.allow([config.network.name])
  audit.drop_unused(config, ['network'])


def without_extras(config):
  config.training.mesh = (1, 1)
  config.training.sample_every = 0
  config.training.evaluate_every = 0
  return config


def untrained(config, workdir, deviation=0.2):
  """Makes a run folder of normal parameters, without a training.

  For what every network shows; of a new one the last layer would be zero.
  """
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: (deviation * rng.standard_normal(x.shape)).astype(x.dtype),
    families.abstract_params(config),
  )
  workdir = run_folder.prepare(str(workdir))
  run_folder.write_config(workdir, config)
  stored = run_folder.plain(config)
  checkpoints.save_params(workdir, config.training.num_steps, params, stored)
  return workdir


SEEN = {
  'training.sample_every': 4,
  'training.evaluate_every': 2,
  'report.after_training': True,
}


@pytest.fixture(scope='module')
def run(digits_run, tmp_path_factory):
  """A finished digits:smoke run that tests may write in."""
  workdir = tmp_path_factory.mktemp('runs') / 'digits-smoke'
  return shutil.copytree(digits_run, workdir)
