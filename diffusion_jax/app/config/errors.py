"""Errors in a config: one line that names the field and what fits."""

import contextlib
import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from diffusion_jax import ranges
from diffusion_jax.errors import UserError


@contextlib.contextmanager
def from_config(path: str) -> Iterator[None]:
  """Turns an error of a constructor into a UserError about config.path."""
  try:
    yield
  except (ValueError, TypeError, OSError) as error:
    raise UserError(f'config.{path}: {_with_near(str(error))}') from error


def _with_near(message):
  # Adds the nearest name to the library's "... 'value' is not one of a, b".
  match = re.search(r"'([^']*)' is not one of (.*)", message)
  if not match:
    return message
  hint = near(match[1], re.findall(r'\w+', match[2]))
  return message.replace(' is not one of', f'{hint} is not one of', 1)


def near(value: object, names: Collection[str]) -> str:
  """Returns " (did you mean 'name'?)", or '' if no name is near."""
  match = difflib.get_close_matches(str(value), names, n=1, cutoff=0.65)
  return f' (did you mean {match[0]!r}?)' if match else ''


def convert(value: Any, kind: object, path: str) -> Any:
  """Returns the value of a field in its type; see `ranges.convert`."""
  try:
    return ranges.convert(value, kind)
  except ranges.Misfit as error:
    hint = near(error.value, error.words)
    raise UserError(
      f'config.{path}{error.place}={error.value!r}{hint} is not {error.expected}'
    ) from None


def check_one_of(names: Collection[object], path: str, value: object) -> None:
  """Raises UserError for a value that is not one of the names."""
  if value not in (*names,):
    words = [*map(str, names)]
    raise UserError(f'config.{path}={value!r}{near(value, words)} is not one of {", ".join(words)}')


def check_set(path: str, value: object, hint: str) -> None:
  """Raises UserError with a hint unless the field has a value."""
  if value is None or value == '':
    raise UserError(f'config.{path} is not set: {hint}')


def check_section(section: object, path: str) -> None:
  """Raises UserError for a value that is not a section."""
  if isinstance(section, ranges.FlagText):
    raise UserError(f'config.{path} is a section: set one of its fields')
  if not isinstance(section, Mapping):
    raise UserError(f'config.{path}={section!r} is not a section with fields')


def no_field(
  path: str, names: Collection[str], choice: str = '', everywhere: Collection[str] = ()
) -> UserError:
  """Returns the error about a field that does not exist.

  names: the fields of its section; choice: the name in its section; everywhere:
  the paths of all fields, to suggest one of them.
  """
  *parents, name = path.split('.')
  names = sorted({*names} - {'name' if choice else '', 'facts'})
  elsewhere = [other for other in everywhere if other.endswith(f'.{name}')]
  hint = near(name, names)
  if not hint and elsewhere:
    nearest = difflib.get_close_matches(path, elsewhere, n=2, cutoff=0.0)
    hint = f' (did you mean {" or ".join(map(repr, nearest))}?)'
  owner = '.'.join(['config', *parents]) if parents else 'the config'
  owner += choice and f'={choice}'
  others = f'; {owner} has {", ".join(names) or "none"}'
  return UserError(f'there is no field config.{path}{hint or others}')
