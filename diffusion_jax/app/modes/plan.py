"""Implements --mode=plan: compiles for devices, present or not."""

import hashlib
import itertools
import json
import math
import re
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import stages
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, Sharding

from diffusion_jax.aliases import Json, PyTree
from diffusion_jax.app import models
from diffusion_jax.app.config import store
from diffusion_jax.app.config.fields import Plan
from diffusion_jax.app.config.refusals import TRAINING, lines
from diffusion_jax.app.config.tree import Node, check_set, from_config
from diffusion_jax.app.drawing.generate import generate
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.model import NOTHING, check_attention
from diffusion_jax.app.run import other_runs, weights
from diffusion_jax.app.train_loop import setup
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.errors import UserError, refuse
from diffusion_jax.planning import plans, programs, roofline, topologies
from diffusion_jax.planning.topologies import Topology
from diffusion_jax.runtime import sessions, sharding
from diffusion_jax.runtime.files import make_folder, read_json, write_json

COMPILERS = 'jax', 'jaxlib', 'libtpu', 'jax-cuda12-pjrt', 'jax-cuda13-pjrt'


def run(config: Node, workdir: str | Path) -> None:
  """Compiles a program for each mesh and batch, and prints what it needs.

  plans/<of>-<devices>.json stores the results; a program that is already in it
  is not compiled again.
  """
  plan = config.plan.make()
  hint = 'name the devices, such as v5e:8x16, h100x8 or cpu:8'
  check_set('plan.devices', plan.devices, hint)
  with from_config('plan.devices'):
    topology = topologies.make(plan.devices)
  about = plans.describe(topology)
  print(about)
  name = re.sub(r'\W', '_', plan.devices)
  path = make_folder(workdir, 'plans') / f'{plan.of}-{name}.json'
  stored, rows = read(path), []
  for variant in variants(config, plan):
    row = compile_one(variant, plan.of, topology, workdir, stored)
    stored[row['key']] = row
    content = {'devices': plan.devices, 'about': about, 'of': plan.of}
    write_json(path, content | {'plans': list(stored.values())})
    rows.append(row)
    print('\n'.join(plans.lines(row, topology.rates)))
  print(plans.best(rows, plan.of, topology))
  print(f'wrote {path}')


def variants(config: Node, plan: Plan) -> Iterator[Node]:
  """Yields the config with each mesh and each batch of a plan."""
  choices = plan.meshes or (None,), plan.batches or (None,)
  for mesh, batch in itertools.product(*choices):
    flags = []
    if mesh is not None:
      if not re.fullmatch(r'(-1|\d+)x\d+', str(mesh)):
        raise UserError(f'config.plan.meshes: {mesh} is not a mesh such as 1x8, data x fsdp')
      flags.append(('training.mesh', mesh.replace('x', ',')))
    if batch is not None:
      flags.append((plans.SIZES[plan.of], str(batch)))
    yield store.with_flags(config, flags)


def compile_one(
  config: Node, of: str, topology: Topology, workdir: str | Path, stored: dict[str, dict]
) -> Json:
  """Compiles the program of a config; returns its figures for JSON.

  stored: earlier results, by the checksum of program and compiler.
  """
  with from_config('training.mesh'):
    mesh = sharding.make_mesh(*config.training.mesh, devices=topology.devices)
  check_attention(config, mesh)
  trace = {'train': trace_training, 'sample': trace_sampling}[of]
  traced, batch, state = trace(config, mesh, workdir)
  lowered = traced.lower()
  row = describe(config, of, mesh, batch, state)
  text = lowered.as_text()
  if row['attention']:
    row['attention'] = 'cudnn' if 'cudnn$fmha' in text else 'xla'
  count = {n: row[n] for n in ('steps', 'images') if n in row}
  row['key'] = key = checksum(text + json.dumps(count), topology)
  if key in stored:
    return stored[key]
  if topology.rates is not None:
    # JAX cannot load such programs without devices. It reads this option once.
    jax.config.update('jax_enable_compilation_cache', False)
    compilation_cache.reset_cache()
  print(f'compiling: mesh {"x".join(map(str, row["mesh"]))}, batch {batch} ...', flush=True)
  start = time.monotonic()
  try:
    compiled = compile_aloud(lowered, topology.options)
  except jax.errors.JaxRuntimeError as error:
    row |= {'fits': False, 'peak': out_of_memory(error)}
    return row
  row['compiled_in'] = round(time.monotonic() - start, 1)
  itemsize = 2 if row['dtype'] == 'bfloat16' else 4
  weights = itemsize * state[0] if of == 'train' else 0
  args = compiled, traced.jaxpr, row['mesh'], topology.machine, weights
  measured = roofline.measure(*args)
  useful = sum(measured.flops.values())
  if of == 'train' and row['remat']:
    once = store.with_flags(config, [('network.remat', 'False')])
    jaxpr = trace(once, mesh, workdir)[0].jaxpr
    useful = sum(programs.flops(jaxpr).values()) / mesh.size
  return row | figures(measured, topology, useful, row)


def describe(config: Node, of: str, mesh: Mesh, batch: int, state: tuple[int, int]) -> Json:
  """Returns what is known of a program before it is compiled, for JSON."""
  network, count = config.network, {'images': config.evaluation.num_generated}
  if of == 'train':
    count = {'steps': config.training.num_steps}
  return {
    'of': of,
    'mesh': list(mesh.shape.values()),
    'batch': batch,
    'accumulate': config.training.accumulate,
    'remat': bool(network.get('remat')),
    'dtype': network.get('dtype'),
    'attention': network.get('attention', ''),
    'state': {'parameters': state[0], 'bytes': state[1]},
    'versions': sessions.versions(COMPILERS),
    **count,
  }


def compile_aloud(lowered: stages.Lowered, options: dict, every: float = 30.0) -> stages.Compiled:
  """Compiles a program; prints each `every` seconds how long it has taken."""
  start = time.monotonic()
  with futures.ThreadPoolExecutor(1) as pool:
    compiled = pool.submit(lowered.compile, options)
    while not futures.wait([compiled], every).done:
      print(f'  {time.monotonic() - start:.0f} s ...', flush=True)
    return compiled.result()


def figures(measured: roofline.Measured, topology: Topology, useful: float, row: dict) -> Json:
  """Returns the figures of a measured program for JSON.

  useful: FLOP of a device, without the operations that remat repeats.
  """
  rates = topology.rates
  results = {
    **measured.memory._asdict(),
    'fits': rates is None or measured.memory.peak <= rates.memory,
    'flops': measured.flops,
    'traffic': measured.traffic,
    'sent': measured.sent,
  }
  if rates is None:
    return results
  bounds = roofline.bounds(measured, rates)
  seconds = bounds.seconds
  repeated = row.get('steps') or math.ceil(row['images'] / row['batch'])
  hours = repeated * seconds / 3600
  return results | {
    'bounds': bounds._asdict(),
    'seconds': seconds,
    'binding': bounds.binding,
    'images_per_second': row['batch'] / seconds,
    'mfu': useful / (rates.flops * seconds),
    'hours': hours,
    'device_hours': hours * math.prod(row['mesh']),
  }


# The programs.

# (trace, batch, (number of parameters, bytes of the state on a device))
Traced = tuple[stages.Traced, int, tuple[int, int]]


def trace_training(config: Node, mesh: Mesh, workdir: str | Path) -> Traced:
  """Traces the step as --mode=train builds it, without arrays."""
  config = store.with_flags(config, [('training.steps_per_call', '1')])
  refuse(lines((*TRAINING, setup.batch_rule(mesh)), config, 'train', ''))
  model = weights.adapted(models.make(config, workdir))
  model.check('plan')
  objective, total = model.objective(), config.training.num_steps
  optimizer, _ = config.optimizer.make({'total_steps': total})
  _, shapes = setup.state_maker(model, objective, optimizer, mesh)
  step = setup.jit_step(config, mesh, objective, optimizer, shapes)
  size = config.training.batch_size
  pixels = model.autoencoder is NOTHING
  shape = model.facts.x.shape if pixels else model.state_shape
  batch = {'x': jax.ShapeDtypeStruct((size, *shape), jnp.float32)}
  if model.facts.num_classes:
    batch['label'] = jax.ShapeDtypeStruct((size,), jnp.int32)
  if (context := model.facts.context) is not None:
    shape = size, *context.shape
    batch['context'] = jax.ShapeDtypeStruct(shape, jnp.float32)
  batch |= conditions.Texts(model).shapes(size)
  batch = placed(batch, sharding.batch_sharding(mesh))
  # Another program encodes latents.
  frozen = placed(model.teacher.shapes(), sharding.replicated(mesh))
  traced = step.trace(shapes, batch, abstract_key(), frozen, 1.0)
  return traced, size, state_size(shapes.params, shapes)


def trace_sampling(config: Node, mesh: Mesh, workdir: str | Path) -> Traced:
  """Traces the program that samples a batch."""
  model = models.make(config, workdir)
  model.check('sample')
  other_runs.check_unguided(model, 'plan.of=sample cannot plan')
  size = -(-config.sampling.batch_size // mesh.size) * mesh.size
  index = jax.ShapeDtypeStruct((size,), jnp.int32)
  inputs = index, conditions.shapes(model, size)
  params = model.shapes() | model.autoencoder.shapes()
  params = placed(params, sharding.replicated(mesh))
  drawing = generate(model, mesh)
  traced = jax.jit(lambda *args: drawing.compute(*args)[0]).trace(
    params, *placed(inputs, sharding.batch_sharding(mesh))
  )
  return traced, size, state_size(params, params)


def placed(shapes: PyTree, place: Sharding) -> PyTree:
  """Returns shapes with a sharding, the same for all."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)


def state_size(params: PyTree, state: PyTree) -> tuple[int, int]:
  """Returns the number of parameters, and the state's bytes on one device."""
  parts = (
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(state)
  )
  return sum(x.size for x in jax.tree.leaves(params)), sum(parts)


# What is stored.


def out_of_memory(error: Exception) -> int:
  """Returns the bytes needed according to the compiler's error, 0 if unknown.

  Raises the error if it has another reason.
  """
  text = str(error)
  if 'RESOURCE_EXHAUSTED' not in text and 'out of memory' not in text.lower():
    raise error
  used = re.search(r'Used ([\d.]+)([KMGT])', text)
  if not used:
    return 0
  return int(float(used[1]) * 1024 ** (1 + 'KMGT'.index(used[2])))


def checksum(text: str, topology: Topology) -> str:
  """Returns a checksum of a program, its devices and its compilers."""
  versions = json.dumps(sessions.versions(COMPILERS))
  parts = text, topology.name, repr(topology.rates), versions
  return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:16]


def read(path: Path) -> dict[str, dict]:
  """Returns a file's plans by their checksums, {} if it cannot be read."""
  try:
    return {row['key']: row for row in read_json(path)['plans']}
  except (FileNotFoundError, UserError, KeyError, TypeError):
    return {}
