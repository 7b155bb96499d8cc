"""Flow maps by config: gradients and samples, their teachers, and refusals."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.app import devices, models
from diffusion_jax.app.config import folder
from diffusion_jax.app.models import teachers
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.network import ConfiguredNetwork
from diffusion_jax.app.train_loop.setup import prepare, state_maker
from diffusion_jax.training import first_weights
from diffusion_jax.training.objectives import Context
from tests.app.conftest import arrays_of, assert_same, params_of, refused, trial, untrained
from tests.app.fields import within

MEAN_FLOW = {'objective': 'mean_flow'}
GUIDED = MEAN_FLOW | within('objective.guidance', 'power_law', high=4.0)
SHORTCUT = {'objective': 'shortcut'}
CONTINUOUS = {'objective': 'continuous_consistency', 'sampling.stochastic': True}
DISTILLATION = within('objective', 'consistency_distillation', solver='heun')
DISTILLATION |= within('objective.pairs', 'grid', num_scales=4)
DISTILLATION |= within('sampling', stochastic=True)
TRAINING = within('objective', 'consistency_training', distance='pseudo_huber')
TRAINING |= within('objective.pairs', 'easy', steps_per_stage=2)
TRAINING |= within('sampling', stochastic=True)
IMPROVED = TRAINING | {'objective.pairs': 'improved'}
del IMPROVED['objective.pairs.steps_per_stage']
PROGRESSIVE = {'objective': 'progressive_distillation', 'objective.num_steps': 4}
CASES = {
  'reflow': {},
  'mean_flow': MEAN_FLOW,
  'mean_flow, guided': GUIDED,
  'shortcut': SHORTCUT,
  'distillation': DISTILLATION,
  'consistency': TRAINING,
  'consistency, improved': IMPROVED,
  'continuous': CONTINUOUS,
  'continuous, taught': CONTINUOUS,
  'progressive': PROGRESSIVE,
}
TAUGHT = 'reflow', 'distillation', 'continuous, taught', 'progressive'


def config_of(changes, teacher=''):
  """Returns digits_distilled:smoke with another objective."""
  fields = {'training.teacher': teacher, 'training.init_from': ''}
  return trial('digits_distilled', small=True, **fields | changes)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  """Makes a tiny run of digits_flow:unscaled_smoke."""
  config = trial('digits_flow', 'unscaled', small=True)
  return str(untrained(config, tmp_path_factory.mktemp('runs') / 'teacher'))


@pytest.mark.parametrize('name', CASES)
def test_objectives_of_few_steps_have_gradients_and_samples(name, teacher):
  changes = CASES[name] | {'sampling.num_steps': 2}
  steps = {'sampling.num_steps': 2 if 'stochastic' in str(changes) else 1}
  config = config_of(changes | steps, teacher if name in TAUGHT else '')
  model: Any = models.make(config, 'nowhere')
  model.check('train')
  params = models.shapes(model)
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

  def sample(params, keys, label):
    return model.plan(params).from_noise(keys, {'label': label})

  keys = jax.eval_shape(lambda key: jax.random.split(key, 2), key)
  label = batch['label']
  assert jax.eval_shape(sample, params, keys, label).shape == (2, 8, 8, 1)


@pytest.mark.parametrize('changes, expected', [(MEAN_FLOW, 'xla'), (DISTILLATION, 'auto')])
def test_a_loss_with_forward_mode_takes_the_attention_that_has_it(changes, expected):
  changes = changes | {'network': 'unet'}
  model: Any = models.make(config_of(changes), 'nowhere')
  assert model.noisy.network.attention == expected


def test_a_consistency_function_is_distilled_and_sampled(teacher, tmp_path, capsys):
  """The modes begin with all weights of the teacher."""
  run = tmp_path / 'run'
  config = config_of(DISTILLATION | {'training.init_from': teacher}, teacher)
  MODES['train'](config, run)
  assert 'leaves\n' in capsys.readouterr().out  # all weights are taken over
  record = json.loads((run / 'teacher.json').read_text())
  assert record['run'] == teacher
  two = {'sampling.num_steps': 2, 'sampling.name': 'samples'}
  MODES['sample'](config_of(DISTILLATION | two, teacher), run)
  assert arrays_of(run)['arr_0'].shape == (16, 8, 8, 1)
  edit = config_of(DISTILLATION | {'edit': 'superres'}, teacher)
  refused('it can do inpaint by repaint or repla', MODES['edit'], edit, run)
  # Another teacher would not continue this run.
  other = json.dumps(record | {'checksum': 'other'})
  (run / 'teacher.json').write_text(other)
  more = {'training.num_steps': 5, 'training.resume': 'force'}
  config = config_of(DISTILLATION | more, teacher)
  refused('have changed since this run began', MODES['train'], config, run)


def test_new_inputs_begin_afresh_and_say_so(teacher, capsys):
  """A run of flow matching becomes MeanFlow: elapsed time is added."""
  config = config_of(MEAN_FLOW)
  parts = prepare(config, 'nowhere')
  make_state, _ = state_maker(
    parts.model, parts.objective, parts.optimizer, devices.make_mesh(config)
  )
  first = make_state()
  state = first_weights.read(first.params, teacher)(first)
  printed = capsys.readouterr().out
  layers = [f'elapsed_dense_{i}' for i in (1, 2)]
  for layer in layers:
    for leaf in ('kernel', 'bias'):
      assert f'network/{layer}/{leaf}' in printed
  assert printed.count(' [') == 4 and printed.count('weights of') == 1
  ours, before = state.params['network'], first.params['network']
  for layer in layers:
    assert_same(ours[layer], before[layer])
  rest = {name: x for name, x in ours.items() if name not in layers}
  assert_same(rest, params_of(teacher)['network'])


# -- teachers -----------------------------------------------------------------


def write(workdir, name='digits_flow', **changes):
  config = trial(name, 'unscaled' * (name == 'digits_flow'), **changes)
  facts = models.make(config, workdir).facts
  folder.write_config(workdir, config, facts)


def student(teacher) -> Any:
  return models.make(config_of({}, teacher), 'nowhere')


NO_LABELS = {'conditioning.labels': False, 'conditioning.dropout': 0.0}


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'name': 'digits_meanflow'}, 'is a flow map, and a diffusion model is'),
    ({'name': 'digits_classifier'}, 'is a classifier, and a diffusion model'),
    ({'conditioning.self_conditioning': True}, 'has self-conditioning'),
    (NO_LABELS, 'conditioning.labels is False in .*, and True in this run'),
    ({'conditioning.dropout': 0.0}, 'trained without dropout; set it to 0'),
    ({'data': 'synthetic', 'data.num_classes': 3}, r'the data of .* have (the shape|num_classes)'),
  ],
)
def test_a_run_that_cannot_teach_is_refused(changes, message, tmp_path):
  write(tmp_path, **changes)
  refused(message, lambda: student(tmp_path).objective())


def test_a_teacher_of_another_schedule_sees_its_own_levels(tmp_path, monkeypatch):
  """The levels have the same SNR, and x_t is scaled; the output is 0."""
  write(
    tmp_path,
    **{
      'schedule': 'continuous_cosine',
      'parametrization': 'eps',  # x0 = x_t / alpha for eps = 0
      'objective.weight': 'snr',
    },
  )
  seen = []

  def denoiser(self, params, cond):
    def denoise(xt, level):
      seen.append(level)
      return dj.Prediction(xt / level.expand_to(xt).alpha)

    return denoise

  monkeypatch.setattr(ConfiguredNetwork, 'denoiser', denoiser)
  model = student(tmp_path)
  teacher = teachers.of_student(model.noisy, model.workdir)[0]()

  @jax.jit
  def run(t):
    x, level = jnp.ones((2, 8, 8, 1)), dj.RectifiedFlowSchedule()(t)
    x0 = teacher({'teacher': {}}, {})(x, level).x0
    expected = x / level.expand_to(x).alpha
    return x0, expected, level.logsnr, seen[0], seen[0].logsnr

  found = jax.device_get(run(np.array([0.25, 0.5])))
  x0, expected, logsnr, there, logsnr_there = found
  np.testing.assert_allclose(logsnr_there, logsnr, rtol=1e-5)
  power = there.alpha**2 + there.sigma**2
  np.testing.assert_allclose(power, 1, rtol=1e-5)
  np.testing.assert_allclose(x0, expected, rtol=1e-5)
