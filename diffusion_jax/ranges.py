"""Types of parameters with a range of valid values, such as `Size`.

An `Annotated` type carries a `Rule`. Python does not check it; programs that
build objects from a user's values do.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple


class Rule(NamedTuple):
  """A condition on the value of a parameter, in words and as a function."""

  text: str  # It completes 'it must be ...'.
  holds: Callable[[Any], bool]


def at_least(low: int) -> Rule:
  """Returns the rule for integers of at least `low`."""
  return Rule(f'an integer of at least {low}', lambda value: value >= low)


def within(interval: str) -> Rule:
  """Returns the rule for an interval such as '[0, 1)', which includes 0."""
  low, high = map(float, interval[1:-1].split(','))

  def holds(value):
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


def is_file_name(name: str) -> bool:
  """Returns whether a file can have this name, also with an ending added."""
  hidden = name.startswith('.') or not name.isprintable()
  # File systems allow 255 bytes.
  return not hidden and not {*name} & {*'/\\'} and 0 < len(name.encode()) <= 200


FILE = 'the name of a file: 1 to 200 characters, no / or \\, no dot first'
FileName = Annotated[str, Rule(FILE, is_file_name)]
