"""Shows plans: as lines, as a table, and which one is the best.

A plan is a dictionary with the figures of one compiled program, as --mode=plan
stores it.
"""

import math
from collections.abc import Iterator, Sequence

from diffusion_jax.aliases import Json
from diffusion_jax.planning.topologies import Rates, Topology

Plan = Json
SIZES = {  # the field of the batch, by what is planned
  'train': 'training.batch_size',
  'sample': 'sampling.batch_size',
}
HEAD = [
  'mesh', 'batch', 'memory', 'products', 'traffic', 'sent', 'at least',
  'images/s at most', 'MFU at most', 'device-hours at least',
]  # fmt: skip


def describe(topology: Topology) -> str:
  """Returns a line about the devices."""
  rates, count = topology.rates, len(topology.devices)
  if rates is None:
    return f'{topology.name}: {count} simulated devices, without rates'
  return (
    f'{topology.name}: {count} {rates.name}, each {rates.flops / 1e12:g} '
    f'TFLOP/s in bfloat16, {gib(rates.memory)} at {rates.bandwidth / 1e9:g} '
    f'GB/s, sending {rates.link / 1e9:g} GB/s ({rates.source})'
  )


def lines(plan: Plan, rates: Rates | None) -> Iterator[str]:
  """Yields the lines about one plan."""
  state = plan['state']
  parameters = f'{state["parameters"]:,} parameters'
  yield f'mesh {shape(plan)}, batch {plan["batch"]}, {parameters}'
  limit = f' of {gib(rates.memory)}' if rates else ''
  if plan['fits']:
    yield (
      f'  memory    {gib(plan["peak"])}{limit} at the peak: arguments '
      f'{gib(plan["arguments"])}, of them the state {gib(state["bytes"])}; '
      f'temporaries {gib(plan["temporaries"])}'
    )
  else:
    peak = f'{gib(plan["peak"])}{limit}' if plan['peak'] else f'over{limit[3:]}'
    yield f'  memory    {peak}: does not fit; {remedies(plan)}'
  if 'flops' not in plan:
    return
  products = ', '.join(
    f'{amount(count, "FLOP")} in {dtype}'
    for dtype, count in plan['flops'].items()
  )
  yield f'  products  {products}'
  yield f'  traffic   {amount(plan["traffic"], "B")} of the memory'
  for kind, total in sorted(plan['collectives'].items()):
    yield (
      f'  network   {total["count"]} {kind}, {total["bytes"]:,} bytes: a '
      f'device sends {amount(total["sent"], "B")}'
    )
  if plan['loops_of_unknown_length']:
    yield (
      f'  note      {plan["loops_of_unknown_length"]} loops of unknown length '
      'count once'
    )
  if 'bounds' not in plan:
    return
  bounds = ', '.join(
    f'{name} {amount(seconds, "s")}' for name, seconds in plan['bounds'].items()
  )
  least = f'{amount(plan["seconds"], "s")}, by {plan["binding"]}'
  yield f'  at least  {least}: {bounds}'
  repeated = (
    f'{plan["steps"]:,} steps'
    if 'steps' in plan
    else f'{plan["images"]:,} images'
  )
  yield (
    f'  at most   {plan["images_per_second"]:,.4g} images/s, MFU '
    f'{plan["mfu"]:.0%}; {repeated}: at least {plan["hours"]:.3g} h, '
    f'{plan["device_hours"]:,.3g} device-hours'
  )


def table(plans: Sequence[Plan]) -> list[list[str]]:
  """Returns a head and a row of text for each plan, without empty columns."""
  rows = list(map(_row, plans))
  columns = [i for i in range(len(HEAD)) if any(row[i] for row in rows)]
  return [[row[i] for i in columns] for row in (HEAD, *rows)]


def _row(plan):
  changes = [shape(plan)]
  changes += ['remat'] * plan['remat']
  changes += [f'accumulate {plan["accumulate"]}'] * (plan['accumulate'] > 1)
  memory = gib(plan['peak']) if plan['peak'] else ''
  row = [
    ', '.join(changes),
    f'{plan["batch"]:,}',
    memory if plan['fits'] else f'{memory} does not fit'.strip(),
  ]
  if 'flops' in plan:
    sent = sum(total['sent'] for total in plan['collectives'].values())
    row += [
      amount(sum(plan['flops'].values()), 'FLOP'),
      amount(plan['traffic'], 'B'),
      amount(sent, 'B'),
    ]
  if 'bounds' in plan:
    row += [
      f'{amount(plan["seconds"], "s")}, by {plan["binding"]}',
      f'{plan["images_per_second"]:,.4g}',
      f'{plan["mfu"]:.0%}',
      f'{plan["device_hours"]:,.3g}',
    ]
  return row + [''] * (len(HEAD) - len(row))


def shape(plan: Plan) -> str:
  """Returns the mesh of a plan, such as 1x8."""
  return 'x'.join(map(str, plan['mesh']))


def remedies(plan: Plan) -> str:
  """Returns what makes a program need less memory, as flags."""
  data, fsdp = plan['mesh']
  fields = []
  if plan['of'] == 'train':
    if not plan['remat']:
      fields.append('network.remat=True')
    parts = 2 * plan['accumulate']
    if not plan['batch'] % (parts * data * fsdp):
      fields.append(f'training.accumulate={parts}')
    if data > 1:
      fields.append(f'training.mesh=1,{data * fsdp}')
  if plan['batch'] > data * fsdp:
    fields.append(f'{SIZES[plan["of"]]}={plan["batch"] // 2}')
  flags = ', '.join(f'--config.{field}' for field in fields)
  return f'try {flags or "more devices"}'


def best(plans: Sequence[Plan], of: str, topology: Topology) -> str:
  """Returns the flags of the plan with the lowest bound of an image.

  Of equal plans, the one whose three bounds have the smallest sum.
  """
  plans = [plan for plan in plans if plan['fits']]
  if not plans:
    return f'none fits {topology.name}'
  if topology.rates is None:
    return 'simulated devices have no rates: no plan is the best'

  def cost(plan):
    total = sum(plan['bounds'].values()) / plan['batch']
    return float(f'{plan["seconds"] / plan["batch"]:.2e}'), total

  plan = min(plans, key=cost)
  mesh = shape(plan).replace('x', ',')
  return (
    f'the best that fits: --config.training.mesh={mesh} '
    f'--config.{SIZES[of]}={plan["batch"]}'
  )


def amount(value: float, unit: str) -> str:
  """Returns a value with a prefix of its unit."""
  power = min(max(math.floor(math.log10(value or 1) / 3), -3), 5)
  prefix = ('n', 'µ', 'm', '', 'k', 'M', 'G', 'T', 'P')[power + 3]
  return f'{value / 1000**power:.3g} {prefix}{unit}'


def gib(count: float) -> str:
  """Returns bytes as text, in GiB or MiB."""
  if count < 2**24:
    return f'{count / 2**20:.3g} MiB'
  return f'{count / 2**30:.3g} GiB'
