"""Measures a compiled program: memory, collectives, traffic, products."""

import collections
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.stages import Compiled

from diffusion_jax.networks.cpu.bilinear import reference

KINDS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)


class Memory(NamedTuple):
  """Bytes on one device: arguments, temporaries, and the peak."""

  arguments: int
  temporaries: int
  peak: int


def memory(compiled: Compiled) -> Memory:
  """Returns the memory that a compiled program needs on each device."""
  stats = compiled.memory_analysis()
  assert stats is not None  # XLA has it for CPUs, GPUs and TPUs
  arguments = stats.argument_size_in_bytes
  temporaries = stats.temp_size_in_bytes
  new = stats.output_size_in_bytes - stats.alias_size_in_bytes
  peak = getattr(stats, 'peak_memory_in_bytes', 0)
  # Temporaries are one block, reserved while the program runs.
  peak = max(peak, arguments + temporaries + new)
  return Memory(arguments, temporaries, peak)


# Parsing.


class Operation(NamedTuple):
  """One line of a program: name = type kind(operands), attributes."""

  name: str
  kind: str
  type: str
  operands: list[str]
  attributes: str
  root: bool


Computation = Mapping[str, Operation]

_HEAD = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_LINE = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$')


class Program:
  """The operations of a compiled program, parsed from its text.

  computations: operations by name, by computation. times: how often each
  computation runs, without computations of fusions and reductions. unknown: the
  number of loops with an unknown number of repetitions.
  """

  def __init__(self, hlo: str):
    self.computations: dict[str, dict[str, Operation]] = {}
    entry, name = '', ''
    for line in hlo.splitlines():
      head = _HEAD.match(line)
      if head:
        name = head[2]
        entry = name if head[1] else entry
        continue
      match = _LINE.match(line)
      if match:
        operation = _operation(*match.groups())
        here = self.computations.setdefault(name, {})
        here[operation.name] = operation
    self.unknown = 0
    self.times: dict[str, int] = collections.Counter()
    self._visit(entry, 1)

  def _visit(self, name: str, times: int) -> None:
    self.times[name] += times
    for operation in self.computations.get(name, {}).values():
      if operation.kind == 'while':
        called = _called(operation)
        count = self._repetitions(operation)
        self._visit(called['body'], times * count)
        self._visit(called['condition'], times * (count + 1))
      elif operation.kind in ('call', 'async-start', 'conditional'):
        for other in _called(operation).values():
          self._visit(other, times)

  def _repetitions(self, loop: Operation) -> int:
    count = re.search(r'known_trip_count\D*(\d+)', loop.attributes)
    if count:
      return int(count[1])
    # The condition compares a counter from 0 with its only constant.
    condition = self.computations.get(_called(loop)['condition'], {})
    constants = [
      re.match(r'\d+', operation.operands[0])
      for operation in condition.values()
      if operation.kind == 'constant' and operation.type.startswith('s32[]')
    ]
    if len(constants) == 1 and constants[0]:
      return int(constants[0][0])
    self.unknown += 1
    return 1

  def run(self) -> Iterator[tuple[Operation, Computation, int]]:
    """Yields each operation that runs, its computation, and how often."""
    for name, times in self.times.items():
      computation = self.computations.get(name, {})
      for operation in computation.values():
        yield operation, computation, times

  def body(self, operation: Operation) -> Computation:
    """Returns the computation of a fusion."""
    called = _called(operation)
    return self.computations.get(called.get('calls', ''), {})


def _operation(root, name, type, kind, rest):
  depth, end = 1, len(rest)
  for i, letter in enumerate(rest):
    depth += (letter == '(') - (letter == ')')
    if not depth:
      end = i
      break
  inside = rest[:end]
  operands = re.findall(r'%([\w.\-]+)', inside) or [inside]
  return Operation(name, kind, type, operands, rest[end + 1 :], bool(root))


def _called(operation):
  # Returns {attribute: name of a computation}.
  text = operation.attributes
  names = dict(
    re.findall(r'\b(\w+)=%([\w.\-]+)', text)
    or re.findall(r'\b(body|condition|calls|to_apply)=([\w.\-]+)', text)
  )
  branches = re.search(r'branch_computations=\{(.*?)\}', text)
  for i, name in enumerate(branches[1].split(', ') if branches else ()):
    names[f'branch {i}'] = name.lstrip('%')
  return names


def shapes(type: str) -> Iterator[tuple[int, bool]]:
  """Yields (bytes, whether they stay on the chip) of each array of a type."""
  pattern = r'([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?'
  for dtype, shape, layout in re.findall(pattern, type):
    if dtype != 'token':
      count = math.prod(int(n) for n in shape.split(',') if n)
      yield (count * bits(dtype) + 7) // 8, 'S(' in layout


def size(type: str) -> int:
  """Returns the bytes of all arrays of a type."""
  return sum(count for count, _ in shapes(type))


def bits(dtype: str) -> int:
  """Returns the bits of a number of an HLO type, such as 32 for f32."""
  count = re.match(r'[a-z]+(\d+)', dtype)
  return int(count[1]) if count else 8  # pred


# Collectives.


class Collective(NamedTuple):
  """A collective operation of a compiled program.

  arrays: the number of arrays. bytes: their size, of the results or, for a
  reduce-scatter, of the operands. group: the number of devices that take part;
  machines: the number of machines they are on.
  """

  kind: str
  arrays: int
  bytes: int
  group: int
  machines: int = 1


def find(
  hlo: str | Program, num_devices: int, machine: int = 0
) -> list[Collective]:
  """Returns all collectives of a compiled program or of its text.

  A collective in a loop of n repetitions is listed n times. Collectives inside
  fusions, which TPUs have, are included. machine: the devices of one machine.
  """
  program = Program(hlo) if isinstance(hlo, str) else hlo
  collectives, seen = [], set()
  for operation, computation, times in program.run():
    here, scattered = computation, False
    inside = [operation]
    if operation.kind == 'fusion':
      here = program.body(operation)
      inside = list(here.values())
      scattered = 'all-reduce-scatter' in operation.attributes
    for one in inside:
      kind = one.kind.removesuffix('-start')
      if kind not in KINDS:
        continue
      # On a TPU a second fusion may continue a collective of the first.
      channel = re.search(r'channel_id=(\d+)', one.attributes)
      if channel and here is not computation:
        if (id(computation), channel[1]) in seen:
          continue
        seen.add((id(computation), channel[1]))
      collective = _collective(
        one, here, kind, num_devices, machine or num_devices
      )
      if scattered:  # The fusion keeps only a part of the sum.
        collective = collective._replace(kind='reduce-scatter')
      collectives += [collective] * times
  return collectives


def _collective(operation, computation, kind, num_devices, machine):
  group, machines = _group(operation.attributes, num_devices, machine)
  given = [
    count
    for name in operation.operands
    if name in computation
    for count, _ in shapes(computation[name].type)
  ]
  sizes = [count for count, _ in shapes(operation.type)]
  if operation.kind != kind and kind != 'all-reduce' and given:
    # The result also contains the operands, and numbers for the hardware.
    sizes = sizes[len(given) : 2 * len(given)]
  whole = group if kind == 'reduce-scatter' else 1
  return Collective(kind, len(sizes), sum(sizes) * whole, group, machines)


def _group(text, num_devices, machine):
  # Returns (devices, machines) of a group: of replica_groups={{0,1},{2,3}},
  # =[groups,size]<=[dims]T(axes), or =mesh['a'=2,'b'=4], ... {'a'}.
  axes = re.search(r'replica_groups=mesh\[(.*?)\](.*?)\{(.*?)\}', text)
  listed = re.search(r'replica_groups=\{\{([\d,]+)\}', text)
  tiled = re.search(
    r'replica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', text
  )
  pairs = re.search(r'source_target_pairs=\{(\{.*?\})\}', text)
  pairs = re.findall(r'(\d+),(\d+)', pairs[1]) if pairs else []
  first = np.arange(num_devices)
  if axes:
    sizes = dict(re.findall(r"('\w+')=(\d+)", axes[1]))
    # 'a':(1)2 is a part of an axis: of size 2, after a part of size 1.
    parts = re.findall(r"('\w+')(?::\((\d+)\)(\d+))?", axes[3])
    first = np.arange(math.prod(map(int, sizes.values())))
    first = first.reshape([int(n) for n in sizes.values()])
    taken = {axis: (int(a or 1), int(b or sizes[axis])) for axis, a, b in parts}
    for i, (axis, count) in enumerate(sizes.items()):
      before, n = taken.get(axis, (1, 1))
      # On an axis of before x n x after, a group's devices are `after` apart.
      after = int(count) // (before * n)
      index = np.arange(n) * after
      first = np.take(first, index, axis=i)
    first = first.reshape(-1)
  elif pairs:
    crosses = any(int(a) // machine != int(b) // machine for a, b in pairs)
    return num_devices, 1 + crosses
  elif listed:
    first = np.array(listed[1].split(','), int)
  elif tiled:
    dims = [int(n) for n in tiled[2].split(',')]
    order = [int(n) for n in (tiled[3] or '').split(',') if n]
    every = np.arange(math.prod(dims)).reshape(dims)
    every = every.transpose(order or range(len(dims)))
    first = every.reshape(-1, int(tiled[1]))[0]
  return len(first), len(set(first // machine))


def wire_bytes(collective: Collective) -> float:
  """Returns the bytes that each device sends with the ring algorithm."""
  return _ring(collective, collective.group)


def between_bytes(collective: Collective) -> float:
  """Returns the least number of bytes each device sends to other machines.

  The devices of a machine share its traffic.
  """
  share = collective.group / collective.machines
  return _ring(collective, collective.machines) / share


def _ring(collective, n):
  if collective.kind == 'collective-permute':
    return collective.bytes if n > 1 else 0
  twice = 2 if collective.kind == 'all-reduce' else 1
  return twice * (n - 1) / n * collective.bytes


# Memory traffic.

# These move no data: they name arrays, or end a started operation.
_FREE = {
  'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while',
  'conditional', 'call', 'after-all', 'partition-id', 'replica-id',
  'opt-barrier', 'add-dependency', 'async-start', 'async-update', 'domain',
}  # fmt: skip
_SLICES = 'dynamic-slice', 'slice', 'gather'


def traffic(program: Program, cache: float = 0.0) -> float:
  """Returns the bytes that a device reads from and writes to its memory.

  Every operation reads its operands once and writes its results once, except
  arrays that the compiler keeps on the chip. A slice reads only its part. For a
  lower bound, cache is the number of bytes of each array that the device's
  cache may hold.
  """
  total = 0.0
  for operation, computation, times in program.run():
    if operation.kind in _FREE or operation.kind.endswith('-done'):
      continue
    moved = _moved(program, operation, computation)
    total += times * sum(max(count - cache, 0.0) for count in moved)
  return total


def _moved(program, operation, computation):
  # Yields the bytes of each array that an operation reads or writes.
  body = program.body(operation) if operation.kind == 'fusion' else {}
  inputs = _inputs(body)
  kept = {}  # unfinished collectives, which a fusion passes on
  if any(inner.kind in KINDS for inner in body.values()):
    pattern = r'\{(\d+)\}: \((\d+), \{\}\)'
    kept = dict(re.findall(pattern, operation.attributes))
  for i, name in enumerate(operation.operands):
    source = computation.get(name)
    if source is None or str(i) in kept.values():
      continue
    if any(chip for _, chip in shapes(source.type)):
      continue
    count = size(source.type)
    if i in inputs:
      count = min(count, _read(program, inputs[i], body))
    elif operation.kind in _SLICES and i == 0:
      count = min(count, size(operation.type))
    elif operation.kind == 'dynamic-update-slice' and i == 0:
      count = 0
    yield count
  if operation.kind.endswith('-start'):
    results = list(shapes(operation.type))
    yield sum(count for count, chip in results[:1] if not chip)
    return
  if operation.kind == 'custom-call':  # Leaves out the workspace.
    results = [*shapes(re.sub(r'\bs8\[[\d,]*\]', '', operation.type))]
  else:
    results = [*shapes(operation.type)]
  updates = _updates(operation, computation, body)
  for i, (count, chip) in enumerate(results):
    if not chip and str(i) not in kept:
      yield min(count, updates.get(i, count))


def _inputs(body):
  # Returns {index: name} of the parameters of a computation.
  return {
    int(inner.operands[0]): inner.name
    for inner in body.values()
    if inner.kind == 'parameter'
  }


def _read(program, name, body):
  # Returns the bytes of a fusion's parameter that the fusion reads.
  total = 0
  for user in body.values():
    if name not in user.operands:
      continue
    first = user.operands[0] == name
    if user.kind in _SLICES and first:
      total += size(user.type)
    elif user.kind == 'bitcast':
      total += _read(program, user.name, body)
    elif user.kind == 'fusion':
      inner = program.body(user)
      for i, given in _inputs(inner).items():
        if user.operands[i] == name:
          total += _read(program, given, inner)
    elif user.kind == 'dynamic-update-slice' and first:
      pass
    else:
      return math.inf
  return total


def _updates(operation, computation, body):
  # Returns {index of a result: bytes written}, of results updated in place.
  if operation.kind == 'dynamic-update-slice':
    update = computation.get(operation.operands[1])
    return {0: size(update.type)} if update else {}
  root = next((inner for inner in body.values() if inner.root), None)
  if root is None:
    return {}
  names = root.operands if root.kind == 'tuple' else [root.name]
  written = {}
  for i, name in enumerate(names):
    inner = body.get(name)
    while inner is not None and inner.kind == 'bitcast':
      inner = body.get(inner.operands[0])
    if inner is not None and inner.kind == 'dynamic-update-slice':
      written[i] = size(body[inner.operands[1]].type)
  return written


# Products.


def flops(jaxpr: Any) -> dict[str, float]:
  """Returns the FLOP of all products and convolutions, by dtype.

  Each term of a sum is 2 FLOP. Scans count as often as they repeat, other loops
  once; of several branches the longest counts. jaxpr: the whole program, for
  all devices together.
  """
  total: dict[str, float] = collections.defaultdict(float)
  for equation in getattr(jaxpr, 'jaxpr', jaxpr).eqns:
    name, params = equation.primitive.name, equation.params
    count = _COUNTS.get(name)
    if count is not None:
      dtype = equation.invars[0].aval.dtype.name
      total[dtype] += count(equation.outvars, equation.invars, params)
      continue
    plain = reference(equation.primitive)
    if plain is not None:
      avals = [x.aval for x in equation.invars]
      times = 1
      for _ in range(params['batch']):  # axes that vmap added
        times *= avals[0].shape[0]
        avals = [aval.update(shape=aval.shape[1:]) for aval in avals]
      inner = jax.make_jaxpr(
        lambda a, b, f=plain, p=params: f(
          a, b, shape=p['shape'][p['batch'] :], how=p['how'], num_devices=None
        )
      )(*avals)
      _add(total, flops(inner), times)
    elif name == 'cond':
      branches = [flops(branch) for branch in params['branches']]
      _add(total, max(branches, key=lambda counts: sum(counts.values())))
    else:
      times = params['length'] if name == 'scan' else 1
      for inner in _jaxprs(params.values()):
        _add(total, flops(inner), times)
  return dict(total)


def _add(total, more, times=1):
  for dtype, count in more.items():
    total[dtype] += times * count


def _jaxprs(values):
  for value in values:
    if hasattr(value, 'eqns') or hasattr(value, 'jaxpr'):
      yield value
    elif isinstance(value, (tuple, list)):
      yield from _jaxprs(value)


def _dot(results, operands, params):
  contracted, _ = params['dimension_numbers'][0]
  terms = math.prod(operands[0].aval.shape[axis] for axis in contracted)
  return 2.0 * results[0].aval.size * terms


def _attention(results, operands, params):
  # cuDNN's, forward: two products of queries [B, T, heads, d] and keys.
  tokens = operands[1].aval.shape[1]
  return 4.0 * operands[0].aval.size * tokens


def _attention_gradient(results, operands, params):
  # It computes the weights again: five products.
  return 2.5 * _attention(results, operands, params)


def _convolution(results, operands, params):
  # The gradient of a strided convolution has zeros between its inputs.
  numbers, kernel = params['dimension_numbers'], operands[1].aval.shape
  terms = math.prod(kernel[axis] for axis in numbers.rhs_spec[1:])
  terms /= math.prod(params['lhs_dilation']) * params['batch_group_count']
  return 2.0 * results[0].aval.size * terms


_COUNTS = {
  'dot_general': _dot,
  'conv_general_dilated': _convolution,
  'dot_product_attention_fwd_wrapper': _attention,
  'dot_product_attention_bwd_wrapper': _attention_gradient,
}
