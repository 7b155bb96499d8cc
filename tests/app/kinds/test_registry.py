"""Each folder of kinds/ is a kind of model, with a schema and a maker."""

import importlib
from pathlib import Path

from diffusion_jax.app.kinds import registry, store


def test_each_folder_is_a_kind_with_a_schema_and_a_maker():
  folders = {path.parent.name for path in Path(registry.__file__).parent.glob('*/__init__.py')}
  assert {module.__name__.split('.')[-1] for module in store.MODULES} == folders
  for name in folders:
    assert importlib.import_module(f'diffusion_jax.app.kinds.{name}.model').make
