"""A config file gives a config, the points of a sweep, or one line that says where it is wrong."""

import pytest

from diffusion_jax.app.config import experiments
from diffusion_jax.app.kinds import store
from tests.app.conftest import CONFIGS, read, refused


@pytest.mark.parametrize(
  'text, message',
  {
    'def get_config(:\n  pass\n': 'mine.py, line 1: invalid syntax',
    'x = 1\n': 'mine.py is not a config: it has no function get_config',
    'def get_config():\n  pass\n': r'get_config\(\) returned NoneType, not',
    'def get_config():\n  return {"seed": 1}\n': r'get_config\(\) returned dict',
    '\ndef get_config():\n  return int("a")\n': 'mine.py, line 3: ValueError',
    'import nothing_of_this_name\n': 'mine.py, line 1: ModuleNotFoundError',
    'def get_config():\n  raise SystemExit(3)\n': 'line 2: SystemExit: 3',
    'from configs import base\ndef get_config():\n'
    '  return base.get_config().training.num_steps\n': (
      'mine.py, line 3: AttributeError.* set the field first'
    ),
  }.items(),
)
def test_a_file_that_gives_no_config_says_where(text, message, tmp_path, monkeypatch):
  (tmp_path / 'mine.py').write_text(text)
  monkeypatch.chdir(tmp_path)
  for path in ('mine.py', str(tmp_path / 'mine.py')):
    refused(message, experiments.from_file, path)


def test_the_argument_of_a_config_is_one_of_its_variants():
  path = str(CONFIGS / 'digits.py')
  message = r"digits.py:inpaintin \(did you mean 'inpainting'\?\).* can be smok"
  refused(message, experiments.from_file, path, 'inpaintin')
  refused('can be smoke$', experiments.from_file, str(CONFIGS / 'digits_vae.py'), 'x')
  one, other = (
    experiments.from_file(str(CONFIGS / 'cifar10_vp.py'), argument) for argument in ('', 'vp')
  )
  assert one.to_dict() == other.to_dict()


@pytest.fixture
def swept(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from configs.digits import get_config, VARIANTS\n'
    'def sweep():\n'
    '  for rate in (0.1, 0.2):\n'
    "    yield {'optimizer.learning_rate': rate, 'training.machine.mesh': (1, 1)}\n"
  )
  return str(path)


def test_a_change_of_a_sweep_is_flags(swept, tmp_path):
  flags = experiments.sweep(swept, 1)
  config = store.with_flags(read('digits'), flags)
  assert config.optimizer.learning_rate == 0.2
  assert config.training.machine.mesh == (1, 1)
  for index in (-1, 2):
    message = f'--sweep_index={index}: .* has 2, 0..1'
    refused(message, experiments.sweep, swept, index)
  (tmp_path / 'none.py').write_text('def get_config(): pass\n')
  path = str(tmp_path / 'none.py')
  refused(r'none.py has no sweep\(\)', experiments.sweep, path, 0)
