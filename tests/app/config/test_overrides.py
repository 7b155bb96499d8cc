"""Flags change fields of a config, in any order, and nothing else of it."""

import math

import pytest
from hypothesis import given, settings, strategies as st

from diffusion_jax.app.config import experiments, folder, overrides
from diffusion_jax.app.kinds import store
from tests.app.conftest import CONFIGS, read, refused

FILES = sorted(path.stem for path in CONFIGS.glob('*.py') if path.stem not in ('__init__', 'base'))
ALL = [
  (name, variant)
  for name in FILES
  for variant in ('', *getattr(experiments.module_of(str(CONFIGS / f'{name}.py')), 'VARIANTS', ()))
]


def with_flags(name, *flags):
  return store.with_flags(read(name), [f.split('=', 1) for f in flags])


def texts_of(config):
  """Yields the flags that set every field of a config."""
  fields = {'latent': None, **folder.flat(config.to_dict())}
  if 'latent.name' in fields:
    del fields['latent']
  for path, value in fields.items():
    yield path, overrides.as_text(value)


@given(one=st.sampled_from(ALL), other=st.sampled_from(ALL), draw=st.randoms())
@settings(max_examples=60, deadline=None)
def test_the_fields_of_any_config_as_flags_in_any_order_give_it(one, other, draw):
  """A config's flags turn any other config into it."""
  one, other = (read(':'.join(filter(None, name))) for name in (one, other))
  flags = [*texts_of(other)]
  draw.shuffle(flags)
  found = folder.flat(store.with_flags(one, flags).to_dict())
  expected = folder.flat(other.to_dict())
  more = {*found} - {*expected}  # sections that a config can also have
  assert all(path.startswith(('noise.', 'evaluation.')) for path in more)
  assert {path: found[path] for path in expected} == expected


def test_what_is_typed_daily_is_one_short_flag():
  config = with_flags(
    'digits', 'training.batch_size=8', 'training.num_steps=5', 'seed=3',
    'sampling.num_steps=20', 'sampling.sampler=heun', 'sampling.num_samples=4',
    'sampling.guidance.scale=2', 'optimizer.learning_rate=1e-3',
    'sampling.labels=3', 'evaluation.metrics=elbo,ode',
    'evaluation.ode.tolerance=1e-3', 'sampling.prompt=a, b',
  )  # fmt: skip
  assert config.training.batch_size == 8 and config.training.num_steps == 5
  assert config.sampling.sampler.to_dict() == {'name': 'heun'}
  guidance = config.sampling.guidance  # was None
  assert (guidance.name, guidance.scale) == ('classifier_free', 2.0)
  assert guidance.interval == (0.0, math.inf) and config.sampling.labels == ('3',)
  assert config.evaluation.ode.tolerance == 1e-3
  assert config.sampling.prompt == 'a, b'
  assert config.evaluation.metrics == ('elbo', 'ode')
  for text in 'None', 'none':
    off = store.with_flags(config, [('sampling.guidance', text)])
    assert off.sampling.guidance is None


@pytest.mark.parametrize('text', ['None', ''])
def test_none_is_a_list_of_nothing(text):
  """A list may have any length: data.context=None says what conditioning.context=None does."""
  fields = 'data.context', 'data.categories', 'data.bounds', 'sampling.labels', 'training.log_to'
  for field in fields:
    config = with_flags('vectors', 'data=csv', 'data.x=a', f'{field}={text}')
    assert config.at(field) == ()
  refused('training.machine.mesh=', with_flags, 'digits', f'training.machine.mesh={text}')


@pytest.mark.parametrize('flags, path, name', [
  (('sampling.churn.s_churn=40.0',), 'sampling.churn', 'edm'),
  (('objective.uncertainty.features=9',), 'objective.uncertainty', 'fourier'),
  (('latent.run=x',), 'latent', 'autoencoder'),
  (('sampling.guidance.run=x', 'sampling.guidance=autoguidance'),
   'sampling.guidance', 'autoguidance'),
  (('sampling.schedule.schedule.num_steps=9', 'sampling.schedule=shifted'),
   'sampling.schedule.schedule', 'linear'),
])  # fmt: skip
def test_a_part_that_is_none_becomes_the_choice_that_a_flag_sets(flags, path, name):
  config = with_flags('digits', *flags)
  field, _, value = flags[0].partition('=')
  flat = folder.flat(config.to_dict())
  assert flat[f'{path}.name'] == name and str(flat[field]) == value


def test_fields_that_all_choices_have_stay_with_another_choice():
  config = with_flags('regression', 'data=two_moons')
  assert config.data.validation_fraction == read('regression').data.validation_fraction > 0


def test_the_config_that_is_given_is_not_changed():
  config = read('digits')
  before = config.to_dict()
  store.with_flags(config, [('network', 'dit'), ('seed', '3')])
  store.completed(config)
  assert config.to_dict() == before
