import pytest

from configs import digits
from diffusion_jax.programs import PROGRAMS


@pytest.fixture
def config():
  return smoke()


def smoke(**changes):
  """digits:smoke with fields changed, as the command line would.

  On one of the eight simulated devices, and with one resolution and without
  attention: this compiles in a third of the time.
  """
  config = digits.get_config('smoke')
  config.training.mesh = (1, 1)
  config.network.multipliers = (1,)
  config.network.attention_resolutions = ()
  config.update_from_flattened_dict(changes)
  return config


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A finished digits:smoke run."""
  workdir = tmp_path_factory.mktemp('runs') / 'digits-smoke'
  PROGRAMS['train'](smoke(), str(workdir))
  return workdir
