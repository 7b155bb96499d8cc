import pytest

from diffusion_jax.app import devices
from diffusion_jax.app.config import own
from diffusion_jax.app.modes import MODES, plan, train_setup
from diffusion_jax.errors import UserError, refuse
from diffusion_jax.training import loggers
from tests.app.conftest import refused, smoke

MISTAKES = {
  'batch_size=12 cannot be split over the 8 devices of the mesh: take a '
  'multiple of 8, or fewer devices by --config.training.mesh': {
    'training.batch_size': 12,
    'training.mesh': (-1, 1),
  },
  'batch_size=8 cannot be split over the 2 devices of the mesh in 8 parts': {
    'training.accumulate': 8,
    'training.mesh': (2, 1),
  },
  'keep_every=3 is not a multiple of training.checkpoint_every=2': {
    'training.keep_every': 3
  },
  'would take: set one of the two': {
    'training.skip_nonfinite': 1,
    'optimizer.repair_gradients': True,
  },
  'needs snapshots: set training.snapshot_every': {
    'training.ema_sigma_rels': (0.05,)
  },
  'a width is there twice': {
    'training.ema_sigma_rels': (0.05, 0.1, 0.05),
    'training.snapshot_every': 1,
  },
  'are fewer than the 8 devices of the mesh: set training.evaluate_every=0': {
    'data': 'synthetic',
    'data.num_images': 4,
    'training.mesh': (8, 1),
    'training.evaluate_every': 2,
  },
  "keep_best_by='fod' .did you mean 'fid'.. is not one of test_loss, fid": {
    'evaluation.metrics': ('fid', 'elbo'),
    'training.keep_best': 1,
    'training.keep_best_by': 'fod',
  },
  'name a metric of them in config.evaluation.metrics, as fid': {
    'evaluation.metrics': ('elbo',),
    'training.metrics_every': 1,
  },
}


@pytest.mark.parametrize('message', MISTAKES)
def test_a_mistake_is_one_clear_line(message, tmp_path):
  """Nothing is written before."""
  refused(
    message,
    lambda: MODES['train'](smoke(**MISTAKES[message]), tmp_path / 'run'),
  )
  assert not (tmp_path / 'run').exists()


def test_loggers_are_installed_and_wanted(tmp_path, monkeypatch):
  """A stored config alone sends nothing away."""
  found = {'wandb': 'json', 'mlflow': 'a_logger_that_is_not_installed'}
  monkeypatch.setattr(loggers, '_PACKAGES', found)
  messages = {
    'wandb': r'log_to=wandb may send the curves .* but only a stored config '
    r'names it. .* add --config.training.log_to=wandb to the command',
    'mlflow': r"mlflow is not installed: run pip install -e '.\[mlflow\]'",
  }
  for name, message in messages.items():
    config = smoke(**{'training.log_to': (name,)})
    monkeypatch.setattr(own, '_allowed', {'mlflow'})  # as for a stored config
    with pytest.raises(UserError, match=message):
      refuse(train_setup.problems(config))
  config = smoke(**{'training.log_to': ('wandb', 'tensorboard')})
  monkeypatch.setattr(own, '_allowed', set())
  own.allow(['wandb,tensorboard'])  # the text of a flag
  assert not [*train_setup.problems(config)]


def test_another_rate_or_length_is_the_same_program(tmp_path):
  """Another seed too; another batch size is not."""

  def program(**fields):
    config = smoke(**{f.replace('__', '.'): x for f, x in fields.items()})
    mesh = devices.make_mesh(config)
    return plan.trace_training(config, mesh, tmp_path)[0].lower().as_text()

  same = program()
  assert same == program(
    optimizer__learning_rate=1e-3, optimizer__decay='cosine',
    optimizer__warmup_steps=1, training__num_steps=9, seed=5,
  )  # fmt: skip
  assert same != program(training__batch_size=16)
