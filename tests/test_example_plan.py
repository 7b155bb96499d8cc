"""The figures of examples/plan.py, against a training and its program."""

import subprocess
import sys
from typing import Any

import jax
import pytest

import diffusion_jax as dj
from diffusion_jax.app.config import folder
from diffusion_jax.app.kinds import store
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.train import setup
from diffusion_jax.runtime import compiling, sharding
from diffusion_jax.runtime.run_folder import RunFolder
from examples import plan
from tests import hlo
from tests.app.conftest import CONFIGS, smoke, trial

SMALL = {'network.channels': 8, 'network.num_heads': 2, 'network.num_blocks': 1}
SMALL |= {'training.batch_size': 8}


def size(text):
  """Returns the bytes of a cell."""
  return float(text.removesuffix(' GiB')) * 2**30


@pytest.mark.docs
def test_the_figures_of_a_row_are_those_of_the_compiled_step():
  row = plan.row_of(CONFIGS / 'digits_dit.py', SMALL, jax.devices(), {}, 8, 1)
  mesh = sharding.make_mesh(8, 1)
  step, shapes = dj.training_step(CONFIGS / 'digits_dit.py', SMALL, mesh)
  compiled = step.lower(*shapes).compile()
  memory: Any = compiled.memory_analysis()
  parameters = sum(x.size for x in jax.tree.leaves(shapes[0].params))
  assert row[:2] == ('8x1', f'{parameters:,}')
  assert size(row[2]) == pytest.approx(memory.argument_size_in_bytes, rel=1e-3)
  assert size(row[3]) >= size(row[2]) + memory.temp_size_in_bytes * 0.999
  sent = sum(one.sent for one in hlo.collectives(compiled.as_text()))
  metrics = 2 * 7 / 8 * 100  # bytes, at most
  assert sent - metrics < 1.001 * size(row[4]) and 0.999 * size(row[4]) <= sent
  assert float(row[5]) > 0


def test_the_abstract_step_is_the_step_of_a_training(tmp_path, monkeypatch):
  """The abstract step and the training's step take and need as many bytes."""
  seen = []
  in_place = compiling.in_place

  def spied(step, shapes, *more):
    run = in_place(step, shapes, *more)

    def compute(*arrays):
      seen.append(step.lower(*arrays).compile().memory_analysis())
      return run.start(*arrays)

    return run._replace(start=compute)

  config = smoke(**{'training.machine.mesh': (1, 1)})
  with monkeypatch.context() as patch:
    patch.setattr(compiling, 'in_place', spied)
    MODES['train'](config, tmp_path)
  step, shapes = setup.abstract_step(config, sharding.make_mesh(1, 1), RunFolder.at(tmp_path))
  memory = step.lower(*shapes).compile().memory_analysis()
  for name in ('argument', 'output', 'temp', 'alias'):
    assert getattr(memory, f'{name}_size_in_bytes') == getattr(seen[0], f'{name}_size_in_bytes')


@pytest.mark.parametrize(
  'argv, message',
  [
    ('configs/none.py cpu:8 8x1', 'the config file configs/none.py does not exist'),
    ('configs/digits.py cpu:8 8', '8 is not a mesh: give data x fsdp, such as 8x1'),
    ('configs/digits.py:smok cpu:8 8x1', "did you mean 'smoke'"),
    ('configs/digits.py cpu:8 16x1', 'a mesh of 16x1 needs 16 devices, there are 8'),
    ('configs/digits.py cpu:8 1x1 --field=netwrk=x', 'there is no field config.netwrk'),
    ('configs/digits.py h100x9 8x1', 'h100x9 is not the name of devices: give'),
    ('configs/digits.py v5e:2x4 8x1', 'no compiler for v5e:2x4'),
  ],
)
def test_mistakes_are_one_line(argv, message, capsys, monkeypatch):
  monkeypatch.setattr(plan, 'devices_of', lambda name: (jax.devices(), {}))
  if 'h100x9' in argv or 'v5e' in argv:
    monkeypatch.undo()
    monkeypatch.setattr(plan.topologies, 'get_topology_desc', _no_compiler)
    monkeypatch.setattr(plan.jax.config, 'update', lambda *args: None)
  with pytest.raises(SystemExit) as end:
    plan.main(argv.split())
  assert end.value.code == 2
  assert message in capsys.readouterr().err


def _no_compiler(name, platform):
  raise RuntimeError(f'no compiler for {name}\nmore')


# A config of each kind of model, with fields that make it compile sooner. The
# U-Net of latents stands for all U-Nets.
ONE = {'network.multipliers': (1,)}
DIT = {'network': 'dit', 'network.channels': 8, 'network.num_blocks': 1}
STEPS = {
  'digits_dit': {},
  'digits_edm2': ONE | {'network.attention_resolutions': ()},
  'digits_latent': {},
  'digits_meanflow': DIT | {'network.num_heads': 2},
  'digits_vae': ONE,
  'shapes_text_dit': {},
}


@pytest.fixture(scope='module')
def devices():
  """Returns (name, eight devices, options) of the compiler that is installed."""
  for name in ('v5e:2x4', 'h100x8'):
    try:
      return name, *plan.devices_of(name)
    except (RuntimeError, NotImplementedError):
      continue
  raise AssertionError('no compiler is installed: run .ci/compilers')


@pytest.mark.compilers
def test_a_compiler_without_its_device_prints_no_warnings(devices):
  """libtpu once missed a host, and CUDA's packages missed the driver."""
  make = f'from examples import plan; plan.devices_of("{devices[0]}")'
  done = subprocess.run([sys.executable, '-c', make], capture_output=True)
  assert (done.returncode, done.stderr) == (0, b'')


@pytest.mark.compilers
@pytest.mark.parametrize('name', STEPS)
def test_steps_compile_for_machines_that_are_not_here(name, devices, tmp_path, monkeypatch):
  config = trial(name, **{'training.machine.mesh': (2, 4), **STEPS[name]})
  if config.get('latent'):
    other, run = trial('digits_autoencoder'), tmp_path / 'autoencoder'
    run.mkdir()
    folder.write_config(RunFolder.at(run), other, make_model(other, RunFolder.at('none')).facts)
    config = store.with_fields(config, {'latent.run': str(run)})
  step = lambda config, fields, mesh: setup.abstract_step(config, mesh, RunFolder.at(tmp_path))
  monkeypatch.setattr(dj, 'training_step', step)
  _, chips, options = devices
  row = plan.row_of(config, {}, chips, options, 2, 4)
  assert len(row) == 6 and size(row[3]) > size(row[2]) > 0 and float(row[5])
