"""Our side of benchmarks.against_torch."""

import math
import os
from importlib import metadata
from typing import Any

# Both sides hold memory of one GPU at a time.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax
from benchmarks import cases, flops, turns
from diffusion_jax.app.kinds.model import make_mesh
from diffusion_jax.planning import programs
from diffusion_jax.runtime.compiling import options
from diffusion_jax.runtime.sharding import on_mesh, replicated


def random_params(model):
  """Returns parameters of a trained network's size, made without compiling.

  The first ones of a training would have an output of 0. They are NumPy arrays,
  since a training step donates the memory of its copies.
  """
  rng = np.random.default_rng(0)

  def fill(path, like):
    values = rng.standard_normal(like.shape, np.float32)
    if path[-1].key == 'scale':
      return 1.0 + 0.1 * values
    return values / np.float32(np.sqrt(math.prod(like.shape[:-1])))

  return jax.tree_util.tree_map_with_path(fill, model.shapes())


class Side:
  """Runs forward passes, training steps and DDIM of a `turns.Case`."""

  def __init__(self, case):
    self.case = case
    if case.memory:  # before JAX asks for devices
      os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'] = str(case.memory)
    self.model = cases.make_model(case)
    self.noise = np.array(cases.network_of(case).noise, np.float32)
    self.apply = cases.network_fn(self.model)
    self.params = random_params(self.model)
    self.run = self.out = None
    self.program: Any = None
    self.carry = ()

  def facts(self):
    """Returns versions, the device, parameters, FLOP and the rate of products.

    FLOP are counted for the products of a forward pass, from its trace.
    """
    device = jax.devices()[0]
    on_gpu = device.platform != 'cpu'
    size = 8192 if on_gpu else 2048
    sizes = [x.size for x in jax.tree.leaves(self.params)]
    return {
      'versions': {
        'diffusion_jax': diffusion_jax.__version__,
        'jax': jax.__version__,
        'jaxlib': metadata.version('jaxlib'),
      },
      'device': device.device_kind,
      'platform': device.platform,
      'parameters': sum(sizes),
      'forward_flop': self.forward_flop(),
      'matmul_flop_per_s': flops.matmul_rate(self.case.dtype, size),
    }

  def forward_flop(self):
    """Returns the FLOP of all products of a forward pass, 2 for each term."""
    arrays = self._arrays(self.case.batch)
    jaxpr = jax.make_jaxpr(self.apply)(self.params['network'], *arrays)
    return sum(programs.flops(jaxpr).values())

  def export(self):
    """Returns (x, noise, the weights for torch, the output)."""
    params = self.params['network']
    x, _, cond = self._arrays(2)
    out = jax.jit(self.apply)(params, x, self.noise, cond)
    tensors = cases.state_dict(self.model, params)
    return np.asarray(x), self.noise, tensors, np.asarray(out, np.float32)

  def prepare(self, task):
    """Compiles 'forward', 'train' or 'ddim'; returns facts about it."""
    function, (first, *others) = getattr(self, f'_{task}')()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), first)
    # XLA may choose the layouts of a state: the first one is converted.
    compiled = self.program = function.lower(shapes, *others).compile()
    self.carry = jax.device_put(first, compiled.input_formats[0][0]), *others
    del first

    def run():
      self.out = compiled(*self.carry)
      if task == 'train':  # the state is donated
        self.carry = self.out[0], *self.carry[1:]

    self.run = run
    memory = compiled.memory_analysis()
    return {
      'xla_flop': flops.counted(compiled),
      'temporary_bytes': getattr(memory, 'temp_size_in_bytes', None),
    }

  def begin(self):
    """Takes the first weights of a training; returns them for torch."""
    self.params = jax.device_get(self.model.init(jax.random.key(0)))
    return cases.state_dict(self.model, self.params['network'])

  def curve(self, images, seed, rate):
    """Trains on images uint8 [steps, B, H, W, C]; see `turns.curve`."""
    step, (state, _, _, frozen, _) = self._train()
    key = jax.random.key(seed)

    def advance(batch):
      nonlocal state
      batch = {'x': batch.astype(np.float32) / 127.5 - 1.0}
      state, metrics = step(state, batch, key, frozen, np.float32(rate))
      return metrics['loss'].total / metrics['loss'].count

    losses, seconds = turns.curve(advance, images)
    return [float(x) for x in losses], seconds

  def wait(self):
    """Waits for the last result."""
    jax.block_until_ready(self.out)

  def peak(self):
    """Returns the peak of the memory in bytes: of the GPU, or of the process.

    Of a GPU since the start of the process.
    """
    stats = jax.devices()[0].memory_stats()
    return stats['peak_bytes_in_use'] if stats else turns.peak_bytes()

  def _arrays(self, count):
    shape = self.model.facts.x.shape
    image = jax.random.normal(jax.random.key(1), (count, *shape))
    cond = {}
    if self.model.conditioning.labels:
      labels = cases.labels_of(self.model, count)
      cond['label'] = jnp.asarray(labels, jnp.int32)
    return image, jnp.full(count, self.noise[1]), cond

  def _jit(self, function):
    # As `runtime.per_example` does: layers ask which devices the mesh has.
    mesh = make_mesh(self.model.config)
    how = options(mesh, 'tuned')
    return jax.jit(on_mesh(mesh, function), compiler_options=how)

  def _forward(self):
    arrays = self._arrays(self.case.batch)
    return self._jit(self.apply), (self.params['network'], *arrays)

  def _train(self):
    mesh = make_mesh(self.model.config)
    step, shapes = cases.train_step(self.model, mesh)
    # Adam begins with zeros.
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    state = state._replace(params=jax.tree.map(jnp.array, self.params))
    image, _, cond = self._arrays(self.case.batch)
    batch = {'x': jnp.clip(image, -1.0, 1.0), **cond}
    state, batch = jax.device_put((state, batch), replicated(mesh))
    return step, (state, batch, jax.random.key(0), {}, np.float32(2e-4))

  def _ddim(self):
    keys = jax.random.split(jax.random.key(0), self.case.batch)

    def sample(params, keys, cond):
      return self.model.plan(params).from_noise(keys, cond)

    cond = self._arrays(self.case.batch)[2]
    return self._jit(sample), (self.params, keys, cond)
