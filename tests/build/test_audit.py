"""A field that is set is taken by a constructor, or refused in one line."""

import importlib
import inspect
import json
import pathlib
from typing import Any

import pytest

from configs import base, cifar10, digits
from diffusion_jax import build
from diffusion_jax.build import (
  audit,
  data,
  make,
  network,
  objective,
  sampling,
  schedule,
)
from diffusion_jax.errors import UserError
from diffusion_jax.runs import run_folder
from tests.programs.conftest import smoke

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
    ('objective.beta', 0.5, 'objective: ddpm takes no beta'),
    ('objective.num_steps', 5, 'objective: ddpm takes no num_steps'),
    ('objective.t_min', 0.1, 'objective: ddpm takes no t_min'),
    ('objective.decoder', 'gaussian', 'objective: ddpm takes no decoder'),
    ('objective.min_snr_gamma', 4.0, 'objective: ddpm takes no min_snr_gamma'),
    ('conditioning.time_scale', 9.0, 'conditioning: step takes no time_scale'),
    ('data.photo_shrink', 2, 'data: cifar10 takes no photo_shrink'),
  ],
)
def test_a_field_that_nothing_takes_is_refused(field, value, message):
  config = cifar10.get_config()
  config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=message) as error:
    audit.audit(config)
  assert '\n' not in str(error.value)


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
  audit.forget_unused(config, {'sampling.sampler': 'heun'})
  audit.audit(config)
  config.sampling.eta = 0.5  # now it was given, and is not forgotten
  audit.forget_unused(config, {'sampling.sampler': 0, 'sampling.eta': 0})
  with pytest.raises(UserError, match='heun takes no eta'):
    audit.audit(config)
  config = digits.get_config()
  config.schedule.rho = 5.0  # a mistake of the file: no choice has changed
  audit.forget_unused(config, {'training.num_steps': 1})
  with pytest.raises(UserError, match='takes no rho'):
    audit.audit(config)


STORED = sorted(path.stem for path in (FOLDER / 'stored').glob('*.json'))


@pytest.mark.parametrize('name', STORED)
def test_a_config_json_of_the_version_before_is_read(name, tmp_path):
  """stored/ was written by version 0.14, which stored every field."""
  text = (FOLDER / 'stored' / f'{name}.json').read_text()
  (tmp_path / 'config.json').write_text(text)
  config = importlib.import_module(f'configs.{name}').get_config()
  found = run_folder.run_config(str(tmp_path), config)
  audit.audit(found)
  assert build.build_network(found) == build.build_network(config)
  stored, complete = json.loads(text), run_folder.plain(found)
  for section in run_folder.RUN_SECTIONS:
    taken = {n: x for n, x in complete[section].items() if x is not None}
    assert {
      n: x for n, x in taken.items() if stored[section][n] is not None
    } == {
      n: stored[section][n] for n in taken if stored[section][n] is not None
    }
  run_folder.check_same_run(tmp_path, config)
  if config.network.name == 'unet':
    config.network.dropout = 0.37
    with pytest.raises(UserError, match='network.dropout is .*, 0.37 now'):
      run_folder.check_same_run(tmp_path, config)


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
  'objective': [objective.OBJECTIVES, objective.TIMES, objective.WEIGHTS],
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
  | {'encode', 'decode', 'log_likelihood'},
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
  with pytest.raises(UserError, match="name='no.module:x' cannot be imported"):
    make.make(table, {'name': 'no.module:x'}, 'toys.name')
  renamed = make.renamed(toy, size='toy_size')
  assert list(inspect.signature(renamed).parameters)[0] == 'toy_size'
  assert renamed(toy_size=1, shape=()) == (1, 2, ())
  assert 'depth' not in make.parameters(make.fixed(toy, depth=4))
