"""A user's simulator: each simulation runs once in the life of a run."""

import shutil
import sys

import pytest

from diffusion_jax.app.modes import MODES
from diffusion_jax.app.train import floors
from tests.app.conftest import of_run, refused, trial
from tests.app.fields import typed
from tests.data.test_simulations import calls_of

CODE = """
import numpy as np
from diffusion_jax.paths import WritePath

def simulate(rng, n, calls: WritePath = ''):
  with open(calls, 'a') as file:
    file.write(f'{n}\\n')
  x = rng.uniform(-1.0, 1.0, (n, 2))
  x[::10, 1] = np.nan
  return {'x': x, 'context': x + 0.1 * rng.normal(size=(n, 2))}
"""
FEW = typed("""
  training.held_out.every=2 training.sample_every=4 training.checkpoints.best=None
  training.metrics.every=4 training.metrics.images=8 sampling.checkpoint=latest
  sampling.num_samples=8 sampling.batch_size=8 sampling.sampler=ddim evaluation.metrics=moments
  report.after_training=True report.trajectory=False
""")


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Returns (a run, the file of its calls, its fields, its module)."""
  folder = tmp_path_factory.mktemp('simulator')
  name, patch = f'simulator_{folder.name}', pytest.MonkeyPatch()
  module = folder / f'{name}.py'
  module.write_text(CODE)
  patch.syspath_prepend(folder)
  data = {'data': f'{name}:simulate', 'data.calls': folder / 'calls'}
  data |= typed('data.num_examples=250 data.num_test=40')
  patch.setattr(sys, 'dont_write_bytecode', True)
  patch.setattr(floors, 'measure', lambda *args: ('loss', []))
  config = trial('inference', 'two_moons', **FEW | data)
  MODES['train'](config, folder / 'run')
  yield folder / 'run', folder / 'calls', FEW | data, module
  patch.undo()


def test_a_start_names_the_page_of_wrong_numbers_once(trained, monkeypatch, capsys):
  """The run is finished, so a start is short."""
  run, _, _, module = trained
  for flags, count in ('', 1), ('--xla_cpu_experimental_ynn_fusion_type=-reduce', 0):
    monkeypatch.setenv('XLA_FLAGS', flags)
    MODES['train'](of_run(run), run)
    said = capsys.readouterr().out
    assert said.count(f'{module.stem}:simulate wrongly: docs/performance.md') == count
    assert said.count('note: XLA:CPU') == count


# Those that read data by a way of their own; a report is in the training.
PAIRS = typed('evaluation.num_pairs=10 evaluation.draws_per_pair=3 evaluation.batch_size=40')
MODES_OF_A_RUN = {
  'train': {'training.num_steps': 5},
  'sample': typed('sampling.context_row=1 sampling.name=row'),
  'evaluate': typed('evaluation.num_generated=8'),
  'evaluate pairs': PAIRS | {'evaluation.metrics': 'sbc'},
  'evaluate densities': PAIRS | {'evaluation.metrics': 'density_coverage'},
}


def test_a_training_simulates_each_pair_once(trained):
  """Previews, metrics and the report of a training simulate no pair again."""
  run, calls, *_ = trained
  assert sorted(calls_of(calls)) == [40, 50, 100, 100]
  assert len([*(run / 'simulations').iterdir()]) == 2


SLOW = [pytest.param(x, marks=pytest.mark.slow) for x in ('train', 'evaluate densities')]


@pytest.mark.parametrize('mode', ['sample', 'evaluate', 'evaluate pairs', *SLOW])
def test_no_mode_simulates_them_again(mode, trained, tmp_path, capsys):
  run, calls, *_ = trained
  if mode == 'train':
    run = shutil.copytree(run, tmp_path / 'run')
  MODES[mode.split()[0]](of_run(run, **MODES_OF_A_RUN[mode]), run)
  assert len(calls_of(calls)) == 4
  assert 'have NaN' not in capsys.readouterr().out


def test_a_training_on_changed_simulations_is_refused(trained, tmp_path):
  """Changed code refuses a training; other modes draw, and measure the new simulator."""
  run, calls, fields, module = trained
  run = shutil.copytree(run, tmp_path / 'run')
  before, code = len(calls_of(calls)), module.read_text()
  module.write_text(code.replace('+ 0.1 * rng', '+ 0.9 * rng'))
  sys.modules.pop(module.stem)
  try:
    config = trial('inference', 'two_moons', **fields | {'training.num_steps': 6})
    message = 'holds a run with other data: facts.c.* is .*, .* now'
    for again in config, of_run(run, **{'training.num_steps': 6}):
      refused(message, MODES['train'], again, run)
    assert sorted(calls_of(calls)[before:]) == [50, 100, 100]
    MODES['sample'](of_run(run, **{'sampling.name': 'again'}), run)
  finally:
    module.write_text(code)
    sys.modules.pop(module.stem)


def test_a_refused_training_leaves_nothing(trained, tmp_path):
  """The error comes after a block of simulations, which is not kept."""
  _, _, fields, _ = trained
  fields = fields | typed(f'data.calls={tmp_path}/calls sampling.bound=clip')
  config = trial('inference', 'two_moons', **fields)
  refused('sampling.bound', MODES['train'], config, tmp_path / 'run')
  assert calls_of(tmp_path / 'calls') == [100]
  assert not (tmp_path / 'run').exists()


def test_another_config_is_refused_before_it_simulates(trained):
  run, calls, fields, _ = trained
  before = len(calls_of(calls))
  config = trial('inference', 'two_moons', **fields | {'data.draws': 1})
  refused('data.draws is 0, 1 now', MODES['train'], config, run)
  assert len(calls_of(calls)) == before
