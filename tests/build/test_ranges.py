"""Numbers and names outside their range end in one line, before all else."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import base, digits_vdm
from diffusion_jax import build, families
from diffusion_jax.build import ranges
from diffusion_jax.build.network import check_heights
from diffusion_jax.errors import UserError
from diffusion_jax.programs import PROGRAMS
from diffusion_jax.runs import guidance_runs
from tests.conftest import HANG_SECONDS
from tests.programs.conftest import unet_smoke as smoke

ROOT = Path(__file__).parents[2]
WORDS = {
  'data.photos',
  'evaluation.metrics',
  'evaluation.sweep.sampler',
  'report.runs',
}
EXPERIMENTS = sorted(
  path.stem
  for path in (ROOT / 'configs').glob('*.py')
  if path.stem not in ('__init__', 'base')
)


def types(config, prefix=''):
  """(name, type) of every field; that of a placeholder is what it holds."""
  for name in config:
    kind = config.get_type(name)
    if kind is ConfigDict:
      yield from types(config[name], f'{prefix}{name}.')
    else:
      yield prefix + name, kind


TYPES = dict(types(base.get_config()))


def test_every_numeric_field_has_a_range_and_no_range_is_left_over():
  numeric = {n for n, kind in TYPES.items() if kind in (int, float, tuple)}
  assert set(ranges.RANGES) == numeric - WORDS
  assert set(ranges.TUPLES) == {
    name for name in ranges.RANGES if TYPES[name] is tuple
  }
  assert set(ranges.NAMES) == {n for n in TYPES if n.endswith('.name')} - {
    f'{section}.name'
    for section in ('data', 'schedule', 'network', 'objective', 'optimizer')
  }


@pytest.mark.parametrize('name', EXPERIMENTS)
@pytest.mark.parametrize('argument', ['', 'smoke'])
def test_every_config_is_within_the_ranges(name, argument):
  config = importlib.import_module(f'configs.{name}').get_config(argument)
  ranges.check(config)
  if config.data.name:
    check_heights(config)


def interval(text):
  """(lowest, highest, whether each is in it), read apart from `contains`."""
  low, high = text.strip('[]()').split(',')
  return float(low), float(high), text.startswith('['), text.endswith(']')


def wrong_numbers(field):
  """Numbers that `field` must not be, of its type."""
  low, high, with_low, with_high = interval(ranges.RANGES[field])
  if kind_of(field) is int:
    below = st.integers(max_value=int(low) - 1)
    above = st.integers(int(high) + 1) if high < math.inf else st.nothing()
    return below | above
  choices = st.just(math.nan)
  if (low, with_low) != (-math.inf, True):
    choices |= st.floats(max_value=low, exclude_max=with_low)
  if (high, with_high) != (math.inf, True):
    choices |= st.floats(min_value=high, exclude_min=with_high)
  return choices


def right_numbers(field):
  """Numbers that `field` may be, of its type."""
  low, high, with_low, with_high = interval(ranges.RANGES[field])
  if kind_of(field) is int:
    return st.integers(int(low), None if high == math.inf else int(high))
  open_ends = {'exclude_min': not with_low, 'exclude_max': not with_high}
  return st.floats(low, high, **open_ends)


def kind_of(field):
  return ranges.TUPLES[field][0] if field in ranges.TUPLES else TYPES[field]


def right_values(field):
  """As `right_numbers`, of tuples whole ones that are not empty."""
  if field not in ranges.TUPLES:
    return right_numbers(field)
  low, high, *_ = interval(ranges.TUPLES[field][1])
  most = 3 if high == math.inf else int(high)
  return st.lists(
    right_numbers(field), min_size=max(1, int(low)), max_size=most
  ).map(tuple)


BASE = base.get_config()


def refusal(fields):
  """What `check` says of the base config with these values; '' if nothing."""
  config = BASE.copy_and_resolve_references()  # 6 times as fast as a new one
  config.update_from_flattened_dict(fields)
  try:
    ranges.check(config)
  except UserError as error:
    return str(error)
  return ''


@pytest.mark.parametrize('field', ranges.RANGES)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_wrong_number_is_one_line_that_names_the_field(field, data):
  value = data.draw(wrong_numbers(field))
  if field in ranges.TUPLES:  # any one of the elements
    good = data.draw(right_values(field))
    at = data.draw(st.integers(0, len(good) - 1))
    value = (*good[:at], value, *good[at + 1 :])
  found = refusal({field: value})
  assert found.startswith(f'config.{field}')
  assert found.endswith(f' is not in {ranges.RANGES[field]}')
  assert '\n' not in found


@pytest.mark.parametrize('field', ranges.RANGES)
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_a_number_in_its_range_is_taken(field, data):
  assert refusal({field: data.draw(right_values(field))}) == ''


# field: (values that were a mistake of a user's, values at the ends)
LITERAL = {
  'seed': ((-1, 2**32), (0, 2**32 - 1)),
  'data.num_levels': ((1, 257), (2, 256)),
  'schedule.alphas': (((0.9, 1.0), (0.9, -0.1)), ((0.9, 0.0), ())),
  'schedule.end': ((0.0, 1.01), (1.0,)),
  'network.dropout': ((1.0, -0.1), (0.0,)),
  'network.attention_resolutions': (((0,), (2.5,), ('a',)), ((), (4,))),
  'network.multipliers': (((), (1, 0), (1, True)), ((1, 0.5),)),
  'conditioning.dropout': ((1.5, -0.1), (0.0, 1.0)),
  'optimizer.learning_rate': ((-1e-3, 0.0, math.nan, math.inf), (1e-9,)),
  'optimizer.clip_norm': ((-1.0, math.inf), (0.0,)),
  'optimizer.b2': ((1.0, -0.1), (0.0,)),
  'optimizer.eps': ((0.0,), (1e-15,)),
  'training.log_every': ((-1,), (0,)),
  'training.num_steps': ((0,), (1,)),
  'training.skip_nonfinite': ((-1,), (0,)),
  'training.ema_decay': ((1.0,), (0.0,)),
  'training.more_ema_decays': (((0.9, 1.5),), ((), (0.9, 0.0))),
  'training.ema_sigma_rels': (((0.05, 0.3), (0.0,)), (None, (0.05, 0.1))),
  'sampling.ema_sigma_rel': ((0.0, 0.2887), (None, 0.2886)),
  'training.accumulate': ((0,), (1,)),
  'conditioning.text_length': ((0,), (1,)),
  'objective.augment': ((1.5,), (1.0,)),
  'objective.beta': ((-1.0,), (0.0,)),
  'sampling.labels': (((3, -1), (3, 3.5)), ((), (3, 0))),
  'sampling.dynamic_threshold': ((99.5,), (0.0, 1.0)),
  'schedule.shift': ((0.0,), (None, 0.1)),
  'training.ema_half_life': ((0.0, -1.0), (None, 1.0)),
  'training.mesh': (((1,), (1, 1, 1), (-2, 1)), ((-1, 1),)),
  'evaluation.tolerance': ((math.nan, 0.0), (1e-8,)),
  'evaluation.t_min': ((1.0, -1e-3), (0.0,)),
  'sampling.num_samples': ((0,), (1,)),
  'sampling.guidance_scale': ((math.nan, math.inf), (-1.0, 0.0)),
  'sampling.guidance_max': ((-1.0, math.nan), (math.inf, None, 0.0)),
  'noise.size': ((0, 1), (2,)),
  'sampling.name': (
    ('', 'a/b', '..', '.a', 'a\\b', 'a\n', 'ä' * 101),
    ('a.b',),
  ),
  'edit.name': (('', '../x/y', '/x'), ('an edit', 'ä' * 100)),
  'evaluation.name': (('a/b',), ('', '7')),
}


@pytest.mark.parametrize('field', LITERAL)
def test_the_mistakes_of_users_are_refused_and_the_ends_are_not(field):
  wrong, right = LITERAL[field]
  for value in wrong:
    assert refusal({field: value}).startswith(f'config.{field}'), value
  for value in right:
    assert refusal({field: value}) == '', value


@pytest.mark.parametrize(
  'override',
  [
    'network.attention_resolutions=4,-4',
    # a process each, by the same line of the program
    *(
      pytest.param(override, marks=pytest.mark.slow)
      for override in (
        'optimizer.clip_norm=-1',
        'evaluation.tolerance=nan',
        'sampling.name=a/b',
      )
    ),
  ],
)
def test_the_command_line_says_it_before_anything_is_written(
  override, tmp_path
):
  result = subprocess.run(
    [
      sys.executable,
      ROOT / 'launch.py',
      f'--config={ROOT}/configs/digits.py:smoke',
      f'--config.{override}',
      '--multihost',  # before the processes join, too
    ],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=HANG_SECONDS,
  )
  assert result.returncode == 2
  assert result.stdout == ''
  assert result.stderr.startswith(f'error: config.{override.split("=")[0]}')
  assert result.stderr.count('\n') == 1
  assert not list(tmp_path.iterdir())


NETWORKS = {
  'unet': 'digits',
  'ddpmpp': 'digits_edm',
  'edm2': 'digits_edm2',
  'classifier': 'digits_classifier',
  'autoencoder': 'digits_autoencoder',
  'hierarchical': 'digits_hvae',
}


def attending(config, heights):
  """How many parameters the network has with attention at these heights."""
  config.network.attention_resolutions = heights
  params = families.abstract_params(config)
  return sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize('name', NETWORKS)
def test_attention_is_at_heights_that_there_are(name):
  """digits: 8 high, then 4, where alone it makes a difference."""
  module = importlib.import_module(f'configs.{NETWORKS[name]}')
  config = module.get_config('smoke')
  assert config.network.name == name
  config.network.num_blocks = 1
  check_heights(config)
  with_none = attending(config, ())
  for height in (8, 4):
    assert attending(config, (height,)) > with_none
    check_heights(config)
  assert attending(config, (5,)) == with_none
  config.network.attention_resolutions = (4, 5)
  with pytest.raises(
    UserError, match=f'no feature map is 5 high, .* 8, 4 of network.name={name}'
  ):
    check_heights(config)


def test_the_network_of_vdm_has_one_height():
  config = digits_vdm.get_config('smoke')
  with_none = attending(config, ())
  assert attending(config, (8,)) > with_none
  check_heights(config)
  config.network.attention_resolutions = (4,)
  with pytest.raises(UserError, match='is 4 high, they are 8 of'):
    check_heights(config)


def test_training_checks_the_heights_before_it_writes(tmp_path):
  config = smoke(**{'network.attention_resolutions': (5,)})
  with pytest.raises(UserError, match='no feature map is 5 high'):
    PROGRAMS['train'](config, str(tmp_path / 'run'))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('fields', 'ask', 'message'),
  [
    (
      {'schedule.name': 'karras', 'schedule.sigma_min': 90.0},  # of 80
      build.build_schedule,
      'config.schedule: sigma_min is 90, sigma_max is 80',
    ),
    (
      {'schedule.name': 'continuous_cosine', 'schedule.logsnr_max': -30.0},
      build.build_schedule,
      'config.schedule: logsnr_min is -20, logsnr_max is -30',
    ),
    (
      {'schedule.name': 'continuous_sigmoid', 'schedule.sigmoid_end': -3.0},
      build.build_schedule,
      'config.schedule: start is -3, end is -3',
    ),
    (
      {
        'schedule.name': 'learned',
        'schedule.gamma': 'fixed',
        'schedule.gamma_max': -14.0,
      },
      build.build_schedule,
      'config.schedule: gamma_min=-13.3 is not below gamma_max=-14.0',
    ),
    (
      {
        'sampling.guidance_scale': 2.0,
        'sampling.guidance_min': 3.0,
        'sampling.guidance_max': 2.0,
      },
      guidance_runs.check,
      'config.sampling.guidance_min=3.0 is above guidance_max=2.0',
    ),
    (
      {
        'sampling.sampler': 'heun',
        'sampling.churn': 1.0,
        'sampling.churn_min': 3.0,
        'sampling.churn_max': 2.0,
      },
      lambda config: build.build_sampler(config, build.build_schedule(config)),
      'config.sampling: churn_min=3.0 is above churn_max=2.0',
    ),
    (
      {
        'network.name': 'vdm',
        'network.fourier': (8, 6),
        'conditioning.noise_input': 'logsnr',
      },
      families.abstract_params,
      r'config.network: fourier=\(8, 6\) must be \(first, stop\)',
    ),
  ],
)
def test_fields_that_contradict_one_another(fields, ask, message):
  with pytest.raises(UserError, match=message):
    ask(smoke(**fields))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'sampling.sampler': 'dpm_solver'},
      "sampler='dpm_solver' \\(did you mean 'dpm_solver_pp'\\?\\) is not one "
      'of ancestral, ddim, ',
    ),
    (
      {'sampling.schedule': 'linaer'},
      "schedule='linaer' \\(did you mean 'linear'\\?\\) is not one of linear, ",
    ),
    ({'sampling.spacing': 'karas'}, "did you mean 'karras'"),
    ({'sampling.sampler': 'zzz'}, "sampler='zzz' is not one of ancestral, "),
  ],
)
def test_an_unknown_name_is_answered_by_the_near_one(fields, message):
  config = smoke(**fields)
  trained = build.build_schedule(config)
  with pytest.raises(UserError, match=message):
    build.build_sampler(config, trained)
    build.build_levels(config, build.build_sampling_schedule(config, trained))


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('[1, 2]', 'config.json is not the config of a run: it holds a JSON list'),
    ('"a"', 'a JSON str, not an object'),
    ('{"data": [1]}', 'data in .*config.json is of another version'),
  ],
)
def test_a_config_json_that_is_no_object_is_one_line(
  content, message, tmp_path
):
  (tmp_path / 'config.json').write_text(content)
  with pytest.raises(UserError, match=message) as error:
    PROGRAMS['sample'](smoke(), str(tmp_path))
  assert '\n' not in str(error.value)


def test_a_config_json_is_checked_as_well(tmp_path):
  fields = smoke().to_dict()
  fields['network']['dropout'] = math.nan
  (tmp_path / 'config.json').write_text(json.dumps(fields))
  with pytest.raises(UserError, match='dropout=nan is not in .*config.json'):
    PROGRAMS['sample'](smoke(), str(tmp_path))
