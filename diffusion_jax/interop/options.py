"""Options of other projects, flags and fields, by their names there."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diffusion_jax.interop.files import read_json
from diffusion_jax.interop.names import listed

# By option, the values that have a counterpart here; or why the value that it
# has is without one, '' if it has one.
Allowed = Mapping[str, Collection[Any] | str]


def complete(
  of: str,
  defaults: Mapping[str, Any],
  given: Mapping[str, Any],
  allowed: Callable[[SimpleNamespace], Allowed] = lambda options: {},
) -> SimpleNamespace:
  """Returns the options of a network: the given ones, and defaults.

  Where the default is a tuple, a number and a text such as '32,16,8' become
  one. Raises ValueError for an option that is not in `defaults`, one of another
  type, and one that `allowed` refuses; `of` names the network in messages.
  """
  check_known(of, defaults, given)
  typed = {n: _typed(of, n, x, defaults[n]) for n, x in given.items()}
  options = SimpleNamespace(**{**defaults, **typed})
  check(of, vars(options), allowed(options))
  return options


def check_known(
  of: str, known: Collection[str], given: Collection[str]
) -> None:
  """Raises ValueError for given names that are not among the known ones."""
  unknown = [name for name in given if name not in known]
  if unknown:
    raise ValueError(
      f'unknown options of {of}: {listed(unknown)}; known are '
      f'{", ".join(known) or "none"}'
    )


def check(
  of: str, options: Mapping[str, Any], allowed: Allowed, where: str = 'here'
) -> None:
  """Raises ValueError for the first option without a counterpart.

  The message says which values have one, or the reason.
  """
  for name, rule in allowed.items():
    reason = rule
    if not isinstance(rule, str):
      known = ' or '.join(map(repr, rule))
      reason = '' if options[name] in rule else f'it can be {known}'
    if reason:
      raise ValueError(
        f'{of}: {name}={options[name]!r} has no counterpart {where}: {reason}'
      )


def of_model(
  models: Mapping[str, dict[str, Any]], name: str, hint: str
) -> dict[str, Any]:
  """Returns the options of a published model; ValueError for another name."""
  if name not in models:
    raise ValueError(
      f'the model {name!r} is not one of {", ".join(models)}: {hint}'
    )
  return models[name]


def fields_of(
  options: SimpleNamespace, fields: Mapping[str, str]
) -> dict[str, Any]:
  """Returns fields of ours; `fields` has the option for each."""
  return {ours: getattr(options, theirs) for ours, theirs in fields.items()}


def beside(path: str | Path, options: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the options in the .json file next to weights, and `options`.

  The latter win. Raises ValueError if there is no such file and options have no
  img_resolution.
  """
  path = Path(path).with_suffix('.json')
  stored = read_json(path) if path.exists() else {}
  if not stored and 'img_resolution' not in options:
    raise ValueError(
      f'{path} is missing: it has the options of the network, and is written '
      'with the weights (docs/weights.md)'
    )
  return stored | dict(options)


def _typed(of, name, value, default):
  # Returns the value in the type of the default; None has no type.
  if isinstance(default, tuple):
    parts = value.split(',') if isinstance(value, str) else value
    parts = [parts] if isinstance(parts, int | float) else parts
    try:
      numbers = [float(part) for part in parts if part != '']
      return tuple(int(x) if x.is_integer() else x for x in numbers)
    except (TypeError, ValueError):
      expected = 'numbers, such as 32,16,8'
  else:
    expected = _kind(default)
    if default is None or _kind(value) == expected:
      return value
  raise ValueError(f'{of}: the option {name}={value!r} must be {expected}')


def _kind(value):
  if isinstance(value, bool):
    return 'True or False'
  if isinstance(value, str):
    return 'a text'
  return 'a number' if isinstance(value, int | float) else 'several numbers'
