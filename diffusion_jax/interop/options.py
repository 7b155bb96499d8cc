"""Options of other projects, flags and fields, by their names there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_jax.interop.files import read_json
from diffusion_jax.interop.names import listed


def with_options(
  defaults: Mapping[str, Any], options: Mapping[str, Any], of: str
) -> dict[str, Any]:
  """Returns defaults with options in their place.

  Raises ValueError for an option that is not in defaults, with the known ones,
  and for one of another kind: a bool, a number, a text or several of them.
  """
  unknown = [name for name in options if name not in defaults]
  if unknown:
    raise ValueError(
      f'unknown options of {of}: {listed(unknown)}; known are '
      f'{", ".join(defaults)}'
    )
  for name, value in options.items():
    expected = _kind(defaults[name])
    if _kind(value) != expected:
      raise ValueError(f'the option {name}={value!r} of {of}: give {expected}')
  return dict(defaults) | dict(options)


def _kind(value):
  if isinstance(value, bool):
    return 'True or False'
  if isinstance(value, str):
    return 'a text'
  return 'a number' if isinstance(value, int | float) else 'several numbers'


def beside(path: str | Path, options: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the options in the .json file beside weights, and `options`.

  The latter win. Raises ValueError if there is no such file and options have no
  img_resolution.
  """
  path = Path(path).with_suffix('.json')
  found = read_json(path) if path.exists() else {}
  if not found and 'img_resolution' not in options:
    raise ValueError(
      f'{path} is missing: it has the options of the network, and is written '
      'with the weights (docs/weights.md)'
    )
  return found | dict(options)


def several(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
  """Returns options in which those of `names` are tuples of numbers.

  They may be a number, several, or a text such as '32,16,8'. Raises ValueError
  for a text of other things.
  """
  return {
    name: _numbers(name, value) if name in names else value
    for name, value in options.items()
  }


def _numbers(name, value):
  parts = value.split(',') if isinstance(value, str) else value
  parts = [parts] if isinstance(parts, int | float) else parts
  try:
    numbers = [float(part) for part in parts if part != '']
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'the option {name}={value!r}: give numbers, such as 32,16,8'
    ) from error
  return tuple(int(x) if x.is_integer() else x for x in numbers)
