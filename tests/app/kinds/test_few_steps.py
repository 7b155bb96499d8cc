"""Flow maps by config: gradients and samples, their teachers, and refusals."""

import json
import re
from typing import Any

import jax
import numpy as np
import pytest

from diffusion_jax.app.kinds import diffusion, latent, rules, store
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.runtime.files import write_summed
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training.objectives import Context
from tests.app import toy_parts
from tests.app.conftest import (
  arrays_of,
  lines_of,
  normal_params,
  of_run,
  refused,
  trial,
  untrained,
)
from tests.app.fields import within

MEAN_FLOW = {'objective': 'mean_flow'}
LAGRANGIAN, PROGRESSIVE = {'objective': 'lagrangian'}, {'objective': 'progressive'}
CONTINUOUS = {'objective': 'continuous_consistency', 'sampling.stochastic': True}
DISTILLATION = within('objective', 'consistency_distillation', solver='heun')
DISTILLATION |= within('objective.pairs', 'grid', num_scales=4)
DISTILLATION |= within('sampling', stochastic=True)
TRAINING = within('objective', 'consistency_training', distance='pseudo_huber')
TRAINING |= within('objective.pairs', 'easy', steps_per_stage=2)
TRAINING |= within('sampling', stochastic=True)
IMPROVED = TRAINING | {'objective.pairs': 'improved'}
del IMPROVED['objective.pairs.steps_per_stage']
CASES = {
  'reflow': {},
  'mean_flow': MEAN_FLOW,
  'mean_flow, guided': MEAN_FLOW | within('objective.guidance', 'power_law', high=4.0),
  'lagrangian': LAGRANGIAN,
  'progressive, guided': PROGRESSIVE | within('objective.guidance', 'fixed', omega=1.0, kappa=0.5),
  'shortcut': {'objective': 'shortcut'},
  'distillation': DISTILLATION,
  'consistency': TRAINING,
  'consistency, improved': IMPROVED,
  'continuous': CONTINUOUS,
  'continuous, taught': CONTINUOUS,
  'distilled in stages': within('objective', 'progressive_distillation', num_steps=4),
}
TAUGHT = 'reflow', 'distillation', 'continuous, taught', 'distilled in stages'


def config_of(changes, teacher=''):
  """Returns digits_distilled:smoke with another objective."""
  fields = {'training.teacher': teacher, 'training.start': None}
  return trial('digits_distilled', small=True, **fields | changes)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  """Makes a tiny run of digits_flow:unscaled_smoke."""
  config = trial('digits_flow', 'unscaled', small=True)
  return str(untrained(config, tmp_path_factory.mktemp('runs') / 'teacher'))


@pytest.mark.parametrize('name', CASES)
def test_objectives_of_few_steps_have_gradients_and_samples(name, teacher):
  steps = {'sampling.num_steps': 2 if 'sampling.stochastic' in CASES[name] else 1}
  config = config_of(CASES[name] | steps, teacher if name in TAUGHT else '')
  model: Any = make_model(config, RunFolder.at('nowhere'))
  model.check('train')
  params = model.shapes()
  objective = model.objective()
  batch = {
    'x': jax.ShapeDtypeStruct((2, 8, 8, 1), np.float32),
    'label': jax.ShapeDtypeStruct((2,), np.int32),
  }
  context = Context(ema_params=params, frozen=model.teacher.shapes())
  assert bool(context.frozen) == (name in TAUGHT)
  key = jax.random.key(0)
  gradient = jax.grad(objective.__call__, has_aux=True)
  gradients, _ = jax.eval_shape(gradient, params, context, key, batch)
  assert jax.tree.structure(gradients) == jax.tree.structure(params)
  loss, _ = jax.eval_shape(model.objective(test=True), params, context, key, batch)
  assert loss.shape == ()

  def sample(params, keys, label):
    return model.plan(params).from_noise(keys, {'label': label})

  keys = jax.random.split(key, 2)
  assert jax.eval_shape(sample, params, keys, batch['label']).shape == (2, 8, 8, 1)


def test_a_guided_test_loss_is_the_training_s_where_nothing_is_hidden(key):
  """The dropout of the first is so rare that no condition of this batch is hidden."""
  changes = CASES['mean_flow, guided'] | {'conditioning.dropout': 1e-9}
  model: Any = make_model(config_of(changes), RunFolder.at('nowhere'))
  params = normal_params(model)
  batch = {'x': jax.random.normal(key, (4, 8, 8, 1)), 'label': np.arange(4)}
  losses = [
    jax.jit(model.objective(test))(params, Context(ema_params=params), key, batch)[0]
    for test in (False, True)
  ]
  assert np.isfinite(losses[0]) and losses[0] == losses[1]


@pytest.mark.parametrize(
  'changes, expected',
  [(MEAN_FLOW, 'xla'), (LAGRANGIAN, 'xla'), (PROGRESSIVE, 'auto'), (DISTILLATION, 'auto')],
)
def test_a_loss_with_forward_mode_takes_the_attention_that_has_it(changes, expected):
  model: Any = make_model(config_of(changes | {'network': 'unet'}), RunFolder.at('nowhere'))
  assert model.noisy.network.attention == expected


def test_an_objective_of_a_user_that_declares_a_map_is_a_flow_map():
  """It has the programs of the one of the package: loss, test loss and samples."""
  programs = []
  for name in (f'{toy_parts.__name__}:flow_map', 'mean_flow'):
    config = config_of({'objective': name})
    assert store.kind_of(config).kind == 'a flow map'
    model: Any = make_model(config, RunFolder.at('nowhere'))
    params, keys = model.shapes(), jax.random.split(jax.random.key(0), 2)
    batch = {'x': np.zeros((2, 8, 8, 1), np.float32), 'label': np.zeros(2, np.int32)}

    def numbers(params, model=model, keys=keys, batch=batch):
      of = Context(ema_params=params)
      losses = [model.objective(test)(params, of, keys[0], batch)[0] for test in (False, True)]
      return losses, model.plan(params).from_noise(keys, {'label': batch['label']})

    programs.append(re.sub('0x[0-9a-f]+', '', str(jax.make_jaxpr(numbers)(params))))
  assert programs[0] == programs[1]
  # A module that may not be imported says nothing.
  assert store.kind_of({'objective': 'nowhere:objective'}) is diffusion.SCHEMA
  config = trial('digits_latent', small=True, objective=f'{toy_parts.__name__}:flow_map')
  (line,) = rules.lines(latent.SCHEMA.rules, config, 'train', None)
  assert 'declares map_kind=average_velocity, and flow maps of latents are not drawn' in line


@pytest.mark.slow
def test_an_objective_of_a_user_is_trained_and_drawn(tmp_path):
  """With previews and a test loss, as the one of the package is."""
  lines, drawn = [], []
  for name in (f'{toy_parts.__name__}:flow_map', 'mean_flow'):
    fields = within('training', sample_every=4, held_out__every=4, held_out__batches=1)
    config, run = config_of({'objective': name} | fields), tmp_path / name.partition(':')[0]
    assert store.kind_of(config).kind == 'a flow map'
    MODES['train'](config, run)
    MODES['sample'](of_run(run, **within('sampling', num_steps=2, name='samples')), run)
    lines.append(lines_of(run, 'test_loss'))
    drawn.append(arrays_of(run)['arr_0'])
    assert (run / 'samples' / 'step_00000004.png').exists()
  assert lines[0] and lines[0] == lines[1]
  np.testing.assert_array_equal(*drawn)


@pytest.mark.slow
@pytest.mark.parametrize('changes', [LAGRANGIAN, PROGRESSIVE])
def test_self_distillation_is_trained_and_sampled(changes, tmp_path):
  MODES['train'](config_of(changes), tmp_path)
  MODES['sample'](config_of(changes | within('sampling', num_steps=2, name='samples')), tmp_path)
  assert arrays_of(tmp_path)['arr_0'].shape == (16, 8, 8, 1)


def test_a_consistency_function_is_distilled_and_sampled(teacher, tmp_path, capsys):
  """The modes begin with all weights of the teacher."""
  run = tmp_path / 'run'
  begun = {'training.start': 'weights', 'training.start.run': teacher}
  config = config_of(DISTILLATION | begun, teacher)
  MODES['train'](config, run)
  assert 'leaves\n' in capsys.readouterr().out  # all weights are taken over
  record = json.loads((run / 'teacher.json').read_text())
  assert record['run'] == teacher
  two = within('sampling', num_steps=2, name='samples')
  MODES['sample'](config_of(DISTILLATION | two, teacher), run)
  assert arrays_of(run)['arr_0'].shape == (16, 8, 8, 1)
  edit = config_of(DISTILLATION | {'edit': 'superres'}, teacher)
  refused('it can do inpaint by repaint or repla', MODES['edit'], edit, run)
  # Another teacher would not continue this run.
  write_summed(run / 'teacher.json', record | {'checksum': 'other'})
  more = {'training.num_steps': 5, 'training.resume': 'force'}
  config = config_of(DISTILLATION | more, teacher)
  refused('have changed since this run began', MODES['train'], config, run)
