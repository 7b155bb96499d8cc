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
  'images/s at most', 'MFU at most', 'all devices at least',
]  # fmt: skip


def describe(topology: Topology) -> str:
  """Returns a line about the devices."""
  rates, count = topology.rates, len(topology.devices)
  if rates is None:
    return f'{topology.name}: {count} simulated devices, without rates'
  apart = f', {rates.between / 1e9:g} GB/s to other machines'
  apart = apart if count > topology.machine else ''
  return (
    f'{topology.name}: {count} {rates.name}, each {rates.flops / 1e12:g} '
    f'TFLOP/s in bfloat16, {gib(rates.memory)} at {rates.bandwidth / 1e9:g} '
    f'GB/s, sending {rates.link / 1e9:g} GB/s{apart} ({rates.source})'
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
    f'{amount(count, "FLOP")} in {dtype}' for dtype, count in plan['flops'].items()
  )
  yield f'  products  {products}'
  if plan.get('attention'):
    yield f'  attention {plan["attention"]}'
  traffic = f'{amount(plan["traffic"], "B")}, loops once'
  if rates:
    seconds = plan['traffic'] / rates.bandwidth
    traffic += f': {amount(seconds, "s")} without a cache'
  if plan['traffic']:
    yield f'  traffic   {traffic}'
  if plan['sent']:
    yield f'  network   a device sends at least {amount(plan["sent"], "B")}'
  if 'bounds' not in plan:
    return
  bounds = ', '.join(f'{name} {amount(seconds, "s")}' for name, seconds in plan['bounds'].items())
  least = f'{amount(plan["seconds"], "s")}, by {plan["binding"]}'
  yield f'  at least  {least}: {bounds}'
  of = 'steps' if 'steps' in plan else 'images'
  yield (
    f'  at most   {number(plan["images_per_second"], 4)} images/s, MFU '
    f'{plan["mfu"]:.0%}; {plan[of]:,} {of}: at least {duration(plan["hours"])}'
    f', {duration(plan["device_hours"])} of all devices'
  )
  if rates and (flag := advice(plan, rates)):
    yield f'  limit     {plan["binding"]}, {flag}'


def table(plans: Sequence[Plan]) -> list[list[str]]:
  """Returns a head and a row of text for each plan, without empty columns."""
  rows = list(map(_row, plans))
  columns = [i for i in range(len(HEAD)) if any(row[i] for row in rows)]
  return [[row[i] for i in columns] for row in (HEAD, *rows)]


def _row(plan):
  changes = [shape(plan)]
  changes += ['remat'] * bool(plan['remat'])
  changes += [f'accumulate {plan["accumulate"]}'] * (plan['accumulate'] > 1)
  memory = gib(plan['peak']) if plan['peak'] else ''
  row = [
    ', '.join(changes),
    f'{plan["batch"]:,}',
    memory if plan['fits'] else f'{memory} does not fit'.strip(),
  ]
  if 'flops' in plan:
    row += [
      amount(sum(plan['flops'].values()), 'FLOP'),
      amount(plan['traffic'], 'B') if plan['traffic'] else '',
      amount(plan['sent'], 'B'),
    ]
  if 'bounds' in plan:
    row += [
      f'{amount(plan["seconds"], "s")}, by {plan["binding"]}',
      number(plan['images_per_second'], 4),
      f'{plan["mfu"]:.0%}',
      duration(plan['device_hours']),
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


def advice(plan: Plan, rates: Rates) -> str:
  """Returns the flag that lowers the longest bound, and why; '' without one."""
  binding, flops = plan['binding'], plan['flops']
  moved = plan['bounds']['memory'] * rates.bandwidth
  of_state = 4 * plan['state']['bytes'] > moved
  if binding == 'network' or binding == 'memory' and of_state:
    flag = f'{SIZES[plan["of"]]}={2 * plan["batch"]}'
    return f'hardly more for a larger batch: try --config.{flag}'
  in_float32 = 2 * flops.get('float32', 0.0) > sum(flops.values())
  slow = in_float32 and rates.flops_float32 < rates.flops
  if plan.get('dtype') == 'float32' and (slow or binding == 'memory'):
    return 'about half in bfloat16: try --config.network.dtype=bfloat16'
  return ''


def best(plans: Sequence[Plan], of: str, topology: Topology) -> str:
  """Returns the flags of the plan with the lowest bound of an image.

  Of equal plans, the one whose three bounds have the smallest sum. For a single
  plan it returns the flags that compare it with others.
  """
  every, plans = plans, [plan for plan in plans if plan['fits']]
  if not plans:
    return f'none fits {topology.name}'
  if topology.rates is None:
    return 'simulated devices have no rates: no plan is the best'
  if len(every) == 1:
    n, batch = math.prod(plans[0]['mesh']), plans[0]['batch']
    meshes = f'--config.plan.meshes={n}x1,1x{n} ' if n > 1 else ''
    batches = f'--config.plan.batches={batch},{2 * batch}'
    return f'it fits; no other was compiled. To compare: {meshes}{batches}'

  def cost(plan):
    total = sum(plan['bounds'].values()) / plan['batch']
    return float(f'{plan["seconds"] / plan["batch"]:.2e}'), total

  plan = min(plans, key=cost)
  mesh = shape(plan).replace('x', ',')
  return f'the best that fits: --config.training.mesh={mesh} --config.{SIZES[of]}={plan["batch"]}'


def achieved(speed: dict[str, float]) -> str:
  """Returns the speed of one device as text; speed: of `roofline.achieved`."""
  text = amount(1e12 * speed['tflops'], 'FLOP/s')
  return f'{text}, MFU {speed["mfu"]:.0%}' if 'mfu' in speed else text


def number(value: float, digits: int = 3) -> str:
  """Writes a value with `digits` digits, 4,496,000 and not 4.496e+06."""
  return f'{float(f"{value:.{digits}g}"):,.12g}'


def amount(value: float, unit: str) -> str:
  """Returns a value with a prefix of its unit."""
  power = min(max(math.floor(math.log10(value or 1) / 3), -3), 5)
  prefix = ('n', 'µ', 'm', '', 'k', 'M', 'G', 'T', 'P')[power + 3]
  return f'{number(value / 1000**power)} {prefix}{unit}'


def duration(hours: float) -> str:
  """Returns hours as text, in h, min, s or less."""
  if hours < 0.03:
    return amount(3600 * hours, 's')
  return f'{number(60 * hours)} min' if hours < 2 else f'{number(hours)} h'


def gib(count: float) -> str:
  """Returns bytes as text, in GiB or MiB."""
  if count < 1000 * 2**20:
    return f'{number(count / 2**20)} MiB'
  return f'{number(count / 2**30)} GiB'
