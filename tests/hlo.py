"""Reads compiled programs: their operations and collectives."""

import math
import re
from typing import NamedTuple

KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
_LINE = re.compile(r'^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\((.*)$')
_FUSED = re.compile(r'^%?[\w.\-]*(?:fused|region|add|max)[\w.\-]* \(')


class Operation(NamedTuple):
  """A line of a program: kind, type of the results, operands and attributes."""

  kind: str
  type: str
  rest: str


def operations(text: str) -> list[Operation]:
  """Returns all operations outside fusions and reductions, each once."""
  found, fused = [], False
  for line in text.splitlines():
    if line.endswith('{') and not line.startswith(' '):
      fused = bool(_FUSED.match(line))
    elif (match := _LINE.match(line)) and not fused:
      found.append(Operation(match[2], match[1], match[3]))
  return found


def elements(type: str, dtype: str = r'\w+') -> list[int]:
  """Returns the number of elements of each array of a dtype in a type."""
  shapes = re.findall(rf'\b{dtype}\[([\d,]*)\]', type)
  return [math.prod(map(int, filter(None, x.split(',')))) for x in shapes]


def size(type: str) -> int:
  """Returns the bytes of all arrays of a type."""
  return sum(
    count * int(bits) // 8
    for bits in set(re.findall(r'\b[a-z]+(\d+)\[', type))
    for count in elements(type, f'[a-z]+{bits}')
  )


class Collective(NamedTuple):
  """A collective of a synchronous program: its kind, and bytes of its results.

  group: the number of devices that take part.
  """

  kind: str
  bytes: int
  group: int

  @property
  def sent(self) -> float:
    """Returns the bytes that a device sends by the ring algorithm."""
    n = self.group
    whole = n if self.kind == 'reduce-scatter' else 1
    twice = 2 if self.kind == 'all-reduce' else 1
    return twice * whole * (n - 1) / n * self.bytes


def collectives(text: str) -> list[Collective]:
  """Returns the collectives of a program for simulated devices."""
  return [
    Collective(x.kind, size(x.type), _group(x.rest)) for x in operations(text) if x.kind in KINDS
  ]


def _group(text):
  # Of replica_groups={{0,1},{2,3}}, =[groups,size]<=..., =mesh['a'=2]{'a'}.
  if listed := re.search(r'replica_groups=\{\{([\d,]+)\}', text):
    return len(listed[1].split(','))
  if tiled := re.search(r'replica_groups=\[\d+,(\d+)\]', text):
    return int(tiled[1])
  mesh = re.search(r'replica_groups=mesh\[(.*?)\].*?\{(.*?)\}', text)
  assert mesh is not None
  sizes = dict(re.findall(r"('\w+')=(\d+)", mesh[1]))
  return math.prod(int(sizes[axis]) for axis in mesh[2].split(','))


def chained(text: str) -> list[str]:
  """Returns YNNPACK's fusions of a CPU program that hold two sums or products.

  Each is its operations, such as 'dot multiply reduce'. The maximum of a
  softmax does not count as a sum.
  """
  bodies = dict(re.findall(r'^%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}', text, re.M | re.S))
  sums = {name for name, body in bodies.items() if re.search(r'ROOT .* add\(', body)}
  found = []
  for name in re.findall(r'calls=%?([\w.\-]+),[^\n]*__ynn_fusion', text):
    lines = [_LINE.match(line) for line in bodies[name].splitlines()]
    kinds = [match[2] for match in lines if match]
    applied = re.findall(r'to_apply=%?([\w.\-]+)', bodies[name])
    if kinds.count('dot') + sum(x in sums for x in applied) > 1:
      found.append(' '.join(x for x in kinds if x not in ('parameter', 'constant')))
  return found
