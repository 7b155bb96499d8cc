"""Types of parameters with a range of valid values, such as `Size`.

An `Annotated` type carries a `Rule`. Python does not check it; `check_value`
does, and so do programs that build objects from a user's values.
"""

import numbers
import types
from collections.abc import Callable, Iterable, Sequence
from typing import (
  Annotated,
  Any,
  Literal,
  NamedTuple,
  Union,
  get_args,
  get_origin,
)


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
Count = Annotated[int, at_least(0)]
Finite = Annotated[float, within('(-inf, inf)')]
Positive = Annotated[float, within('(0, inf)')]
NonNegative = Annotated[float, within('[0, inf)')]
Rate = Annotated[float, within('[0, 1)')]
Probability = Annotated[float, within('[0, 1]')]
# sigma / alpha is infinite at alpha = 0.
NoiseRatio = Annotated[float, within('[0, inf]')]
ImageShape = tuple[Size, Size, Size]


def check_value(name: str, value: Any, kind: object) -> None:
  """Raises ValueError if the type does not allow the value.

  Types other than `Literal`, `Annotated` with a `Rule`, and unions and
  sequences of these allow everything. A `Literal` in a union applies to strings
  only, None is allowed by each union.
  """
  origin, args = get_origin(kind), get_args(kind)
  if origin is Literal:
    check_choice(name, value, args)
  elif origin is Annotated:
    inner, rule = args
    check_value(name, value, inner)
    if not rule.holds(value):
      raise ValueError(f'{name} must be {rule.text}, not {value!r}')
  elif origin in (Union, types.UnionType):
    for member in args if value is not None else ():
      if get_origin(member) is not Literal or isinstance(value, str):
        check_value(name, value, member)
  elif origin in (tuple, Sequence):
    kinds = args if origin is tuple else args * len(value)
    if len(value) != len(kinds):
      raise ValueError(f'{name} must be {len(kinds)} numbers, not {value!r}')
    for i, (element, kind) in enumerate(zip(value, kinds, strict=True)):
      check_value(f'{name}[{i}]', element, kind)


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
  """Raises ValueError that lists the choices unless a value is one of them."""
  choices = tuple(choices)
  if value not in choices:
    raise ValueError(f'{name} {value!r} is not one of {", ".join(choices)}')


def is_file_name(name: str) -> bool:
  """Returns whether a file can have this name, also with an ending added."""
  hidden = name.startswith('.') or not name.isprintable()
  # File systems allow 255 bytes.
  return not hidden and not {*name} & {*'/\\'} and 0 < len(name.encode()) <= 200


FILE = 'the name of a file: 1 to 200 characters, no / or \\, no dot first'
FileName = Annotated[str, Rule(FILE, is_file_name)]
