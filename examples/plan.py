"""What a training step needs on devices that are not here: memory, FLOP, bytes sent.

  python examples/plan.py configs/imagenet256_dit.py v5e:8x16 128x1 1x128
  python examples/plan.py configs/cifar10.py 2xh100x8 16x1 --field=training.batch_size=1024

Devices are TPU slices (v4:2x2x2, v5e:8x16, v5p:2x2x2, v6e:4x4), machines of GPUs (a100x8, h100x8,
h200x8; 2xh100x8 is two), or simulated (cpu:8). docs/running.md installs their compilers. A mesh is
data x fsdp. Figures are of one device."""

import argparse
import os
import re

import jax
from jax._src.cudnn import fused_attention_stablehlo
from jax.experimental import topologies

import diffusion_jax as dj
from diffusion_jax.errors import UserError
from diffusion_jax.planning import programs
from diffusion_jax.runtime import sharding

HOST = {'TPU_ACCELERATOR_TYPE': 'v5litepod-8', 'TPU_WORKER_HOSTNAMES': 'localhost'}
HOST |= {'ALLOW_MULTIPLE_LIBTPU_LOAD': 'true'}  # nothing runs: another process may hold a TPU
# Multiprocessors, float32 lanes of each, bytes of shared memory of each and of a block, GHz,
# compute capability, GB, GB/s, MB of cache, name; from the data sheets.
GPUS = {
  'a100': (108, 64, 167936, 166912, 1.41, 8, 80, 2039, 40, 'NVIDIA A100-SXM4-80GB'),
  'h100': (132, 128, 233472, 232448, 1.98, 9, 80, 3352, 50, 'NVIDIA H100 80GB HBM3'),
  'h200': (132, 128, 233472, 232448, 1.98, 9, 141, 4800, 50, 'NVIDIA H200'),
}
OF_GPU = """gpu_device_info { core_count: %d fpus_per_core: %d shared_memory_per_core: %d
shared_memory_per_block_optin: %d clock_rate_ghz: %s cuda_compute_capability { major: %d }
device_memory_size: %d000000000 memory_bandwidth: %d000000000 l2_cache_size: %d000000
threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
threads_per_core_limit: 2048 registers_per_core_limit: 65536 registers_per_block_limit: 65536
block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 }
device_description_str: "%s" platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 }"""


def devices_of(name):
  """Returns the devices of a name, and XLA's options to compile without them."""
  gpu = re.fullmatch(r'(?:([1-9]\d*)x)?(a100|h100|h200)x([1-8])', name)
  if not gpu and not re.fullmatch(r'cpu:[1-9]\d*|v\d+\w*:\d+(x\d+)*', name):
    known = 'a TPU slice as v5e:2x4, GPUs as h100x8 (up to 8 a machine) or 2xh100x8, or cpu:8'
    raise UserError(f'{name} is not the name of devices: give {known}')
  if name.startswith('cpu:'):
    jax.config.update('jax_num_cpu_devices', int(name[4:]))
    return jax.devices('cpu'), {}
  jax.config.update('jax_platforms', 'cpu')  # of the host; JAX must not look for others
  jax.config.update('jax_enable_compilation_cache', False)  # it cannot load what it compiles
  if not gpu:
    os.environ |= {'TPU_SKIP_MDS_QUERY': '1', 'TPU_MIN_LOG_LEVEL': '3', **HOST}
    return topologies.get_topology_desc(name, 'tpu').devices, {}
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'  # a long compilation is no error
  fused_attention_stablehlo.check_cudnn_version = lambda: 90800  # it is not installed
  size, target = f'1x{gpu[1] or 1}x{gpu[3]}', OF_GPU % GPUS[gpu[2]]
  gpus = topologies.get_topology_desc('', 'cuda', topology=size, target_config=target).devices
  return gpus, {'xla_gpu_enable_triton_gemm': False}  # Triton tunes on a device


def row_of(config, fields, devices, options, data, fsdp):
  """Returns what the step of a config needs on each device of a mesh, as text."""
  mesh = sharding.make_mesh(data, fsdp, devices)
  step, shapes = dj.training_step(config, fields, mesh)
  traced, params = step.trace(*shapes), jax.tree.leaves(shapes[0].params)
  flop = sum(programs.flops(traced.jaxpr).values()) / mesh.size
  # Rings gather weights and scatter gradients over fsdp, and sum gradients over data.
  sent = (fsdp - 1) / fsdp + (data - 1) / data / fsdp
  sent *= 2 * sum(x.size * x.dtype.itemsize for x in params)
  known = f'{data}x{fsdp}', f'{sum(x.size for x in params):,}'
  try:
    memory = traced.lower().compile(options).memory_analysis()
  except jax.errors.JaxRuntimeError as error:  # XLA for TPUs says how much it would need
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return *known, 'does not fit', *re.findall(r'Used ([\d.]+\w)', str(error))
  given, made = memory.argument_size_in_bytes, memory.output_size_in_bytes
  peak = given + memory.temp_size_in_bytes + made - memory.alias_size_in_bytes
  sizes = given, max(peak, memory.peak_memory_in_bytes), sent
  return *known, *(f'{size / 2**30:.4g} GiB' for size in sizes), f'{flop:.4g}'


def main(argv=None):
  """Reads the command line, and prints a row for each mesh."""
  parser = argparse.ArgumentParser()
  for name, nargs in (('config', None), ('devices', None), ('mesh', '+')):
    parser.add_argument(name, nargs=nargs)
  parser.add_argument('--field', action='append', default=[], help='section.field=value')
  given = parser.parse_args(argv)
  try:
    fields = dict(field.split('=', 1) for field in given.field)
    for mesh in given.mesh:
      if not re.fullmatch(r'[1-9]\d*x[1-9]\d*', mesh):
        raise UserError(f'{mesh} is not a mesh: give data x fsdp, such as 8x1 or 1x8')
    devices, options = devices_of(given.devices)
    print('mesh\tparameters\targuments\tpeak\tsent at least\tFLOP')
    for data, fsdp in (mesh.split('x') for mesh in given.mesh):
      row = row_of(given.config, fields, devices, options, int(data), int(fsdp))
      print(*row, sep='\t', flush=True)
  except (UserError, ValueError, RuntimeError) as error:
    parser.error(str(error).partition('\n')[0])


if __name__ == '__main__':
  main()
