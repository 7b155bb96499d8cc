"""Law: `training.machine`, `steps_per_call` and `network.remat` change no number but times.

Numbers: those of every line of metrics.jsonl, the FLOP of a step (tflops times its seconds, of all
devices), and the FLOP that `programs.flops` counts in the step of a network. Planted, each caught:
a loop of fixed parts, or the program of one device, counts once; what remat computes again counts;
the loss of an accumulated batch is that of its last part.
"""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from diffusion_jax.app.kinds.model import make_mesh
from diffusion_jax.app.kinds.training import Machine
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.train import floors, hooks, setup
from diffusion_jax.planning import programs
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.sharding import replicate
from diffusion_jax.training.fixed_parts import in_fixed_parts
from diffusion_jax.training.state import TrainState
from diffusion_jax.training.step import accumulated
from tests.app.conftest import lines_of, normal_params, smoke, trial
from tests.app.fields import typed
from tests.fusions import KINDS
from tests.laws.test_any_mesh import objective_of
from tests.rows import slow

# Values of fields, beside the defaults on one device.
WAYS = {
  'accumulate': 'accumulate=4',
  'fixed_parts': 'fixed_parts=4',
  'fixed_parts, mesh': 'fixed_parts=8 mesh=4,1',
  'mesh': 'mesh=4,1',
  'mesh, fsdp': 'mesh=2,2',
  'mesh, accumulate': 'mesh=2,1 accumulate=2',
  'compile, compile_ahead, deterministic, num_threads': (
    'compile=tuned compile_ahead=False deterministic=True num_threads=1'
  ),
}
# Times, and their products with FLOP; processes that are lost; a profile.
OTHERS = 'heartbeat_timeout', 'trace'


def test_every_field_of_a_machine_has_a_row():
  fields = {field.name for field in dataclasses.fields(Machine)}
  assert fields == {*', '.join(WAYS).split(', '), *OTHERS} - {'fsdp'}


def fields_of(way):
  return {f'training.machine.{name}': text for name, text in typed(way).items()}


@pytest.fixture(scope='module')
def numbers(tmp_path_factory):
  """Returns the lines of a training with fields, without times."""

  def lines(name, fields):
    workdir = tmp_path_factory.mktemp(name.replace(', ', '-'))
    every = typed('training.log_every=2 training.held_out.every=2 training.num_steps=4')
    config = smoke(**every | fields)
    with pytest.MonkeyPatch.context() as patch:
      # Losses of exact denoisers are not lines, and come from other programs.
      patch.setattr(floors, 'measure', lambda *_: ('loss', []))
      MODES['train'](config, workdir)
    found = lines_of(workdir)
    for line in found:
      rate = line.pop('images_per_second', 0) / config.training.batch_size
      if 'tflops' in line:
        line['flop'] = line.pop('tflops') / rate * make_mesh(config).size
    return found

  return lines


@pytest.fixture(scope='module')
def expected(numbers):
  return numbers('plain', {})


# test_train_continues.py compares the lines of a training that accumulates on two devices, and
# test_step.py those of several steps in a call.
OFTEN = ('fixed_parts, mesh',)


@pytest.mark.parametrize(
  'name', [*OFTEN, slow('steps_per_call'), *(slow(name) for name in WAYS if name not in OFTEN)]
)
def test_lines_of_a_training_are_the_same(name, numbers, expected):
  fields = fields_of(WAYS[name]) if name in WAYS else {'training.steps_per_call': 2}
  found = numbers(name, fields)
  assert {number for line in found for number in line} >= {'loss', 'test_loss', 'flop'}
  for line, other in zip(found, expected, strict=True):
    # The first call, which may be of several steps, has no speed.
    other = {name: x for name, x in other.items() if name != 'flop' or name in line}
    assert line == pytest.approx(other, rel=1e-4)


def test_a_held_out_loss_of_few_examples_is_the_same(tmp_path, monkeypatch):
  """There are fewer than a batch, which no number of devices divides."""
  monkeypatch.setattr(floors, 'beside', lambda *_: dict)
  few = typed('data=synthetic data.num_images=5 conditioning.labels=False conditioning.dropout=0.0')
  few |= typed('data.image_shape=4,4,1 network=mlp network.channels=8 network.num_blocks=1')
  few |= {'training.held_out.every': 2}

  def loss(way):
    config = smoke(**few | fields_of(way))
    model, mesh = make_model(config, RunFolder.at(tmp_path / way)), make_mesh(config)
    state = TrainState(**dict.fromkeys(TrainState._fields, ()))
    params = replicate(mesh, normal_params(model))
    state = state._replace(step=replicate(mesh, np.int32(2)), ema_params=params)
    log = SimpleNamespace(results={}, notes={})
    hooks.evaluating(model, mesh, (2,)).act(2, state, {}, log)
    return log.results['test_loss']

  one = loss('mesh=1,1')
  assert one > 0.0
  assert one == pytest.approx(loss('mesh=4,1'), rel=1e-4)


REMAT = 'network.remat=True'
STEPS = [
  slow('digits', ''),
  slow('digits', REMAT),
  slow('digits_dit', REMAT),
  ('digits_dit', f'{REMAT} network.remat_policy=products'),
]


@pytest.mark.parametrize('name, remat', STEPS)
def test_the_products_of_a_step_are_the_same(name, remat):
  """Whether or not blocks are computed again in the backward pass."""

  def flop(fields):
    config = trial(name, **{'network.num_blocks': 2} | fields)
    step, shapes = setup.abstract_step(config, make_mesh(config), RunFolder.at('none'))
    return flop_of(step, *shapes)

  plain = flop({})
  for way in 'accumulate', 'fixed_parts, mesh':
    assert flop(typed(remat) | fields_of(WAYS[way])) == pytest.approx(plain, rel=1e-6)


def flop_of(step, *arguments):
  return sum(programs.flops(step.trace(*arguments).jaxpr).values())


@pytest.mark.parametrize('name', [name if name == 'bridge' else slow(name) for name in KINDS])
def test_every_objective_has_the_same_products(name, tmp_path):
  """The gradient by parts, and in fixed parts, where the loss is a mean over the batch."""
  objective, params, context, batch = objective_of(name, tmp_path)
  ways = [accumulated(objective, 1)]
  if objective.separable:
    ways += [accumulated(objective, 4), in_fixed_parts(objective, 4)]
  plain, *others = (flop_of(jax.jit(f), params, context, jax.random.key(3), batch) for f in ways)
  assert plain > 0
  assert others == pytest.approx([plain] * len(others), rel=1e-6)
