import json
import subprocess
import sys
import time
from typing import Any

import jax
import pytest

from diffusion_jax.app import models
from diffusion_jax.app.config import folder, store
from diffusion_jax.app.modes import MODES, plan
from diffusion_jax.planning import programs, topologies
from diffusion_jax.runtime import compiling
from tests import hlo
from tests.app.conftest import smoke, trial


def planned(workdir, of='train', devices='cpu_8'):
  path = workdir / 'plans' / f'{of}-{devices}.json'
  return json.loads(path.read_text())['plans']


def test_a_plan_is_what_a_training_compiles_and_holds(tmp_path, monkeypatch, capsys):
  """Peak, collectives and state of the step of a real run on eight devices.

  The second plan compiles nothing.
  """
  seen = []
  in_place = compiling.in_place

  def spied(step, shapes, what):
    run = in_place(step, shapes, what)

    def compute(*arrays):
      if not seen:
        state = sum(
          shard.data.nbytes
          for leaf in jax.tree.leaves(arrays[0])
          for shard in leaf.addressable_shards
          if shard.device == jax.devices()[0]
        )
        compiled = step.lower(*arrays).compile()
        found = hlo.collectives(compiled.as_text())
        seen.append((programs.memory(compiled), found, state))
      return run(*arrays)

    return compute

  config = smoke(**{'training.mesh': (8, 1)})
  with monkeypatch.context() as patch:
    patch.setattr(compiling, 'in_place', spied)
    MODES['train'](config, tmp_path / 'run')
  ((memory, collectives, state),) = seen
  config = smoke(**{'plan.devices': 'cpu:8', 'plan.meshes': '8x1'})
  capsys.readouterr()
  MODES['plan'](config, tmp_path)
  (row,) = planned(tmp_path)
  assert row['peak'] == memory.peak and row['arguments'] == memory.arguments
  assert row['state']['bytes'] == state
  sent = sum(one.sent for one in collectives)
  metrics = 2 * 7 / 8 * 100  # bytes, at most
  assert sent - metrics < row['sent'] <= sent
  assert 'compiling: mesh 8x1, batch 8' in capsys.readouterr().out
  MODES['plan'](config, tmp_path)
  again = capsys.readouterr().out
  assert 'compiling' not in again and 'MiB at the peak' in again
  assert planned(tmp_path) == [row]


def test_sampling_is_planned_with_every_call_of_the_network(tmp_path):
  """Four steps of DDIM have four times the products of one."""
  of = {'plan.devices': 'cpu:2', 'plan.of': 'sample', 'plan.meshes': '2x1'}
  found = []
  for steps in (1, 4):
    config = smoke(**of | {'sampling.num_steps': steps})
    MODES['plan'](config, tmp_path / str(steps))
    (row,) = planned(tmp_path / str(steps), 'sample', 'cpu_2')
    assert row['batch'] == config.sampling.batch_size
    found.append(row['flops']['float32'])
  assert found[1] == 4 * found[0] > 0


def test_a_compiler_that_runs_out_of_memory_says_how_much_is_needed():
  error = jax.errors.JaxRuntimeError(
    'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.'
  )
  assert plan.out_of_memory(error) == int(20.5 * 2**30)
  with pytest.raises(jax.errors.JaxRuntimeError):
    plan.out_of_memory(jax.errors.JaxRuntimeError('INTERNAL: a bug'))


def test_a_long_compilation_is_not_silent(capsys):
  class Lowered:
    def compile(self, options):
      time.sleep(0.1)
      return options

  lowered: Any = Lowered()
  assert plan.compile_aloud(lowered, {'a': True}, every=0.01) == {'a': True}
  assert capsys.readouterr().out.startswith('  0 s ...\n')


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
  """Returns eight devices whose compiler is installed."""
  for name in ('v5e:2x4', 'h100x8'):
    try:
      topologies.make(name)
      return name
    except ValueError as error:
      assert 'is missing: pip install' in str(error)
  raise AssertionError('no compiler is installed: run .ci/compilers')


@pytest.mark.compilers
def test_a_compiler_without_its_device_prints_no_warnings(devices):
  """libtpu once missed a host, and CUDA's packages missed the driver."""
  module = 'diffusion_jax.planning.topologies'
  make = f'import {module}; {module}.make("{devices}")'
  done = subprocess.run([sys.executable, '-c', make], capture_output=True)
  assert (done.returncode, done.stderr) == (0, b'')


@pytest.mark.compilers
@pytest.mark.parametrize(
  'name, of', [*((name, 'train') for name in STEPS), ('digits_dit', 'sample')]
)
def test_programs_compile_for_machines_that_are_not_here(name, of, devices, tmp_path):
  config = trial(name, **{'training.mesh': (2, 4), **STEPS[name]})
  if config.get('latent'):
    other, run = trial('digits_autoencoder'), tmp_path / 'autoencoder'
    run.mkdir()
    folder.write_config(run, other, models.make(other, 'none').facts)
    config = store.with_fields(config, {'latent.run': str(run)})
  row = plan.compile_one(config, of, topologies.make(devices), tmp_path, {})
  assert row['fits'] and row['bounds']['memory'] and sum(row['flops'].values())
