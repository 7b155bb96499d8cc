import pytest

from configs import digits
from diffusion_jax.errors import UserError
from diffusion_jax.runs import sweep


@pytest.fixture
def path(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    'def sweep():\n'
    '  for rate in (0.1, 0.2):\n'
    "    yield {'optimizer.learning_rate': rate, 'seed': 3}\n"
  )
  return str(path)


def test_an_override_changes_its_fields_alone(path, capsys):
  config, before = digits.get_config(), digits.get_config()
  override = sweep.apply(path, 1, config, {'training.num_steps': 5})
  assert override == {'optimizer.learning_rate': 0.2, 'seed': 3}
  before.optimizer.learning_rate, before.seed = 0.2, 3
  assert config == before
  said = capsys.readouterr().out
  assert said == 'sweep 1 of 0..1: optimizer.learning_rate=0.2 seed=3\n'


def test_numbers_and_fields_that_do_not_fit_are_refused(path, tmp_path):
  config = digits.get_config()
  for index in (-1, 2):
    with pytest.raises(UserError, match=f'={index}: .* has 2, 0..1'):
      sweep.apply(path, index, config, {})
  with pytest.raises(UserError, match='--config.seed: the sweep'):
    sweep.apply(path, 0, config, {'seed': 1})
  (tmp_path / 'none.py').write_text('x = 1\n')
  with pytest.raises(UserError, match='none.py has no sweep'):
    sweep.read(str(tmp_path / 'none.py'))
  assert config == digits.get_config()
