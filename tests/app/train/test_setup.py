from diffusion_jax.app.config import trust
from diffusion_jax.app.config.rules import lines
from diffusion_jax.app.kinds.model import make_mesh
from diffusion_jax.app.kinds.rules import TRAINING
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.train import setup
from diffusion_jax.errors import refuse
from diffusion_jax.training import loggers
from tests.app.conftest import refused, smoke


def test_loggers_are_installed_and_wanted(tmp_path, monkeypatch):
  """A stored config alone sends nothing away."""
  found = {'wandb': 'json', 'mlflow': 'a_logger_that_is_not_installed'}
  monkeypatch.setattr(loggers, '_PACKAGES', found)

  def refused_by(config):
    MODES['train'].check_trust(config)
    refuse(lines(TRAINING, config, 'train', tmp_path))

  messages = {
    'wandb': r'log_to=wandb may send the curves .* but only a stored config '
    r'names it. .* add --config.training.log_to=wandb to the command',
    'mlflow': r"mlflow is not installed: run pip install -e '.\[mlflow\]'",
  }
  for name, message in messages.items():
    config = smoke(**{'training.log_to': (name,)})
    monkeypatch.setattr(trust, '_allowed', {'mlflow'})  # as for a stored config
    refused(message, refused_by, config)
  config = smoke(**{'training.log_to': ('wandb', 'tensorboard')})
  monkeypatch.setattr(trust, '_allowed', set())
  trust.allow(['wandb,tensorboard'])  # as a flag gives it
  refused_by(config)


def test_another_rate_or_length_is_the_same_program(tmp_path, monkeypatch):
  """So are another seed and other data; another batch size is another program."""
  for name in ('jit_step', 'state_maker'):  # not those that tests share
    monkeypatch.setattr(setup, name, getattr(setup, name).__wrapped__)

  def program(**fields):
    config = smoke(**{f.replace('__', '.'): x for f, x in fields.items()})
    step, shapes = setup.abstract_step(config, make_mesh(config), tmp_path)
    return step.lower(*shapes).as_text()

  same = program()
  assert same == program(
    optimizer__learning_rate=1e-3,
    optimizer__decay='cosine',
    optimizer__warmup_steps=1,
    training__num_steps=9,
    training__random_flip=True,
    data='synthetic',
    data__image_shape=(8, 8, 1),
    data__num_classes=10,
    seed=5,
  )
  assert same != program(training__batch_size=16)
