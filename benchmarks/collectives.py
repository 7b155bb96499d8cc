r"""Bytes that devices send in a training step, and bytes that each holds.

  python -m benchmarks.collectives --config=configs/cifar10.py --mesh=1,8

compiles the step on simulated devices (--devices of the CPU), without any array
of it, and counts the collectives of the optimised HLO, as often as the loops
they are in repeat them. XLA may choose others on a GPU or TPU; the arrays are
the same.
"""

import argparse
import collections
import math
import os
import re
from typing import Any, NamedTuple

KINDS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)


class Collective(NamedTuple):
  """Holds a collective operation of a compiled program and its bytes.

  Of a reduce-scatter: of its operands, the sums that are scattered.
  """

  kind: str
  arrays: int
  bytes: int
  group: int  # devices that take part


def find(hlo: str, num_devices: int) -> list[Collective]:
  """Returns all collectives in the text of a compiled program.

  One in a loop of n repetitions, a number that XLA knows, is there n times.
  """
  counts = repetitions(hlo)
  return [
    collective
    for name, text in computations(hlo).items()
    for collective in find_in(text, num_devices) * counts.get(name, 1)
  ]


def computations(hlo: str) -> dict[str, str]:
  """Returns the text of each computation of a program, by its name."""
  # %name (arguments) -> result {, and } alone in a line; others are of none
  parts = re.split(r'^(?:ENTRY )?%?([\w.\-]+) \(.*\{$', hlo, flags=re.MULTILINE)
  return {'': parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def repetitions(hlo: str) -> dict[str, int]:
  """Returns how often each computation that a loop repeats is run."""
  texts = computations(hlo)
  inner: dict[str, list[tuple[str, int]]] = {}
  for name, text in texts.items():
    for line in text.splitlines():
      body = re.search(r' while\(.*body=%?([\w.\-]+)', line)
      known = re.search(r'known_trip_count\D*(\d+)', line)
      if body:
        count = int(known[1]) if known else 1
        inner.setdefault(name, []).append((body[1], count))
  counts = {}

  def visit(name, times):
    for body, count in inner.get(name, []):
      counts[body] = counts.get(body, 0) + times * count
      visit(body, times * count)

  bodies = {body for found in inner.values() for body, _ in found}
  for name in inner:
    if name not in bodies:
      visit(name, 1)
  return counts


def find_in(hlo: str, num_devices: int) -> list[Collective]:
  """Returns the collectives of one computation."""
  found = []
  kinds = '|'.join(KINDS)
  # name = f32[8,4]{1,0} all-reduce(...), or (f32[..], f32[..]) all-reduce(...)
  operation = re.compile(rf'= (.*?) ({kinds})(?:-start)?\(.*')
  for match in operation.finditer(hlo):
    group = group_size(match[0], num_devices)
    sizes = [
      math.prod(int(n) for n in shape.split(',') if n) * bits(dtype) // 8
      for dtype, shape in re.findall(r'(\w+)\[([\d,]*)\]', match[1])
    ]
    whole = group if match[2] == 'reduce-scatter' else 1
    found.append(Collective(match[2], len(sizes), sum(sizes) * whole, group))
  return found


def bits(dtype: str) -> int:
  """Returns the bits of a number of an HLO type: f32 32, pred 8."""
  return 8 if dtype == 'pred' else int(re.sub(r'\D', '', dtype))


def group_size(line: str, num_devices: int) -> int:
  """Returns the number of devices in a group of a collective.

  It is read from replica_groups={{0,1},{2,3}}, =[groups,size]<=... or
  =mesh['a'=2,'b'=4], ... {'b'}, the axes of the group; by default it is
  num_devices.
  """
  axes = re.search(r'replica_groups=mesh\[(.*?)\].*?\{(.*?)\}', line)
  if axes:
    sizes = dict(re.findall(r"('\w+')=(\d+)", axes[1]))
    # 'a':(1)2 is a part of an axis, of size 2
    parts = re.findall(r"('\w+')(?::\(\d+\)(\d+))?", axes[2])
    return math.prod(int(part or sizes[axis]) for axis, part in parts)
  listed = re.search(r'replica_groups=\{\{([\d,]+)\}', line)
  if listed:
    return len(listed[1].split(','))
  counted = re.search(r'replica_groups=\[\d+,(\d+)\]', line)
  return int(counted[1]) if counted else num_devices


def wire_bytes(collective: Collective) -> float:
  """Returns the bytes that each device sends, by the ring algorithm."""
  n = collective.group
  twice = 2 if collective.kind == 'all-reduce' else 1
  return twice * (n - 1) / n * collective.bytes


def compile_step(config):
  """Returns (compiled training step, abstract state with shardings)."""
  import jax
  import jax.numpy as jnp

  from benchmarks import cases
  from diffusion_jax.app import devices, images, models
  from diffusion_jax.core.keys import abstract_key
  from diffusion_jax.runtime.sharding import batch_sharding

  mesh = devices.make_mesh(config)
  model: Any = models.make(config, 'nowhere')
  step, shapes = cases.train_step(model, mesh)
  size, facts = config.training.batch_size, model.facts
  batch = {'image': ((size, *model.state_shape), jnp.float32)}
  if facts.num_classes:
    batch['label'] = ((size,), jnp.int32)
  length = images.text_length(config)
  if length:
    batch['text'] = ((size, length), jnp.int32)
    batch['text_mask'] = ((size, length), jnp.bool_)
  batch = {
    name: jax.ShapeDtypeStruct(*array, sharding=batch_sharding(mesh))
    for name, array in batch.items()
  }
  frozen = model.frozen_shapes()
  return step.lower(shapes, batch, abstract_key(), frozen).compile(), shapes


def state_bytes(like) -> tuple[int, int]:
  """Returns the bytes of a state: (in total, on one device)."""
  import jax

  whole = part = 0
  for leaf in jax.tree.leaves(like):
    whole += math.prod(leaf.shape) * leaf.dtype.itemsize
    part += (
      math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    )
  return whole, part


def report(config) -> str:
  """Returns the lines that the command prints."""
  import jax

  compiled, like = compile_step(config)
  data, fsdp = map(int, config.training.mesh)
  found = find(compiled.as_text() or '', jax.device_count())
  params = sum(math.prod(x.shape) * 4 for x in jax.tree.leaves(like.params))
  whole, part = state_bytes(like)
  lines = [
    f'mesh {data}x{fsdp}, batch {config.training.batch_size}; parameters '
    f'{params:,} bytes, state {whole:,}, {part:,} on a device: '
    f'{part / whole * jax.device_count():.3f} / {jax.device_count()}'
  ]
  table = collections.defaultdict(list)
  for one in found:
    table[one.kind, one.group].append(one)
  for (kind, group), ones in sorted(table.items()):
    lines.append(
      f'{len(ones):4d} {kind} over {group} devices, of '
      f'{sum(one.arrays for one in ones):,} arrays, '
      f'{sum(one.bytes for one in ones):,} bytes'
    )
  sent = sum(map(wire_bytes, found))
  lines.append(f'sent by each device, by rings: {sent:,.0f} bytes a step')
  return '\n'.join(lines)


def read(path: str, mesh: str, batch: int | None):
  """Returns the config of a file of configs/, such as cifar10.py:smoke."""
  from diffusion_jax.app import load, smoke

  file, _, argument = path.partition(':')
  trial = argument.endswith('smoke')
  argument = argument.removesuffix('smoke').removesuffix('_')
  config = load.completed(load.from_file(file, argument))
  config = smoke.shrunk(config) if trial else config
  flags = [('training.mesh', mesh)]
  flags += [('training.steps_per_call', '1')]
  flags += [('training.batch_size', str(batch))] if batch else []
  return load.with_flags(config, flags)


def main():
  """Prints the collectives of a config's training step."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--config', required=True)
  parser.add_argument('--mesh', default='8,1')
  parser.add_argument('--devices', type=int, default=8)
  parser.add_argument('--batch', type=int, help='of the config by default')
  args = parser.parse_args()
  os.environ['JAX_PLATFORMS'] = 'cpu'
  os.environ['XLA_FLAGS'] = (
    f'--xla_force_host_platform_device_count={args.devices} '
    '--xla_backend_optimization_level=0'
  )
  config = read(args.config, args.mesh, args.batch)
  print(report(config))


if __name__ == '__main__':
  main()
