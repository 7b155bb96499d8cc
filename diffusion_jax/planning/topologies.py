"""Devices to compile for, present or not, and their published rates.

v5e:2x4 is a slice of TPU chips, h100x8 a machine of eight GPUs, 2xh100x8 two
such machines, cpu:8 eight simulated devices. TPUs need the package libtpu, GPUs
JAX's CUDA plugin, but not its libraries or a driver.
"""

import importlib.util
import math
import os
import re
from typing import NamedTuple

import jax
from jax._src.cudnn import fused_attention_stablehlo
from jax.experimental import topologies

GB, GIB = 1e9, 2**30
MOST_SIMULATED = 2048  # JAX needs seconds to make them, minutes for more


class Rates(NamedTuple):
  """The published rates of a device, which are upper limits.

  flops: FLOP per second of dense products in bfloat16; flops_float32: the same
  in float32 with JAX's default precision. memory: bytes; bandwidth: bytes per
  second. cache: bytes of the cache, 0 if a compiled program names the arrays
  that it keeps on the chip. link: bytes per second that a device sends over all
  links of its network; between: bytes per second to other machines.
  """

  name: str
  flops: float
  flops_float32: float
  memory: float
  bandwidth: float
  cache: float
  link: float
  between: float
  source: str


def _tpu(name, teraflops, gigabytes, bandwidth, gigabits):
  page = f'cloud.google.com/tpu/docs/{name}'
  flops, link = teraflops * 1e12, gigabits / 8 * GB
  return Rates(f'TPU {name}', flops, flops, gigabytes * GIB, bandwidth * GB, 0.0, link, link, page)


def _gpu(name, teraflops, gigabytes, bandwidth, cache, nvlink, network, page):
  # float32 is computed as TF32, at half the rate. NVLink's figure counts both
  # directions. network: gigabits per second of a GPU's adapter in a DGX.
  return Rates(
    name,
    teraflops * 1e12,
    teraflops / 2 * 1e12,
    gigabytes * GB,
    bandwidth * GB,
    cache * 2**20,
    nvlink / 2 * GB,
    network / 8 * GB,
    page,
  )


TPUS = {
  'v4': _tpu('v4', 275, 32, 1228, 2400),
  'v5e': _tpu('v5e', 197, 16, 819, 1600),
  'v5p': _tpu('v5p', 459, 95, 2765, 4800),
  'v6e': _tpu('v6e', 918, 32, 1640, 3584),
}
_SHAPES = {'v4': ':2x2x2', 'v5e': ':2x4', 'v5p': ':2x2x2', 'v6e': ':2x4'}
GPUS = {
  'a100': _gpu(
    'NVIDIA A100-SXM4-80GB', 312, 80, 2039, 40, 600, 200, 'nvidia.com/en-us/data-center/a100'
  ),
  'h100': _gpu(
    'NVIDIA H100 80GB HBM3', 989.4, 80, 3352, 50, 900, 400, 'nvidia.com/en-us/data-center/h100'
  ),
  'h200': _gpu('NVIDIA H200', 989.4, 141, 4800, 50, 900, 400, 'nvidia.com/en-us/data-center/h200'),
}

# For XLA's GpuTargetConfig: multiprocessors, float32 lanes of each, bytes of
# shared memory of each and of a block, clock, compute capability.
_CHIPS = {
  'a100': (108, 64, 167936, 166912, 1.41, 8),
  'h100': (132, 128, 233472, 232448, 1.98, 9),
  'h200': (132, 128, 233472, 232448, 1.98, 9),
}


class Topology(NamedTuple):
  """The devices of a name.

  rates: None for simulated devices. machine: the number of devices of one
  machine, which `Rates.link` connects. options: XLA's options to compile
  without a device.
  """

  name: str
  devices: list
  rates: Rates | None
  machine: int
  options: dict[str, str | bool]


def make(name: str) -> Topology:
  """Returns the topology of a name.

  Raises ValueError for an unknown name, a wrong shape or a missing package.
  Call it before JAX uses a device.
  """
  tpu = re.fullmatch(r'(\w+):(\d+(?:x\d+)*)', name)
  gpu = re.fullmatch(r'(?:(\d+)x)?([a-z]+\d+)x(\d+)', name)
  if tpu and tpu[1] == 'cpu' and tpu[2].isdecimal():
    return _simulated(name, int(tpu[2]))
  if tpu and tpu[1] in TPUS:
    return _tpu_topology(name, tpu[1], tuple(map(int, tpu[2].split('x'))))
  if gpu and gpu[2] in GPUS:
    return _gpu_topology(name, gpu[2], int(gpu[1] or 1), int(gpu[3]))
  raise ValueError(
    f'{name!r} does not name devices: give, for instance, '
    f'{", ".join(kind + _SHAPES[kind] for kind in TPUS)}, '
    f'{", ".join(f"{kind}x8" for kind in GPUS)}, 2xh100x8 for two machines, or '
    'cpu:8'
  )


def rates_of(kind: str) -> Rates | None:
  """Returns the rates of a device by JAX's `device_kind`, None if unknown."""
  kinds = {rates.name: rates for rates in (*TPUS.values(), *GPUS.values())}
  kinds |= {'TPU v5 lite': TPUS['v5e'], 'TPU v5': TPUS['v5p'], 'TPU v6 lite': TPUS['v6e']}
  return kinds.get(kind)


def _on_cpu(count=None):
  # Only the host's CPU is needed. JAX refuses another number of devices after
  # it has made them.
  jax.config.update('jax_platforms', 'cpu')
  try:
    if count and 'device_count' not in os.environ.get('XLA_FLAGS', ''):
      jax.config.update('jax_num_cpu_devices', count)
  except RuntimeError:
    pass


def _simulated(name, count):
  if not 0 < count <= MOST_SIMULATED:
    raise ValueError(f'{name}: 1 to {MOST_SIMULATED} devices can be simulated')
  _on_cpu(count)
  devices = jax.devices('cpu')
  if count > len(devices):
    raise ValueError(
      f'{name}: JAX has started with {len(devices)} devices of the CPU: set '
      f'XLA_FLAGS=--xla_force_host_platform_device_count={count}'
    )
  return Topology(name, devices[:count], None, count, {})


def _tpu_topology(name, kind, shape):
  axes = _SHAPES[kind].count('x') + 1
  if len(shape) != axes:
    raise ValueError(f'{name}: {kind} has {axes} dimensions, as in {kind}{_SHAPES[kind]}')
  if importlib.util.find_spec('libtpu') is None:
    raise ValueError(
      f"{name}: the compiler for TPUs is missing: pip install 'jax[tpu]=={jax.__version__}'"
    )
  _on_cpu()
  # Without a TPU there is nothing to find, to warn about or to lock. libtpu
  # asks for a type and a host for any topology.
  os.environ |= {
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_STDERR_LOG_LEVEL': '3',
    'TPU_MIN_LOG_LEVEL': '3',
    **os.environ,
  }
  options: dict[str, str | tuple[int, ...]] = {}
  if kind == 'v4':  # Two cores work as one.
    options['chip_config_name'] = 'megacore'
  if math.prod(shape) < 4:
    bounds = (*shape, 1, 1)[:3]
    options['chips_per_host_bounds'] = bounds
  try:
    description = topologies.get_topology_desc(name, 'tpu', **options)
  except RuntimeError as error:
    reason = str(error).partition('\n')[0]
    raise ValueError(f'{name}: {reason}') from error
  devices = description.devices
  return Topology(name, devices, TPUS[kind], len(devices), {})


def _gpu_topology(name, kind, machines, count):
  if not (machines and 0 < count <= 8):
    raise ValueError(f'{name}: a machine has 1 to 8 GPUs; two machines are 2x{kind}x8')
  plugins = 'jax_cuda13_plugin', 'jax_cuda12_plugin'
  if not any(importlib.util.find_spec(plugin) for plugin in plugins):
    version = jax.__version__
    raise ValueError(
      f'{name}: the compiler for NVIDIA GPUs is missing: pip install --no-deps '
      f'jax-cuda12-plugin=={version} jax-cuda12-pjrt=={version} '
      'nvidia-cuda-runtime-cu12'  # or each import of JAX warns
    )
  _on_cpu()
  # XLA reports a compilation of minutes as an error. JAX sets 1 by itself.
  if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') in ('1', '2'):
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
  description = topologies.get_topology_desc(
    platform='cuda',
    topology_name='',
    topology=f'1x{machines}x{count}',
    target_config=target_config(kind),
  )
  # JAX asks the installed cuDNN while it traces attention.
  fused_attention_stablehlo.check_cudnn_version = lambda: 90800
  # Triton tunes its products on a device.
  options: dict[str, str | bool] = {'xla_gpu_enable_triton_gemm': False}
  return Topology(name, description.devices, GPUS[kind], count, options)


def target_config(kind: str) -> str:
  """Returns XLA's GpuTargetConfig of a GPU as a text proto."""
  rates = GPUS[kind]
  cores, lanes, shared, block, clock, capability = _CHIPS[kind]
  limits = {'x': 2**31 - 1, 'y': 65535, 'z': 65535}
  fields = {
    'threads_per_block_limit': 1024,
    'threads_per_warp': 32,
    'shared_memory_per_block': 49152,
    'shared_memory_per_core': shared,
    'threads_per_core_limit': 2048,
    'core_count': cores,
    'fpus_per_core': lanes,
    **{f'block_dim_limit_{axis}': limit for axis, limit in limits.items()},
    'memory_bandwidth': int(rates.bandwidth),
    'l2_cache_size': int(rates.cache),
    'clock_rate_ghz': clock,
    'device_memory_size': int(rates.memory),
    'shared_memory_per_block_optin': block,
    'registers_per_core_limit': 65536,
    'registers_per_block_limit': 65536,
  }
  info = ' '.join(f'{field}: {value}' for field, value in fields.items())
  return (
    f'gpu_device_info {{ {info} cuda_compute_capability {{ major: {capability} '
    '} } platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } '
    f'device_description_str: "{rates.name}"'
  )
