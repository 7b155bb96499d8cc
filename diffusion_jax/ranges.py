"""Types of parameters with a range of valid values, such as `Size`.

An `Annotated` type carries a `Rule`. Python does not check it; `convert` does,
which programs call that build objects from a user's values.
"""

import ast
import difflib
import numbers
import re
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin


class FlagText(str):
  """A value as a command line has it, to which `convert` gives a type."""


class Misfit(ValueError):
  """A value that a type does not allow.

  place: where it is in the whole, such as [1]; expected: what fits, such as 'an
  integer'; words: all that fit, if they can be listed.
  """

  def __init__(self, place: str, value: object, expected: str, words: Sequence[str] = ()):
    super().__init__(f'{value!r} is not {expected}')
    self.place, self.value = place, value
    self.expected, self.words = expected, words


class Rule(NamedTuple):
  """A condition on the value of a parameter, in words and as a function."""

  text: str  # It completes 'it must be ...'.
  holds: Callable[[Any], bool]


def at_least(low: int) -> Rule:
  """Returns the rule for integers of at least `low`."""

  def holds(value):
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and int(value) >= low

  return Rule(f'an integer of at least {low}', holds)


def within(interval: str) -> Rule:
  """Returns the rule for an interval such as '[0, 1)', which includes 0."""
  low, high = map(float, interval[1:-1].split(','))

  def holds(value):
    if not isinstance(value, numbers.Real):
      return False
    value = float(value)
    above = value >= low if interval[0] == '[' else value > low
    return above and (value <= high if interval[-1] == ']' else value < high)

  return Rule(f'a number in {interval}', holds)


Size = Annotated[int, at_least(1)]
Several = Annotated[int, at_least(2)]
Rows = Annotated[Size, Rule('an integer up to 10^8', lambda n: n <= 10**8)]
Levels = Annotated[Size, Rule('an integer up to 10^5', lambda n: n <= 10**5)]
Count = Annotated[int, at_least(0)]
Finite = Annotated[float, within('(-inf, inf)')]
Positive = Annotated[float, within('(0, inf)')]
NonNegative = Annotated[float, within('[0, inf)')]
Rate = Annotated[float, within('[0, 1)')]
Probability = Annotated[float, within('[0, 1]')]
# sigma / alpha is infinite at alpha = 0.
NoiseRatio = Annotated[float, within('[0, inf]')]
Order = Annotated[Size, Rule('1, 2 or 3', lambda order: order <= 3)]
ImageShape = tuple[Size, Size, Size]
Shape = tuple[Count, ...]
Seed = Annotated[int, Rule('in 0..2^32 - 1', lambda seed: 0 <= seed < 2**32)]
Port = Annotated[int, Rule('a port, 0..65535', lambda port: 0 <= port < 2**16)]


PLAIN = {
  bool: 'True or False',
  int: 'an integer',
  float: 'a number',
  str: 'a word',
  tuple: 'a list such as 1,2',
}
UNIONS, _LISTS = (Union, types.UnionType), (tuple, list, Sequence)


def plain_type(kind: object) -> type:
  """Returns bool, int, float, str or tuple for a type; object for others."""
  origin, args = get_origin(kind), get_args(kind)
  if origin in UNIONS:
    return next((k for k in map(plain_type, args) if k is not object), object)
  if origin is Annotated:
    return plain_type(args[0])
  if origin is Literal:
    return type(args[0])
  if origin in _LISTS or kind in _LISTS:
    return tuple
  return kind if isinstance(kind, type) and kind in PLAIN else object


def convert(value: Any, kind: object, place: str = '') -> Any:
  """Returns a value or a `FlagText` in a type; raises Misfit for another.

  Types other than plain ones, `Literal`, `Annotated` with a `Rule`, and unions
  and sequences of these allow everything. In a union with a `Literal`, a string
  must be one of its words. Whole numbers stay integers in a list of floats.
  """
  origin, args = get_origin(kind), get_args(kind)
  if origin is Annotated:
    value = convert(value, args[0], place)
    for rule in (x for x in args[1:] if isinstance(x, Rule)):
      if not rule.holds(value):
        raise Misfit(place, value, rule.text)
    return value
  if origin in UNIONS:
    return _member(value, args, place)
  if origin is Literal:
    return _word(value, args, place)
  if origin in _LISTS or kind in _LISTS:
    return _list(value, origin, args, place)
  if plain_type(kind) is object:
    return _literal(value) if isinstance(value, FlagText) else value
  if isinstance(value, FlagText):
    value = _parsed(value, kind, in_list=bool(place))
  elif kind is float and value in ('inf', '-inf'):  # JSON has infinities as strings
    value = float(value)
  fits = {int: numbers.Integral, float: numbers.Real}.get(kind, kind)
  is_number = not isinstance(value, bool) or kind is bool
  if not (isinstance(value, fits) and is_number and value == value):
    raise Misfit(place, value, PLAIN[kind])
  if kind is float:
    return value if place and type(value) is int else float(value)
  return int(value) if kind is int else value


def _member(value, kinds, place):
  # The first member that takes the value; or else the error of the first.
  if value is None and type(None) in kinds:
    return None
  plain = [kind for kind in kinds if plain_type(kind) is not object]
  words = [kind for kind in plain if get_origin(kind) is Literal]
  if words and isinstance(value, str):
    plain = words + [k for k in plain if plain_type(k) is not str]
  errors = []
  for kind in plain:
    try:
      return convert(value, kind, place)
    except Misfit as error:
      errors.append(error)
  others = len(kinds) - len(plain) - (type(None) in kinds)
  if errors and not (others and not isinstance(value, (*PLAIN,))):
    raise errors[0]
  return convert(value, object, place)


def _word(value, words, place):
  kind = type(words[0])
  if not isinstance(value, kind):
    raise Misfit(place, value, PLAIN.get(kind, f'one of {words}'))
  if value not in words:
    names = [*map(str, words)]
    raise Misfit(place, value, f'one of {", ".join(names)}', names)
  return words[words.index(value)]


def _list(value, origin, kinds, place):
  if isinstance(value, FlagText):
    inner = value[1:-1] if value[:1] in ('(', '[') and value[-1:] in (')', ']') else value
    pairs = re.findall(r'\s*"([^"]*)"\s*(?=,|$)|([^,]+)', inner)  # "a, b" is one text
    texts = (quoted or bare.strip() for quoted, bare in pairs)
    value = tuple(FlagText(x) for x in texts if x)
  if not isinstance(value, tuple | list):
    raise Misfit(place, value, PLAIN[tuple])
  if origin is not tuple or kinds[-1:] == (...,):
    kinds = (kinds or (object,))[:1] * len(value)
  if len(value) != len(kinds):
    value = tuple(convert(x, object) for x in value)
    raise Misfit(place, value, f'a list of {len(kinds)}')
  pairs = enumerate(zip(value, kinds, strict=True))
  return tuple(convert(x, kind, f'{place}[{i}]') for i, (x, kind) in pairs)


def _parsed(text, kind, in_list):
  # Returns the text unchanged if it is not a value of this kind.
  if kind is bool:
    words = {'true': True, '1': True, 'false': False, '0': False}
    return words.get(text.lower(), str(text))
  number = _literal(text) if in_list and kind is float else None
  try:
    return number if type(number) is int else kind(text)
  except ValueError:
    number = _literal(text) if kind is int and 'e' in text.lower() else None
    if isinstance(number, float) and number.is_integer():
      return int(number)  # 1e3
    return str(text)


def _literal(text):
  try:
    return ast.literal_eval(text.strip())
  except (SyntaxError, ValueError):
    return str(text).strip()


def check_value(name: str, value: object, kind: object) -> None:
  """Raises ValueError if the type does not allow the value; see `convert`."""
  try:
    convert(value, kind)
  except Misfit as error:
    if error.words:
      check_choice(name + error.place, error.value, error.words)
    raise ValueError(f'{name}{error.place} must be {error.expected}, not {error.value!r}') from None


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
  """Raises ValueError that lists the choices unless a value is one of them."""
  choices = tuple(choices)
  if value not in choices:
    hint = near(value, choices)
    raise ValueError(f'{name} {value!r}{hint} is not one of {", ".join(choices)}')


CUTOFF = 0.65  # names are near if difflib's ratio is above this
# What other programs call a field, a choice or a function.
_SYNONYMS = {
  **{'ema': 'average', 'epochs': 'num_steps', 'noise': 'eps', 'epsilon': 'eps'},
  **{'ddpm': 'ancestral', 'euler': 'ddim', 'plms': 'lms', 'dps': 'likelihood_guided'},
  **{'add_noise': 'q_sample', 'vlb': 'variational_bound', 'elbo': 'variational_bound'},
}


def nearest(
  value: object, names: Iterable[str], most: int = 1, cutoff: float = CUTOFF
) -> list[str]:
  """Returns the names that a word may stand for, the nearest first, at most `most`.

  Case does not matter. A word may also be the first part of a name, its
  initials, as lr of learning_rate, or what other programs call it.
  """
  word, by_key = str(value).casefold(), {name.casefold(): name for name in names}
  for stands_for in (
    lambda key: key == word,
    lambda key: key.startswith(f'{word}_'),
    lambda key: '_' in key and word == ''.join(part[:1] for part in key.split('_')),
    lambda key: key == _SYNONYMS.get(word),
  ):
    if found := [name for key, name in by_key.items() if stands_for(key)]:
      return found[:most]
  return [by_key[key] for key in difflib.get_close_matches(word, by_key, most, cutoff)]


def near(value: object, names: Iterable[str]) -> str:
  """Returns " (did you mean 'name'?)", or '' if no name is near."""
  return meant(map(repr, nearest(value, names)))


def meant(words: Iterable[str]) -> str:
  """Returns ' (did you mean a or b?)', or '' without words."""
  hint = ' or '.join(words)
  return f' (did you mean {hint}?)' if hint else ''


def is_file_name(name: str) -> bool:
  """Returns whether a file can have this name, also with an ending added."""
  hidden = name.startswith('.') or not name.isprintable()
  # File systems allow 255 bytes.
  return not hidden and not {*name} & {*'/\\'} and 0 < len(name.encode()) <= 200


FILE = 'the name of a file: 1 to 200 characters, no / or \\, no dot first'
Suffix = Annotated[str, Rule(FILE, lambda name: not name or is_file_name(name))]
