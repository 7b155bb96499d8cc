"""The section `training`, and what fields of earlier versions are called now."""

import re

import pytest

from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.renamed import RENAMED
from diffusion_jax.errors import UserError
from tests.app.conftest import read, refused


@pytest.mark.parametrize('old, new', RENAMED.items())
def test_an_old_name_hears_the_new_one(old, new):
  """The new one is a field, of the choice that the line names."""
  line = refused('', store.with_flags, read('digits'), [(old, '1')])
  assert line == f'config.{old} is now config.{new}'
  path, sign, name = re.match(r'([\w.]+)(=?)(\w*)', new).groups()
  more = re.search(r'with \.(\w+)', new)
  flags = [(path, name)] * bool(sign)
  if more or not sign:
    flags.append((f'{path}.{more[1]}' if more else path, '1'))
  try:
    store.with_flags(read('digits'), flags)
  except UserError as error:  # 1 is no value of every field
    assert 'no field' not in str(error)


def test_parts_that_are_off_have_no_fields():
  """A first field switches them on, None off."""
  config = read('cifar10')
  for path, field in (
    ('training.held_out', 'patience'),
    ('training.metrics', 'images'),
    ('training.start', 'run'),
    ('training.checkpoints.best', 'by'),
    ('training.machine.trace', 'first'),
  ):
    assert config.at(path) is None
    on = store.with_flags(config, [(f'{path}.{field}', '3')])
    assert str(on.at(f'{path}.{field}')) == '3'
    assert store.with_flags(on, [(path, 'None')]).at(path) is None
