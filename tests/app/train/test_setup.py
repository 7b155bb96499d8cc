"""Setting up a training checks its loggers, and traces one step for all rates and lengths."""

import sys
import types

import jax
import numpy as np
import pytest

from diffusion_jax.app.config import trust
from diffusion_jax.app.kinds.idle import TRAINING
from diffusion_jax.app.kinds.model import make_mesh
from diffusion_jax.app.kinds.rules import lines
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.train import setup
from diffusion_jax.errors import refuse
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training import loggers
from tests.app import toy_parts
from tests.app.conftest import refused, smoke
from tests.app.fields import within
from tests.test_readme import EXAMPLE, ROOT

PAGE = ROOT / 'docs' / 'training.md'


def test_loggers_are_installed_and_wanted(tmp_path, monkeypatch):
  """A stored config alone sends nothing away."""
  monkeypatch.setattr(loggers, '_PACKAGES', {'wandb': 'a_logger_that_is_not_installed'})

  def refused_by(config):
    MODES['train'].check_trust(config)
    refuse(lines(TRAINING, config, 'train', RunFolder.at(tmp_path)))

  for name, word in (('wandb', 'tensorboard,wandb'), ('my_logger:Logger', 'my_logger:')):
    message = (
      f'log_to={name} may send the curves .* but only a stored config names it. '
      f'.* add --config.training.log_to={name} to the command'
    )
    config = smoke(**{'training.log_to': (name,)})
    monkeypatch.setattr(trust, '_allowed', set())  # as for a stored config
    refused(message, refused_by, config)
    trust.allow([word])  # as --config.training.log_to and --allow give it
    if name == 'wandb':
      refused(r"wandb is not installed: run pip install -e '.\[wandb\]'", refused_by, config)
    else:
      refused_by(config)


def test_fixed_parts_need_a_known_number_of_threads(tmp_path, monkeypatch):
  """XLA:CPU has a thread for each simulated device of a process, and 8 otherwise."""
  config = smoke(**{'training.machine.fixed_parts': 2})
  monkeypatch.setattr(jax, 'local_device_count', lambda: 16)
  message = r'fixed_parts=2: .* is 8 on CPUs, or that of the simulated devices .*, 16: take fewer'
  refused(message, setup.prepare, config, RunFolder.at(tmp_path))


class MLflow(types.ModuleType):
  """Has the functions of mlflow 3.17 that the page calls, and remembers what they are given."""

  def __init__(self):
    super().__init__('mlflow')
    self.runs, self.active = {}, None

  def start_run(self, run_id=None, experiment_id=None, run_name=None):
    assert self.active is None
    self.active = run_id or f'run {len(self.runs)}'
    assert (run_id is None) == (self.active not in self.runs)
    self.runs.setdefault(self.active, [run_name])
    return types.SimpleNamespace(info=types.SimpleNamespace(run_id=self.active))

  def log_metrics(self, metrics, step=None):
    self.runs[self.active] += [(step, *item) for item in metrics.items()]

  def log_image(self, image, artifact_file=None, key=None, step=None):
    self.runs[self.active].append((step, key, image.shape))

  def log_dict(self, dictionary, artifact_file):
    self.runs[self.active].append((artifact_file, dictionary))

  def end_run(self):
    self.active = None


def test_the_logger_of_the_page_continues_its_run(tmp_path, monkeypatch, capsys):
  """A user's own logger is named `module:attribute`, and shows what metrics.jsonl has."""
  fake, module = MLflow(), types.ModuleType('my_logger')
  monkeypatch.setitem(sys.modules, 'mlflow', fake)
  monkeypatch.setitem(sys.modules, 'my_logger', module)
  [code] = [x for x in EXAMPLE.findall(PAGE.read_text()) if 'import mlflow' in x]
  exec(code, vars(module))
  name = 'my_logger:Logger'
  makers = setup.prepare(smoke(**{'training.log_to': (name,)}), RunFolder.at(tmp_path)).loggers
  for start in (0, 1, 0):
    writer = loggers.MetricWriter(tmp_path, start, loggers=makers)
    writer.write_config(start, {'seed': 0}, {'seed': 0})
    writer.write_scalars(start + 1, {'loss': 2.0, 'none': float('nan')})
    writer.write_images(start + 1, {'samples': np.zeros((8, 8, 1), np.uint8)})
    writer.close()
  config = 'config.json', {'seed': 0}
  first, again = (
    [config, (i, 'loss', 2.0), (i, 'samples', (8, 8, 1))] for i in (1, 2)
  )  # of a start, and of the one that continues it
  assert [*fake.runs.values()] == [[tmp_path.name, *first, *again], [tmp_path.name, *first]]
  assert 'failed' not in capsys.readouterr().out


def test_another_rate_or_length_is_the_same_program(tmp_path, monkeypatch):
  """Rates, lengths, seeds and data share a program; another batch size has its own."""
  for name in ('jit_step', 'state_maker'):  # not those that tests share
    monkeypatch.setattr(setup, name, getattr(setup, name).__wrapped__)

  def program(**fields):
    config = smoke(**{f.replace('__', '.'): x for f, x in fields.items()})
    step, shapes = setup.abstract_step(config, make_mesh(config), RunFolder.at(tmp_path))
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


@pytest.mark.parametrize('machine', [{'accumulate': 2}, {'fixed_parts': 2}])
def test_a_loss_of_the_whole_batch_is_not_cut(machine, tmp_path):
  """Whether its author says so or has forgotten it; the training starts without parts."""
  cut = within('training.machine', **machine)
  name, ((field, _),) = f'{toy_parts.__name__}:of_the_batch', machine.items()
  for separable, message in (
    (False, f'{field}=2 cuts the batch, and the loss of objective={name} is not a mean over its'),
    (True, f'objective={name!r}: its loss is .* in the mean of each alone: it needs the whole'),
  ):
    config = smoke(**cut, objective=name, **{'objective.separable': separable})
    refused(message, setup.prepare, config, RunFolder.at(tmp_path))
    refused(message, setup.abstract_step, config, make_mesh(config), RunFolder.at(tmp_path))
  config = smoke(objective=name, **{'objective.separable': False})
  setup.abstract_step(config, make_mesh(config), RunFolder.at(tmp_path))
