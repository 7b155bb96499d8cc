import shutil

import pytest

from configs import digits


@pytest.fixture
def config():
  return smoke()


def smoke(**changes):
  """digits:smoke with fields changed, as the command line would.

  On one of the eight simulated devices, with one resolution, without attention
  and without previews and evaluations while it trains (`SEEN` has them): this
  compiles in a fifth of the time.
  """
  config = digits.get_config('smoke')
  config.training.mesh = (1, 1)
  config.training.sample_every = 0
  config.training.evaluate_every = 0
  config.network.multipliers = (1,)
  config.network.attention_resolutions = ()
  config.network.middle_attention = 'none'
  config.update_from_flattened_dict(changes)
  return config


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
