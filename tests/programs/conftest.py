import pytest

from configs import digits


@pytest.fixture
def config():
  return smoke()


def smoke(**changes):
  """digits:smoke with fields changed, as the command line would."""
  config = digits.get_config('smoke')
  config.training.mesh = (1, 1)  # of the eight simulated devices: compiles fast
  config.update_from_flattened_dict(changes)
  return config
