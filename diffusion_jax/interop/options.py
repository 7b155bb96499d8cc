"""Options of other projects, flags and fields, by their names there."""

import ast
import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diffusion_jax.aliases import Json, Tree
from diffusion_jax.interop.names import listed, require
from diffusion_jax.interop.weight_files import read_json
from diffusion_jax.ranges import FlagText, Misfit, convert, near

Options = Tree
# {option: the values that have a counterpart here}; or {option: the reason why
# its value does not have one, '' if it has one}.
Allowed = Mapping[str, Collection[object] | str]
# {field of ours: its option}, or {field: (option, {its value: ours})}.
OptionFields = Mapping[str, str | tuple[str, Mapping[Any, Any]]]


def of_text(text: str) -> Json:
  """Parses 'a=1 b=x' to {'a': 1, 'b': 'x'}; raises ValueError."""
  options = {}
  for part in shlex.split(text):
    name, sign, value = part.lstrip('-').partition('=')
    if not sign or not name.isidentifier():
      raise ValueError(
        f'{part!r} is not name=value; several are separated by spaces: '
        "'image_size=64 class_cond=True'"
      )
    try:
      given = ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a word
      given = value
    if options.setdefault(name, given) != given:
      raise ValueError(f'{name} has two values, {options[name]} and {given}: give one of them')
  return options


def models(text: str) -> dict[str, Options]:
  """Returns {model: its options} from lines of a name, options such as a=1, and earlier names.

  An earlier name stands for the options of its line; the last of equal options wins.
  """
  options: dict[str, Options] = {}
  for name, *words in (line.split() for line in text.strip().splitlines()):
    options[name] = {}
    for word in words:
      options[name] = {**options[name], **(of_text(word) if '=' in word else options[word])}
  return options


def complete(
  of: str,
  defaults: Options,
  given: Options,
  allowed: Callable[[SimpleNamespace], Allowed] = lambda options: {},
  fields: OptionFields | None = None,
) -> SimpleNamespace:
  """Returns the options of a network: the given ones, and defaults.

  of: name of the network in messages. Raises ValueError for an option that is
  not in `defaults`, and for a value that `allowed` or `fields` do not have.
  """
  check_known(of, defaults, given)
  options = SimpleNamespace(**{**defaults, **given})
  rows = (_row(row) for row in (fields or {}).values())
  known = {option: tuple(values) for option, values in rows if values}
  check(of, vars(options), {**known, **allowed(options)})
  return options


def typed(of: str, defaults: Options, given: Options) -> Json:
  """Returns the given options in the types of the defaults.

  If the default is a tuple, a number or a string such as '32,16,8' becomes
  one. Raises ValueError for a value of another type.
  """
  return {n: _typed(of, n, x, defaults.get(n)) for n, x in given.items()}


def _typed(of, name, value, default):
  # Returns the value in the type of the default; None has no type.
  if default is None:
    return value
  kind, given, expected = type(default), value, ''
  if kind is tuple:
    expected = 'numbers, such as 32,16,8'
    given = FlagText(value) if isinstance(value, str) else value
    given = (given,) if isinstance(value, int | float) else given
    kind = tuple[float, ...]
  try:
    made = convert(given, float if kind is int else kind)
  except Misfit as error:
    raise ValueError(
      f'{of}: the option {name}={value!r} must be {expected or error.expected}'
    ) from None
  return made if isinstance(default, tuple) else value


def check_known(of: str, known: Collection[str], given: Collection[str]) -> None:
  """Raises ValueError for given names that are not among the known ones."""
  unknown = [name for name in given if name not in known]
  require(
    not unknown,
    f'unknown options of {of}: {listed(unknown)}; known are {", ".join(known) or "none"}',
  )


def check(of: str, options: Options, allowed: Allowed, where: str = 'here') -> None:
  """Raises ValueError for the first option without a counterpart.

  The message says which values have one, or the reason.
  """
  for name, rule in allowed.items():
    reason = rule
    if not isinstance(rule, str):
      known = ' or '.join(map(repr, rule))
      reason = '' if options[name] in rule else f'it can be {known}'
    require(not reason, f'{of}: {name}={options.get(name)!r} has no counterpart {where}: {reason}')


def of_model(models: Mapping[str, Options], name: str, hint: str) -> Options:
  """Returns the options of a published model; ValueError for another name."""
  known = ', '.join(models)
  what = f'the model {name!r}{near(name, models)}'
  require(name in models, f'{what} is not one of {known}: {hint}')
  return models[name]


def fields_of(options: SimpleNamespace, fields: OptionFields) -> Json:
  """Returns the fields of our network."""
  found = {}
  for ours, row in fields.items():
    option, values = _row(row)
    value = vars(options)[option]
    found[ours] = values[value] if values else value
  return found


def options_of(network: object, fields: OptionFields) -> Json:
  """Returns the options that the fields of our network are there."""
  found = {}
  for ours, row in fields.items():
    option, values = _row(row)
    value = getattr(network, ours)
    back = {here: there for there, here in values.items()}
    found[option] = back.get(value) if values else value
  return found


def _row(row):
  return (row, {}) if isinstance(row, str) else row


def beside(path: str | Path, options: Options) -> Json:
  """Returns the options in the .json file next to weights, and `options`.

  The latter win. Raises ValueError if the file is missing and options have no
  img_resolution.
  """
  path = Path(path).with_suffix('.json')
  stored = read_json(path) if path.exists() else {}
  require(
    bool(stored) or 'img_resolution' in options,
    f'{path} is missing: it contains the options of the network, and is '
    'written together with the weights (docs/weights.md)',
  )
  return stored | dict(options)
