"""Each folder of kinds/ is a kind of model, with a schema and a maker."""

from pathlib import Path

from diffusion_jax.app.kinds import registry, store


def test_each_folder_is_a_kind_with_a_schema_and_a_maker():
  folders = {path.parent.name for path in Path(registry.__file__).parent.glob('*/__init__.py')}
  makers = {kind: make.__module__.split('.')[-2] for kind, make in registry.MAKERS.items()}
  assert {*makers.values()} == folders
  assert [kind.kind for kind in store.KINDS] == [*makers]
