"""What a user's own part of each field must be, and make, said in its words.

app/config/test_user_parts.py has what is asked of every part.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import diffusion_jax as dj
from diffusion_jax.app.config import trust
from diffusion_jax.app.kinds import diffusion, few_steps
from diffusion_jax.app.kinds.choices import TABLES
from diffusion_jax.app.kinds.diffusion.model import check_levels
from diffusion_jax.app.kinds.store import KINDS
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.metrics import estimates, scoring
from diffusion_jax.metrics.metric import SampleMetric, Score
from diffusion_jax.training.couplings import paired
from tests.app.config.test_user_parts import TOY, found, nothing_is_allowed
from tests.app.conftest import refused

__all__ = ['nothing_is_allowed']  # a fixture of each test


class NoTrain(nn.Module):
  takes = ('label',)

  def __call__(self, x, noise, cond=None):
    return x


class NoCond(nn.Module):
  def __call__(self, x, noise, *, train=False):
    return x


def test_a_network_takes_what_every_network_is_called_with():
  for part, wrong in ((NoTrain, "keyword argument 'train'"), (NoCond, 'many po')):
    trust.allow([name := f'{__name__}:{part.__name__}'])
    message = r'__call__ must take \(x, noise, cond, \*, train\): .*' + wrong
    refused(message, found, 'network', name, ('in_channels',))
  trust.allow([f'{TOY}:Network'])
  found('network', f'{TOY}:Network', ('in_channels',))


def numbers(rng, n):
  return {'x': rng.normal(size=(n, 2))}


@pytest.mark.parametrize('path', ['data', 'data.source'])
def test_a_simulator_is_data_and_the_source_of_data(path):
  trust.allow([f'{__name__}:numbers'])
  source = found(path, f'{__name__}:numbers', ())(split='test', num_test=3)
  assert len(source) == 3


COUPLING = 'coupling(key, x0, y, cond)'
# What a user's constructor has made, and what is said of it.
MADE = {
  'objective.coupling': {
    'three': (lambda key, x0, y: jnp.arange(len(x0)), f'it is called as {COUPLING}: too many'),
    'noise': (lambda key, x0, y, cond: y, f'{COUPLING} must return i, whole numbers [B]'),
    'one': (lambda key, x0, y, cond: jnp.int32(0), 'with y[i[b]], not a number'),
    'no function': (3, f'{COUPLING} must be a function, not a number'),
  },
  'sampling.grid': {
    'an array': (np.zeros(3), 'levels(schedule, end_clean), a dj.NoiseLevel [N + 1] from noise'),
    'one': (
      types.SimpleNamespace(levels=lambda schedule: schedule(0.5)),
      'it is called as levels(schedule, end_clean): too many positional arguments',
    ),
  },
  'sampling.guidance': {
    'a function': (lambda pair, scale: pair, 'an object with scale and guide(pair, scale), a'),
    'no denoiser': (types.SimpleNamespace(scale=1.0, guide=lambda p, s: 0), ', not a number'),
    'alone': (types.SimpleNamespace(scale=1.0, guide=lambda p: 0), 'as guide(pair, scale): too'),
  },
  'sampling.order': {'one': (lambda count: np.arange(count), 'as order(num_elements, num_steps)')},
  'evaluation.metrics': {
    'a function': (lambda samples, real: [], 'a SampleMetric or a ModelMetric, not a function'),
  },
  'objective.times': {
    'tokens': (
      lambda key, n, schedule: (schedule(jnp.full((n, 8), 0.5)), jnp.ones(n)),
      'must return (level, weight), [batch_size] each, not an array [2, 8]',
    ),
  },
  'objective.weight': {'two': (lambda alpha, sigma: alpha, "as weight(level): missing a required")},
  'objective.distance': {'one': (lambda a: a, 'it is called as distance(a, b): too many')},
  'noise_input': {'of t': (lambda t: jnp.log(t), 'log requires ndarray or scalar arguments')},
}  # fmt: skip


@pytest.mark.parametrize(
  'path, part, line',
  [pytest.param(path, *x, id=f'{path} {n}') for path, xs in MADE.items() for n, x in xs.items()],
)
def test_what_a_constructor_makes_is_checked_once(path, part, line):
  """The line names the field and the part, and says what is needed."""
  contract = few_steps.SCHEMA.contract(path)
  message = refused('docs/parts.md.$', trust.check_made, path, 'mine:part', part, contract)
  assert message.startswith(f"config.{path}='mine:part': ") and line in message


FIELDS = 'coupling', 'levels', 'order', 'times', 'weight', 'pairs', 'distance'


@pytest.mark.parametrize('name', [*FIELDS, 'sampling.grid', 'sampling.guidance'])
def test_shipped_parts_fit_their_contracts(name):
  """Constructors that need nothing are called, as a user's would be."""
  tables = {**TABLES, **few_steps.SCHEMA.tables}
  made = 0
  for path, table in tables.items():
    if name not in (path, path.rpartition('.')[2]):
      continue
    for choice, make in table.items():
      try:
        part = make(**{'scale': 2.0} if 'guidance' in name else {})
      except TypeError:  # It needs facts, or a run.
        continue
      trust.check_made(path, f'{choice}:', part, few_steps.SCHEMA.contract(path))
      made += 1
  assert made


def test_every_contract_is_of_a_field():
  """Its words are what a line says, so that none is without."""
  paths = {path for kind in KINDS for path in kind.tables} | {
    'evaluation.metrics',
    'training.log_to',
  }
  contracts = {name: x for kind in KINDS for name, x in kind.contracts.items()}
  for name, contract in contracts.items():
    assert contract.makes and any(name in (x, x.rpartition('.')[2]) for x in paths), name


def test_pairs_that_are_no_numbers_of_rows_are_refused(key):
  x = jnp.ones((2, 4))
  for index in (x, jnp.zeros(2), jnp.zeros(3, int), 1):
    with pytest.raises(ValueError, match=r'must return i, whole numbers \[2\], .*, not a'):
      paired(lambda key, x0, y, cond, i=index: i, key, x, x, {})


def test_levels_of_a_grid_fall_and_are_levels():
  schedule = dj.CosineSchedule()
  times = np.linspace(1.0, 0.1, 4, dtype=np.float32)
  check_levels(schedule(times))
  for levels, line in (
    (times, 'must return a dj.NoiseLevel, not an array .4.'),
    (schedule(times[::-1]), 'a grid falls from its noisiest'),
    (schedule(times[:1]), 'must have .N . 1. of t, alpha and sigma, not .1., .1., .1.'),
    (schedule(times)._replace(t=times[:2]), 'not .2., .4., .4.'),
    (schedule(times[None]), 'not .1, 4., .1, 4., .1, 4.'),
  ):
    with pytest.raises(ValueError, match=line):
      check_levels(levels)


def test_a_metric_is_tried_on_black_images():
  """One that refuses them, or needs more, is tried when it is computed."""
  spec = ArraySpec((8, 8, 1))

  def of(compute, *needs):
    return SampleMetric({'ink': True}, needs or ('images',), compute)

  def ink(samples, reference):
    return [Score('ink', estimates.mean(samples['images'].mean((1, 2, 3))))]

  def wrong(samples, reference):
    return samples['images'].mean()

  def refuses(samples, reference):
    raise ValueError('black')

  for metric in (of(ink), of(refuses), of(wrong, 'features'), None):
    scoring.check_own('ink', metric, spec)
  for compute, line in (
    (wrong, 'not a number'),
    (lambda samples, reference: [Score('ink', 1.0)], 'not one of a Score'),
    (lambda samples, reference: None, 'not None'),
  ):
    with pytest.raises(ValueError, match=f'^ink: compute.*, as estimates.mean makes them, {line}'):
      scoring.check_own('ink', of(compute), spec)
    with pytest.raises(ValueError, match=line):
      scoring.compute(scoring.Scored('ink', of(compute)), {'images': np.zeros((2, 8, 8, 1))}, {})


def test_a_sampler_keeps_the_shape_of_its_state(key):
  def step(key, x, state, denoise, *, level_s, level_t):
    return x, (x,)

  levels = dj.level_grid(dj.CosineSchedule(), 2)
  sampler = dj.Sampler(lambda x: (), step)
  with pytest.raises(
    TypeError, match='a state of the same arrays as .*, a tuple of 0, not a tuple'
  ):
    jax.eval_shape(
      lambda x: dj.sample(key, lambda x, level: dj.Prediction(x), sampler, levels, x),
      jnp.ones((2, 3)),
    )


@pytest.mark.parametrize('path, name', [('schedule', 'Schedule'), ('noise_input', 'noise_input')])
def test_a_part_may_be_made_while_a_network_is_traced(path, name):
  """As an own objective is, whose parameters follow from its schedule."""
  trust.allow([f'{TOY}:{name}'])
  made, contract = found(path, f'{TOY}:{name}', ()), diffusion.SCHEMA.contract(path)

  def traced(x):
    trust.check_made(path, name, made(), contract)
    return x

  jax.eval_shape(traced, 1.0)
