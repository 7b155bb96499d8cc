"""Objectives of few steps by config: what is built, refused, trained."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits_distilled, digits_flow
from diffusion_jax import build, families
from diffusion_jax.build import audit
from diffusion_jax.errors import UserError
from diffusion_jax.families.diffusion import from_noise
from diffusion_jax.programs import PROGRAMS, train
from diffusion_jax.runs import first_weights
from diffusion_jax.training import checkpoints
from diffusion_jax.training.objectives import Context
from tests.programs.conftest import take_small_network, untrained

TINY = {
  'training.mesh': (1, 1),
  'training.sample_every': 0,
  'training.evaluate_every': 0,
}
MEAN_FLOW = {
  'objective.name': 'mean_flow',
  'objective.weight': 'snr',
  'objective.times': 'uniform',
  'objective.teacher': None,
  'objective.teacher_steps': None,
  'sampling.sampler': 'flow_map',
}
SHORTCUT = MEAN_FLOW | {
  'objective.name': 'shortcut',
  'objective.times': 'steps',
  'objective.start': None,
}
CONTINUOUS = MEAN_FLOW | {
  'objective.name': 'continuous_consistency',
  'objective.start': None,
  'sampling.stochastic': True,
}
DISTILLATION = {
  'objective.name': 'consistency_distillation',
  'objective.teacher_steps': None,
  'objective.start': None,
  'objective.times': 'steps',
  'objective.weight': 'snr',
  'objective.pairs': 'grid',
  'objective.solver': 'heun',
  'objective.pair_levels': 4,
  'sampling.sampler': 'flow_map',
  'sampling.stochastic': True,
}
TRAINING = DISTILLATION | {
  'objective.name': 'consistency_training',
  'objective.solver': None,
  'objective.teacher': None,
  'objective.pairs': 'easy',
  'objective.pair_levels': None,
  'objective.steps_per_stage': 2,
  'objective.distance': 'pseudo_huber',
}
PROGRESSIVE = {
  'objective.name': 'progressive_distillation',
  'objective.times': 'steps',
  'objective.teacher_steps': None,
  'objective.start': None,
  'objective.solver': 'ddim',
  'objective.map_steps': 4,
}


def configured(changes, teacher):
  config = digits_distilled.get_config('smoke')
  config.objective.teacher = teacher
  config.training.init_from = teacher
  config.update_from_flattened_dict(TINY | changes)
  take_small_network(config)
  return config


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  """A run of digits_flow:unscaled_smoke, tiny."""
  config = digits_flow.get_config('unscaled_smoke')
  config.update_from_flattened_dict(TINY)
  take_small_network(config)
  workdir = tmp_path_factory.mktemp('runs') / 'teacher'
  return str(untrained(config, workdir))


@pytest.mark.parametrize(
  'changes',
  [
    {},
    MEAN_FLOW,
    MEAN_FLOW | {'objective.max_guidance': 4.0, 'objective.improved': False},
    SHORTCUT,
    DISTILLATION,
    TRAINING,
    TRAINING | {'objective.pairs': 'improved', 'objective.times': 'steps',
                'objective.steps_per_stage': None},
    CONTINUOUS,
    PROGRESSIVE,
  ],
  ids=lambda changes: changes.get('objective.name', 'reflow'),
)  # fmt: skip
def test_objectives_of_few_steps_have_gradients_and_samples(changes, teacher):
  config = configured(changes, teacher)
  audit.audit(config)
  family = families.of(config)
  family.check(config)
  params = families.abstract_params(config)
  objective = family.objective(config)
  batch = {
    'image': jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32),
    'label': jax.ShapeDtypeStruct((2,), jnp.int32),
  }
  teachers = configured({}, teacher)  # as large as the tiny run is
  frozen = {'teacher': families.abstract_params(teachers)}
  context = Context(ema_params=params, frozen=frozen)
  key = jax.random.key(0)
  gradient = jax.grad(objective.__call__, has_aux=True)
  found, _ = jax.eval_shape(gradient, params, context, key, batch)
  assert jax.tree.structure(found) == jax.tree.structure(params)
  config.sampling.num_steps = 2

  def sample(params, keys, label):
    return from_noise(config, params, {}, keys, {'label': label})

  keys = jax.eval_shape(lambda key: jax.random.split(key, 2), key)
  label = batch['label']
  assert jax.eval_shape(sample, params, keys, label).shape == (2, 8, 8, 1)


REFUSED = [
  (
    {'conditioning.time_scale': 1000.0},
    'set noise_input=time and time_scale=1',
  ),
  ({'conditioning.noise_input': 'logsnr'}, "gets t and t - s: take 'time'"),
  ({'sampling.sampler': 'ddim'}, "is no denoiser. Set it to 'flow_map'"),
  ({'sampling.clip': True}, 'config.sampling.clip=True with objective.name='),
  ({'sampling.guidance_scale': 2.0}, 'is trained in .* and 1 here'),
  (
    {'sampling.guidance_scale': 5.0, 'objective.max_guidance': 4.0},
    'outside of the scales of the training, 1 to objective.max_guidance=4.0',
  ),
  (
    {'objective.omega': 2.0, 'conditioning.dropout': 0.0},
    'without a condition as well: set conditioning.dropout',
  ),
  ({'latent.run': 'x'}, 'flow maps are of pixels here'),
  ({'sampling.churn': 1.0}, 'sampling.stochastic=True adds noise'),
]


@pytest.mark.parametrize('changes, message', REFUSED)
def test_what_a_flow_map_cannot_have_is_refused(changes, message):
  config = configured(MEAN_FLOW, None)
  config.conditioning.time_scale = 1.0
  config.update_from_flattened_dict(changes)
  if config.conditioning.noise_input != 'time':
    config.conditioning.time_scale = None
  with pytest.raises(UserError, match=message) as found:
    families.flow_map.check(config)
  assert '\n' not in str(found.value)


def test_cudnn_attention_and_other_networks_are_refused():
  config = configured(MEAN_FLOW, None)
  config.network.name, config.network.attention = 'unet', 'cudnn'
  with pytest.raises(UserError, match='no forward-mode derivative'):
    families.of(config).check(config)
  config.network.attention = None
  config.network.name = 'edm2'
  with pytest.raises(UserError, match='needs network.name=unet or dit or ddpm'):
    families.of(config).objective(config)
  config = configured({'sampling.sampler': 'flow_map'}, None)
  with pytest.raises(UserError, match='needs a run of mean_flow, shortcut'):
    build.build_sampler(config, build.build_schedule(config))
  config = configured(DISTILLATION, None)
  config.sampling.stochastic, config.sampling.num_steps = None, 2
  with pytest.raises(UserError, match='take 1, or sampling.stochastic=True'):
    families.of(config).check(config)


def test_a_consistency_function_is_distilled_and_sampled(
  teacher, tmp_path, capsys
):
  """Through the programs, from the teacher's weights; elapsed is not there."""
  run = str(tmp_path / 'run')
  config = configured(DISTILLATION, teacher)
  PROGRAMS['train'](config, run)
  assert 'leaves\n' in capsys.readouterr().out  # none begins afresh
  known = json.loads((tmp_path / 'run' / 'teacher.json').read_text())
  assert known['run'] == teacher
  config.sampling.num_steps = 2
  PROGRAMS['sample'](config, run)
  with np.load(tmp_path / 'run' / 'samples' / 'samples.npz') as file:
    assert file['arr_0'].shape == (16, 8, 8, 1)
  config.evaluation.metrics = ('elbo',)
  with pytest.raises(UserError, match='is no denoiser and has no bound'):
    PROGRAMS['evaluate'](config, run)
  config.edit.task = 'superres'
  with pytest.raises(UserError, match='take inpaint by repaint or replace'):
    PROGRAMS['edit'](config, run)
  # Another teacher would not continue this run.
  known['checksum'] = 'other'
  (tmp_path / 'run' / 'teacher.json').write_text(json.dumps(known))
  with pytest.raises(UserError, match='are not those that this run began with'):
    PROGRAMS['train'](config, run)


def test_new_inputs_begin_afresh_and_say_so(teacher, capsys):
  """A run of flow matching becomes MeanFlow: elapsed time is added."""
  config = configured(MEAN_FLOW | {'training.init_from': teacher}, None)
  make_state, _ = train.state_maker(
    config,
    families.of(config).objective(config),
    build.build_optimizer(config),
    build.build_ema_decays(config),
    build.build_mesh(config),
  )
  first = make_state()
  state = first_weights.begin(first, teacher)
  printed = capsys.readouterr().out
  layers = [f'elapsed_dense_{i}' for i in (1, 2)]
  for layer in layers:
    for leaf in ('kernel', 'bias'):
      assert f'network/{layer}/{leaf}' in printed
  assert printed.count(' [') == 4 and printed.count('\n') == 1
  of_teacher, _ = checkpoints.restore_params(teacher)
  ours, before = state.params['network'], first.params['network']
  for layer in layers:
    jax.tree.map(np.testing.assert_array_equal, ours[layer], before[layer])
  rest = {name: x for name, x in ours.items() if name not in layers}
  jax.tree.map(np.testing.assert_array_equal, rest, of_teacher['network'])
