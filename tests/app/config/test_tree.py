"""Sections are constructors, shown on a schema with every kind of parameter."""

import functools
import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pytest

from diffusion_jax.app.config.overrides import merge
from diffusion_jax.app.config.schema import Schema
from diffusion_jax.app.config.tree import check_one_of, from_config, no_field, resolve
from diffusion_jax.errors import UserError
from diffusion_jax.ranges import Count, FlagText, Rate, Size, check_choice
from tests import refusals
from tests.app.conftest import refused


def box(
  count: int,
  size: Size,
  rate: Rate = 0.5,
  word: Literal['a', 'b'] = 'a',
  flag: bool = False,
  pair: tuple[int, int] = (1, 2),
  numbers: Sequence[float] = (),
  text: str | None = None,
  kind: type = np.float32,
):
  return 'box', count, size, rate, word, flag, pair, numbers, text, kind


def ring(inner, count: int = 0, steps: int = 5):
  return 'ring', inner, count, steps


def dot():
  return 'dot'


def disc(steps: int, count: int = 7, radius: float = 1.0):
  return 'disc', steps, count, radius


class Top(NamedTuple):
  """The fields that are in no section."""

  seed: Count = 0


class Use(NamedTuple):
  """A section with a single constructor."""

  name: str = 'a'
  times: Size = 1
  fraction: float = 0.25
  extra: object = None


SCHEMA = Schema(
  'a toy',
  tables={
    'shape': {'dot': dot, 'box': box, 'ring': ring},
    'shape.inner': {'disc': disc, 'dot': dot},
    'extra': {'dot': dot, 'disc': functools.partial(disc, steps=3)},
    'use.extra': {'dot': dot, 'disc': functools.partial(disc, steps=3)},
  },
  choices=('shape', 'extra'),
  optional=('extra',),
  parts={'': Top, 'use': Use},
  facts={'shape': ('count',)},
  metrics={},
)


def completed(schema=SCHEMA, **fields):
  return resolve(fields, schema)


def changed(config, *flags):
  texts = [(path, FlagText(text)) for path, text in flags]
  return resolve(merge(config.to_dict(), texts, SCHEMA), SCHEMA)


def test_a_section_has_exactly_the_parameters_of_its_constructor():
  """Facts and the parameters of the enclosing choice are not fields."""
  config = completed(shape='box')
  assert config.shape.to_dict() == {
    'name': 'box',
    'size': None,
    'rate': 0.5,
    'word': 'a',
    'flag': False,
    'pair': (1, 2),
    'numbers': (),
    'text': None,
    'kind': 'float32',
  }
  config = completed(shape={'name': 'ring', 'inner': 'disc'})
  assert config.shape.to_dict() == {
    'name': 'ring',
    'steps': 5,
    'inner': {'name': 'disc', 'radius': 1.0},
  }
  assert completed(extra='disc').extra.to_dict() == {'name': 'disc', 'count': 7, 'radius': 1.0}


def test_what_is_left_out_is_the_first_choice_or_none_and_the_parts():
  config = completed()
  assert config.to_dict() == {
    'shape': {'name': 'dot'},
    'extra': None,
    'seed': 0,
    'use': {'name': 'a', 'times': 1, 'fraction': 0.25, 'extra': None},
  }
  assert resolve(config.to_dict(), SCHEMA) == config


def test_a_default_that_changes_later_does_not_change_a_stored_config():
  """A stored config has all values."""
  stored = json.loads(json.dumps(completed(extra='disc').to_dict()))

  def other(count: int = 99, radius: float = 99.0):
    return count, radius

  tables = {**SCHEMA.tables, 'extra': {'disc': other}}
  schema = SCHEMA._replace(tables=tables)
  assert completed(schema, extra='disc').extra.radius == 99.0
  again = resolve(stored, schema)
  assert again.extra.make() == (7, 1.0)


UNKNOWN = [
  (dict(shap='box'), "no field config.shap (did you mean 'shape'?)"),
  (dict(shape='bix'), "config.shape='bix' (did you mean 'box'?) is no"),
  (dict(shape=None), 'config.shape=None is not one of dot, box, ring'),
  (dict(shape={'name': 'box', 'sice': 1}), 'sice ... siz'),
  (
    dict(shape={'name': 'box', 'count': 1}),
    'no field config.shape.count; config.shape=box has flag, kind, numbers',
  ),
  (
    dict(shape={'name': 'ring', 'inner': 'box'}),
    "config.shape.inner='box' is not one of disc, dot",
  ),
  (
    dict(shape={'name': 'ring', 'inner': {'name': 'disc', 'x': 1}}),
    'no field config.shape.inner.x; config.shape.inner=disc has radius',
  ),
  (dict(shape={'name': 'ring', 'inner': {'steps': 1}}), 'no field config.shape.inner.steps'),
  (dict(use=3), 'config.use=3 is not a section with fields'),
  (dict(use={'time': 2}), "config.use.time ... 'times'"),
  (dict(use={'fraction': float('nan')}), 'fraction=nan is not a number'),
  (dict(shape={'name': 'dot', 'x': 1}), '.x; config.shape=dot has'),
  (dict(seed=-1), 'config.seed=-1 is not an integer of at least 0'),
]


@pytest.mark.parametrize('error, fields, message', [*refusals.rows(UserError, UNKNOWN)])
def test_what_does_not_exist_is_refused_with_the_near_name(error, fields, message):
  refused(message, lambda: completed(**fields))


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('size', 0, '=0 is not an integer of at least 1'),
    ('pair', (1, 'b'), r"\[1\]='b' is not an int"),
  ],
)
def test_a_wrong_value_is_one_line_that_names_the_field(field, value, message):
  """tests/test_ranges.py has all that can be wrong with a value."""
  refused(f'^config.shape.{field}{message}', completed, shape={'name': 'box', field: value})


def test_objects_are_made_inside_first_with_facts_and_what_is_around_them():
  shape = {'name': 'ring', 'steps': 8, 'inner': 'disc'}
  config = completed(shape=shape)
  found = config.shape.make({'count': 2})
  assert found == ('ring', ('disc', 8, 2, 1.0), 2, 8)
  # a fact without a value leaves the default
  found = config.shape.make({})
  assert found == ('ring', ('disc', 8, 7, 1.0), 0, 8)
  with_extra = completed(use={'extra': 'disc'})
  assert with_extra.use.make().extra == ('disc', 3, 7, 1.0)


def test_what_is_needed_and_not_set_is_named():
  config = completed(shape='box')
  message = 'config.shape.size is not set: box needs it'
  refused(message, config.shape.make, {'count': 1})
  message = 'config.shape=box: the other sections do not give the count'
  refused(message, config.shape.make, {})


def test_what_a_constructor_refuses_names_its_section():
  def failing():
    check_choice('the', 'bx', ['box', 'dot'])

  tables = {**SCHEMA.tables, 'extra': {'dot': failing}}
  schema = SCHEMA._replace(tables=tables)
  message = r"config.extra: the 'bx' \(did you mean 'box'\?\) is not one of box"
  refused(message, completed(schema, extra='dot').extra.make)


def test_a_flag_replaces_a_choice_and_drops_the_parameters_of_the_other():
  config = completed(shape={'name': 'box', 'rate': 0.1})
  assert changed(config, ('shape', 'box')).shape.rate == 0.1  # the same choice
  config = changed(config, ('shape.name', 'ring'))
  assert config.shape.to_dict() == {
    'name': 'ring',
    'steps': 5,
    'inner': {'name': 'disc', 'radius': 1.0},
  }
  config = changed(config, ('shape.inner.radius', '2'))
  config = changed(config, ('shape.steps', '3'))
  found = config.shape.make({'count': 1})
  assert found == ('ring', ('disc', 3, 1, 2.0), 1, 3)
  assert changed(config, ('extra', 'disc')).extra.radius == 1.0
  for text in ('None', '', 'none', 'NONE'):
    assert changed(completed(extra='dot'), ('extra', text)).extra is None


FLAGS = [
  ('shape.x 1', 'no field config.shape.x; config.shape=ring has inner, st'),
  ('shape.inner box', "config.shape.inner='box' is not one of disc, dot"),
  ('shape.inner.x 1', 'no field config.shape.inner.x; ... inner=disc has rad'),
  ('radius 1', "no field config.radius (did you mean 'shape.inner.radius'"),
  ('use 3', 'config.use is a section: set one of its fields'),
  ('use.fraction.x 3', 'no field config.use.fraction.x'),
  ('shape.size 3', 'no field config.shape.size with shape=ring; shape=box has it'),
  (
    'shape.inner.count 3',
    'no field config.shape.inner.count; config.shape.inner=disc has radius',
  ),  # a fact of each choice
  ('facts.count 3', 'no field config.facts'),
  ('shape', 'config.shape=None is not one of'),
  ('shape.steps', "config.shape.steps='' is not an integer"),
]


@pytest.mark.parametrize('error, flag, message', [*refusals.rows(UserError, FLAGS)])
def test_a_flag_that_does_not_fit_is_refused(error, flag, message):
  path, _, text = flag.partition(' ')
  refused(message, changed, completed(shape='ring'), (path, text))


def test_a_number_that_has_the_name_of_a_choice_is_refused_or_a_field():
  def mine(inner: float = 2.0, size: int = 1):
    return inner * size

  tables = {**SCHEMA.tables, 'shape': {'mine': mine}}
  schema = SCHEMA._replace(tables=tables)
  message = 'shape=mine: its parameter inner=2.0 has the name of a choice .disc'
  refused(message, completed, schema, shape='mine')
  elsewhere = {**tables, 'part.inner': tables['shape.inner']}
  del elsewhere['shape.inner']
  config = completed(schema._replace(tables=elsewhere))
  tree = merge(config.to_dict(), [('shape.inner', FlagText('3'))], schema)
  assert tree['shape']['inner'] == {'name': '3'}
  assert config.shape.make() == 2.0


@pytest.mark.parametrize('order', [1, -1])
def test_a_value_for_this_field_and_for_a_part_of_it_is_refused(order):
  flags = [('use.fraction', '0.5'), ('use.fraction.x', '3')][::order]
  message = 'a value is given for this field and for a part of it'
  refused(message, changed, completed(shape='ring'), *flags)


# -- errors --------------------------------------------------------------------


def test_a_name_is_one_of_several():
  refused(r"x='b' is not one of a, 1", check_one_of, ['a', 1], 'x', 'b')
  check_one_of(['a'], 'x', 'a')
  everywhere = ['a.size', 'b.size', 'seed']
  hint = r"\(did you mean '[ab].size' or '[ab].size'\?\)"
  with pytest.raises(UserError, match=hint):
    raise no_field('size', ['seed'], SCHEMA, everywhere=everywhere)


@pytest.mark.parametrize('error', [TypeError('a'), OSError('a'), ValueError('a')])
def test_an_error_of_a_constructor_names_its_section(error):
  with pytest.raises(UserError, match='^config.b: a'), from_config('b'):
    raise error
