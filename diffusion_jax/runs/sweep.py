"""Applies `--sweep_index=i`, the i-th change of the `sweep()` of a config."""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

from diffusion_jax.errors import UserError


def apply(
  path: str, index: int, config: ConfigDict, command_line: dict
) -> dict:
  """Changes config by the override number `index` of the file, and returns it.

  An override is a dict {'section.field': value}. UserError where there is none
  of that number, where it does not fit the config, and where a field of it is
  also in `command_line`, its overrides.
  """
  overrides = read(path)
  if not 0 <= index < len(overrides):
    raise UserError(
      f'--sweep_index={index}: the sweep() of {path} has {len(overrides)}, '
      f'0..{len(overrides) - 1}'
    )
  override = overrides[index]
  for field in override:
    if field in command_line:
      raise UserError(
        f'--config.{field}: the sweep() of {path} changes it as well'
      )
  try:
    config.update_from_flattened_dict(override)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    reason = str(error.args[0] if error.args else error)
    raise UserError(
      f'sweep() of {path}, override {index}, {as_text(override)}: {reason}'
    ) from error
  print(f'sweep {index} of 0..{len(overrides) - 1}: {as_text(override)}')
  return override


def read(path: str) -> list[dict]:
  """Reads all overrides of a config file; UserError where it has no sweep()."""
  spec = importlib.util.spec_from_file_location(Path(path).stem, path)
  assert spec and spec.loader, path  # absl has read the file before
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, 'sweep'):
    raise UserError(f'--sweep_index: {path} has no sweep()')
  return [dict(override) for override in module.sweep()]


def as_text(override: dict) -> str:
  """Returns 'a.b=1 c.d=2' for {'a.b': 1, 'c.d': 2}."""
  return ' '.join(f'{field}={value}' for field, value in override.items())
