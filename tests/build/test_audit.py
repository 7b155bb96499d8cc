"""A field that is set is taken by a constructor, or refused in one line."""

import importlib
import inspect
import json
import pathlib
from typing import Any

import pytest

import diffusion_jax as dj
from configs import base, cifar10, digits
from diffusion_jax import build
from diffusion_jax.build import (
  audit,
  data,
  make,
  network,
  objective,
  own_parts,
  sampling,
  schedule,
)
from diffusion_jax.errors import UserError
from diffusion_jax.families import vae_models
from diffusion_jax.runs import run_folder
from tests.programs.conftest import unet_smoke as smoke

FOLDER = pathlib.Path(__file__).parent
EXPERIMENTS = sorted(
  path.stem
  for path in (FOLDER.parents[1] / 'configs').glob('*.py')
  if path.stem not in ('__init__', 'base')
)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('schedule.rho', 5.0, 'schedule: linear takes no rho; it takes .*start'),
    ('schedule.beta_max', 9.0, 'schedule: linear takes no beta_max'),
    ('sampling.order', 3, 'sampling: ancestral takes no order'),
    ('sampling.langevin_steps', 7, 'ancestral takes no langevin_steps'),
    ('sampling.churn_min', 1.0, 'ancestral takes no churn_min'),
    ('sampling.corrector_snr', 0.1, 'ancestral takes no corrector_snr'),
    ('network.fourier', (1, 2), 'network: unet takes no fourier'),
    ('network.text_width', 8, 'network: unet takes no text_width'),
    ('network.num_latents', 2, 'network: unet takes no num_latents'),
    ('objective.beta', 0.5, 'objective: denoising takes no beta'),
    ('objective.num_steps', 5, 'objective: denoising takes no num_steps'),
    ('objective.t_min', 0.1, 'objective: denoising takes no t_min'),
    ('objective.decoder', 'gaussian', 'objective: denoising takes no decoder'),
    (
      'objective.min_snr_gamma',
      4.0,
      'objective: denoising takes no min_snr_gamma',
    ),
    ('conditioning.time_scale', 9.0, 'conditioning: step takes no time_scale'),
    ('conditioning.dropout', 0.1, 'no effect without labels, text, im'),
    ('conditioning.text_length', 9, 'text_length has no effect without text'),
    ('conditioning.image_factor', 4, 'no effect without superres'),
    ('data.photo_shrink', 2, 'data: cifar10 takes no photo_shrink'),
  ],
)
def test_a_field_that_nothing_takes_is_refused(field, value, message):
  config = cifar10.get_config()
  config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=message) as error:
    audit.audit(config)
  assert '\n' not in str(error.value)


def test_a_variance_needs_a_sampler_that_draws_with_one():
  config = smoke(**{'sampling.variance': 'fixed_large'})  # of DDIM
  with pytest.raises(UserError, match='sampling: ddim takes no variance'):
    audit.audit(config)
  config.sampling.update(sampler='ancestral', eta=None)
  audit.audit(config)


@pytest.mark.parametrize(
  'fields',
  [
    {'labels': True, 'dropout': 0.1},
    {'text': True, 'text_length': 9, 'dropout': 0.1},
    {'image': 'superres', 'image_factor': 4, 'dropout': 0.1},
  ],
)
def test_fields_of_a_condition_are_taken_where_there_is_one(fields):
  config = cifar10.get_config()
  config.conditioning.update(fields)
  audit.audit(config)
  [condition, *_] = fields
  config.conditioning[condition] = '' if condition == 'image' else False
  audit.reset_unused(config, {f'conditioning.{condition}': 0})
  audit.audit(config)
  assert config.conditioning == cifar10.get_config().conditioning


def test_parts_allow_their_own_fields():
  config = smoke(
    **{
      'schedule.name': 'karras',
      'schedule.rho': 5.0,
      'sampling.sampler': 'heun',
      'sampling.eta': None,
      'sampling.churn': 1.0,
      'sampling.churn_min': 0.1,
      'objective.times': 'log_normal',
      'objective.log_normal_std': 2.0,
      'objective.weight': 'min_snr',
      'objective.min_snr_gamma': 4.0,
    }
  )
  audit.audit(config)
  config.objective.name = 'vdm'  # draws its own times, has its own weight
  with pytest.raises(UserError, match='vdm takes no .*times, weight'):
    audit.audit(config)


@pytest.mark.parametrize('name', EXPERIMENTS)
@pytest.mark.parametrize('argument', ['', 'smoke'])
def test_no_config_sets_what_nothing_takes(name, argument):
  audit.audit(importlib.import_module(f'configs.{name}').get_config(argument))


def test_a_choice_on_the_command_line_resets_what_the_file_set_for_another():
  config = digits.get_config()
  assert config.sampling.eta == 1.0
  config.sampling.sampler = 'heun'
  with pytest.raises(UserError, match='heun takes no eta'):
    audit.audit(config)
  audit.reset_unused(config, {'sampling.sampler': 'heun'})
  audit.audit(config)
  config.sampling.eta = 0.5  # now it was given, and is not reset
  audit.reset_unused(config, {'sampling.sampler': 0, 'sampling.eta': 0})
  with pytest.raises(UserError, match='heun takes no eta'):
    audit.audit(config)
  config = digits.get_config()
  config.schedule.rho = 5.0  # a mistake of the file: no choice has changed
  audit.reset_unused(config, {'training.num_steps': 1})
  with pytest.raises(UserError, match='takes no rho'):
    audit.audit(config)


def test_a_config_json_with_the_names_of_before_is_read(tmp_path):
  stored = run_folder.plain(cifar10.get_config())
  stored['conditioning']['label_dropout'] = 0.3
  stored['conditioning']['labels'] = True
  stored['evaluation'] |= {'every': 7, 'num_batches': 5}
  stored['objective']['name'] = 'ddpm'
  for section, field in [
    ('conditioning', 'dropout'),
    ('training', 'evaluate_every'),
    ('training', 'evaluate_batches'),
  ]:
    del stored[section][field]
  for old, new in [('inpainting', 'inpaint'), ('gray', 'colorize')]:
    stored['conditioning']['image'] = old
    (tmp_path / 'config.json').write_text(json.dumps(stored))
    config = cifar10.get_config()
    found = run_folder.run_config(tmp_path, config)
    expected = {'dropout': 0.3, 'image': new, 'labels': True}
    config.conditioning.update(expected)
    assert {n: found.conditioning[n] for n in expected} == expected
    run_folder.check_same_run(tmp_path, config)
    config.conditioning.dropout = 0.2
    with pytest.raises(UserError, match='conditioning.dropout is 0.3, 0.2 now'):
      run_folder.check_same_run(tmp_path, config)
  with_training = *run_folder.RUN_SECTIONS, 'training'
  found = run_folder.run_config(tmp_path, cifar10.get_config(), with_training)
  assert found.training.evaluate_every == 7
  assert found.training.evaluate_batches == 5


def test_a_run_stores_the_defaults_of_its_constructors():
  stored = run_folder.plain(digits.get_config())
  assert stored['network']['norm_eps'] == 1e-6
  assert stored['network']['dtype'] == 'float32'
  assert stored['schedule']['start'] == 1e-4
  assert stored['network']['fourier'] is None


# By section the constructors that its fields belong to.
TABLES = {
  'data': [data.SOURCES],
  'schedule': [
    schedule.SCHEDULES,
    {'alphas': schedule.EXPLICIT, 'gamma': schedule.make_gamma},
  ],
  'network': [network.NETWORKS, network.TEXT_NETWORKS],
  'conditioning': [network.NOISE_INPUTS],
  'objective': [
    objective.OBJECTIVES,
    objective.TIMES,
    objective.WEIGHTS,
    objective.PAIRS,
    objective.DISTANCES,
  ],
  'sampling': [
    sampling.SAMPLERS,
    {'churn': sampling.CHURN, 'corrector': sampling.CORRECTOR},
  ],
}

# Parameters that are facts of the run, not fields of the section.
FACTS = {
  'data': {'split'},
  'schedule': set(),
  'network': set(network.network_facts(smoke())),
  'conditioning': {'num_steps'},
  'objective': set(objective._objective_facts(smoke(), None, False))
  | set(vae_models.Model._fields)
  | {'total_steps', 'sigma_min', 'sigma_max', 'rho'},
  'sampling': {'schedule', 'sampler', 'gamma'},
}

# Details of formulas and layers that no config of a paper changes.
CODE_ONLY = {
  'data': {'num_images'},
  'schedule': {'s', 'max_beta'},
  'network': {'gamma_min', 'gamma_max'},  # fields of config.schedule
}


@pytest.mark.parametrize('section', TABLES)
def test_base_has_the_parameters_of_the_constructors_and_no_others(section):
  fields: Any = base.get_config()[section]
  found = {
    name
    for table in TABLES[section]
    for constructor in table.values()
    for name in make.parameters(constructor)
  }
  parts = set(audit.PARTS.get(section, ()))
  direct = set(audit.DIRECT[section])
  assert set(fields) == set(fields) & (found | direct | parts)
  assert found - set(fields) == found & (
    (FACTS[section] - set(fields)) | CODE_ONLY.get(section, set())
  )
  assert direct <= set(fields)
  for name in set(fields) - direct - parts:
    assert fields[name] is None, f'{section}.{name}: its default is not here'
  for name, (_, default) in audit.PARTS.get(section, {}).items():
    assert fields[name] == default


def test_a_constructor_is_given_what_its_signature_takes():
  def toy(size, depth=2, *, shape):
    return size, depth, shape

  section = {'name': 'toy', 'size': 3, 'depth': None, 'other': 5}
  table, facts = {'toy': toy}, {'shape': lambda: (8, 8)}
  assert make.make(table, section, 'toys.name', facts) == (3, 2, (8, 8))
  with pytest.raises(UserError, match='config.toys: size is needed'):
    make.make(table, section | {'size': None}, 'toys.name', facts)
  with pytest.raises(UserError, match="'tyo' .did you mean 'toy'.. is not one"):
    make.make(table, {'name': 'tyo'}, 'toys.name')
  own_parts.allow(['no.module:x'])
  with pytest.raises(UserError, match="name='no.module:x' cannot be imported"):
    make.make(table, {'name': 'no.module:x'}, 'schedule.name')
  renamed = make.renamed(toy, size='toy_size')
  assert list(inspect.signature(renamed).parameters)[0] == 'toy_size'
  assert renamed(toy_size=1, shape=()) == (1, 2, ())
  assert 'depth' not in make.parameters(make.fixed(toy, depth=4))


def test_a_name_that_the_library_refuses_gets_the_nearest():
  """Those that a builder does not look up in a table of its own."""
  message = (
    r"sampling: spacing 'karas' \(did you mean 'karras'\?\) is not one of"
  )
  with pytest.raises(UserError, match=message):
    with build.from_config('sampling'):
      dj.level_grid(dj.CosineSchedule(), 4, 'karas')
  with pytest.raises(UserError, match=r'optimizer: far from it$'):
    with build.from_config('optimizer'):
      raise ValueError('far from it')
