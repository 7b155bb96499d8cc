"""Each folder is a kind; names of fields and tables do not collide; a sweep has few points."""

import importlib
from pathlib import Path

import pytest

from diffusion_jax.app.config import tree
from diffusion_jax.app.kinds import store
from diffusion_jax.ranges import PLAIN
from tests.app.conftest import refused


def test_each_folder_is_a_kind_with_a_schema_and_a_maker():
  folders = {path.parent.name for path in Path(store.__file__).parent.glob('*/__init__.py')}
  assert {module.__name__.split('.')[-1] for module in store.MODULES} == folders
  for name in folders:
    assert importlib.import_module(f'diffusion_jax.app.kinds.{name}.model').make


def constructors(kind):
  """Yields (path, constructor) of all sections of a kind."""
  yield from ((where, c) for where, table in kind.tables.items() for c in table.values())
  yield from kind.parts.items()
  yield from ((f'evaluation.{name}', c) for name, c in kind.metrics.items())


@pytest.mark.parametrize('kind', store.KINDS)
def test_no_plain_parameter_has_the_name_of_a_table(kind):
  """A number `weight` would clash with the table of the objectives' weights."""
  plain = [
    tree.below(where, name)
    for where, constructor in constructors(kind)
    for name, parameter in tree.parameters(constructor).items()
    if isinstance(parameter.default, (*PLAIN,))
  ]
  assert not [where for where in plain if kind.table(where)]


@pytest.mark.parametrize('kind', store.KINDS)
def test_no_field_of_a_part_has_the_name_of_a_member_of_sections(kind):
  """`config.training.held_out` is the field, so `Node` has no method of this name."""
  parts = kind.parts.items()
  fields = {tree.below(where, name) for where, c in parts for name in tree.parameters(c)}
  assert not {path for path in fields if hasattr(tree.Node, path.rpartition('.')[2])}


def test_a_sweep_has_few_points():
  many = ','.join(map(str, range(500)))
  assert store.swept(f'seed={many} num_steps=5,10')
  refused('has 1,500 points, and at most 1,000', store.swept, f'seed={many} num_steps=5,10,20')
