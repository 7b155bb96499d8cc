"""Two values for one field are refused, and the same value twice is the value, at every door.

A field has several names: its path, a short form of the table of aliases, and
for a choice also its field `name`. Planted faults: `overrides.spelled_once` without
its error, so that one value is dropped; `notebook.open_run` with a dict of paths
in place of `overrides.as_flags`; `cli.Command.config` without its check of a sweep.
"""

import functools
import inspect
import re
from unittest import mock

import pytest
from absl.testing import flagsaver
from hypothesis import HealthCheck, given, settings, strategies as st

import diffusion_jax as dj
from diffusion_jax.app import cli
from diffusion_jax.app.config import overrides
from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds import roles, store
from diffusion_jax.app.train import setup
from tests.app.conftest import CONFIGS, read, refused, stored_run

FILES = sorted(x.stem for x in CONFIGS.glob('*.py') if x.stem not in ('__init__', 'base'))
# A config of each kind of model.
NAMES = {store.kind_of(read(name)).kind: name for name in reversed(FILES)}.values()
OTHER = 'other'  # a value that no field has


@pytest.fixture(autouse=True, scope='module')
def flags():
  """Lets `cli.Command` read the flags of the program."""
  with flagsaver.flagsaver():
    cli.flags.FLAGS(['launch.py'])
    yield


def ways(name):
  """Yields (config, one name of a field, another, its value) for each field of a config."""
  config = read(name)
  for short, (section, _, field) in config.schema.aliases.items():
    if (value := config.at(f'{section}.{field}')) is not None:
      yield name, short, f'{section}.{field}', value
  for path in config.paths():
    value = config.at(path)
    if not isinstance(value, Node):
      yield name, path, path, value
    elif value.choice:
      yield name, path, f'{path}.name', value.choice


WAYS = [way for name in NAMES for way in ways(name)]
SHORT = [way for way in WAYS if way[1] in read(way[0]).schema.aliases]


# Doors: (config, fields, (path, value) each, a folder) -> the complete config.


class Opened(Exception):
  """Ends a door that has its config."""


def config_for(module, function, door, *args, **kwargs):
  """Returns the config with which a door calls a function."""
  with mock.patch.object(module, function, side_effect=Opened) as called, pytest.raises(Opened):
    door(*args, **kwargs)
  return called.call_args[0][0]


def texts(fields):
  return [(path, overrides.as_text(value)) for path, value in fields]


def by_flags(name, fields, place):
  return store.with_flags(read(name), texts(fields))


def by_command(name, fields, place):
  return cli.Command(str(CONFIGS / f'{name}.py'), '', texts(fields)).config('train')


def by_sweep_index(name, fields, place):
  point, *flags = texts(fields)
  path = place / f'{name}_{len(list(place.iterdir()))}.py'  # Python keeps what it has imported
  path.write_text(f'from configs.{name} import *\n\ndef sweep():\n  return [dict([{point}])]\n')
  with flagsaver.flagsaver(sweep_index=0):
    return cli.Command(str(path), '', flags).config('train')


def by_evaluation_sweep(name, fields, place, swept=1):
  items = [f'{path.removeprefix("sampling.")}={text}' for path, text in texts(fields[:swept])]
  flags = [('evaluation.sweep', ' '.join(items)), *texts(fields[swept:])]
  run = stored_run(place / name, read(name))
  config = cli.Command(str(run), '', flags).config('evaluate')
  return store.with_flags(config, [*texts(fields[:swept]), ('evaluation.sweep', '')])


def by_open_run(name, fields, place):
  arguments = {}
  for path, value in fields:  # **{'grid.number': 3}, and then grid={'number': 3}
    path = path.removeprefix('sampling.')
    section, _, field = path.partition('.')
    nested = field and arguments and section not in arguments
    arguments |= {section: {field: value}} if nested else {path: value}
  run = stored_run(place / name, read(name))
  return config_for(roles, 'check_predecessors', dj.open_run, run, **arguments)


def by_training_step(name, fields, place):
  path = f'{CONFIGS}/{name}.py'
  return config_for(setup, 'abstract_step', dj.training_step, path, dict(fields), 'a mesh')


def by_file(name, fields, place, complete=store.completed):
  tree = read(name).to_dict()
  for path, value in fields:
    *above, last = path.split('.')
    functools.reduce(dict.__getitem__, above, tree)[last] = value
  return complete(tree)


def by_stored_config(name, fields, place):
  return by_file(name, fields, place, lambda tree: store.stored(tree, 'config.json'))


def of_sampling(way):
  return way[1].startswith('sampling.')


def is_swept(way):
  return of_sampling(way) and bool(re.fullmatch(r'[^\s,]+', overrides.as_text(way[3])))


# One call cannot give an argument twice, but it can give grid.number and grid={}.
def is_twice(way):
  return of_sampling(way) and (way[1] != way[2] or way[1].count('.') > 1)


# What a user can give in two ways at each door.
DOORS = {
  **dict.fromkeys((by_flags, by_command, by_sweep_index), lambda way: True),
  by_evaluation_sweep: is_swept,
  functools.partial(by_evaluation_sweep, swept=2): is_swept,
  by_open_run: is_twice,
  **dict.fromkeys((by_training_step, by_file, by_stored_config), SHORT.__contains__),
}


def check(door, way, place):
  """Checks both orders of two values, and of one value twice."""
  name, one, other, value = way
  for first, second in ((one, other), (other, one)):
    fields = [(first, OTHER), (second, value)]
    refused('two values: leave one of them out', door, name, fields, place)
    both = door(name, [(first, value), (second, value)], place)
    assert both.to_dict() == door(name, [(second, value)], place).to_dict()


@pytest.mark.parametrize('door', DOORS, ids=lambda door: getattr(door, '__name__', 'by_point_2'))
def test_a_short_form_and_its_field(door, tmp_path):
  for way in filter(DOORS[door], SHORT):
    check(door, way, tmp_path)


@pytest.mark.parametrize('way', SHORT, ids=lambda way: f'{way[0]}-{way[1]}')
def test_an_error_names_a_field_as_it_was_typed(way, tmp_path):
  name, *paths, _ = way
  for path in paths:
    refused(rf'config\.{path}=', by_flags, name, [(path, 'no such value')], tmp_path)


@given(data=st.data())
@settings(
  max_examples=100,
  deadline=None,
  derandomize=True,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_field_and_every_choice(data, tmp_path):
  door = data.draw(st.sampled_from([*DOORS]))
  check(door, data.draw(st.sampled_from([*filter(DOORS[door], WAYS)])), tmp_path)


def without_a_default():
  """Yields (config, section, choice, field, its values) of what a choice of sampling asks for."""
  for name in NAMES:
    schema, sections = read(name).schema, [f'sampling.{field}' for field in read(name).sampling]
    for path in [x for x in schema.tables if x in sections]:
      for choice, constructor in schema.table(path).items():
        for field, parameter in parameters(constructor).items():
          is_plain = parameter.annotation is str or 'float' in str(parameter.annotation)
          if parameter.default is inspect.Parameter.empty and is_plain:
            values = ('2', '4') if parameter.annotation is str else ('0.125', '0.25')
            yield name, path, choice, field, values


@pytest.mark.parametrize('name, path, choice, field, values', [*without_a_default()])
def test_a_field_without_a_default_may_be_set_by_a_sweep(
  name, path, choice, field, values, tmp_path
):
  """Its choice is a flag or in the sweep too, and a flag may have a value that the sweep lists."""
  run, short = stored_run(tmp_path / 'run', read(name)), path.removeprefix('sampling.')
  chosen, swept = (path, choice), f'{short}.{field}={",".join(values)}'
  for flags, text in (
    ([chosen], swept),
    ([chosen, (f'{path}.{field}', values[1])], swept),
    ([], f'{short}={choice} {swept}'),
  ):
    config = cli.Command(str(run), '', [*flags, ('evaluation.sweep', text)]).config('evaluate')
    # The model of the run is made of it, before any point.
    assert not flags or config.at(f'{path}.{field}') is not None
    point = store.with_flags(config, [chosen, (f'{path}.{field}', values[0])])
    assert overrides.as_text(point.at(f'{path}.{field}')) == values[0]


def test_a_sweep_of_another_choice_leaves_the_run_as_it_is(tmp_path):
  """The field of a choice that the run lacks is set at the points only."""
  run, before = stored_run(tmp_path / 'run', read('digits')), read('digits').sampling.sampler
  sweep = 'sampler=ancestral sampler.variance=fixed_small,fixed_large'
  config = cli.Command(str(run), '', [('evaluation.sweep', sweep)]).config('evaluate')
  assert config.sampling.sampler.to_dict() == before.to_dict() != {'name': 'ancestral'}
