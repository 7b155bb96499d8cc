"""Parts of the section `training` that are off have no fields."""

from diffusion_jax.app.kinds import store
from tests.app.conftest import read


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
