"""How programs are compiled: with which of XLA's options, and beside work."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any, Literal

from jax.sharding import Mesh

Effort = Literal['fast', 'balanced', 'tuned']

# Of GPUs. Triton's products are tried in some 30 sizes each, and cannot add a
# bias; without them cuBLASLt computes both. Fusions with sums are compiled
# twice and raced. Level 0 takes the default algorithms of cuBLAS and cuDNN.
_TRITON = {'xla_gpu_enable_triton_gemm': False}
_FUSIONS = {'xla_gpu_experimental_enable_fusion_autotuner': False}
_LEVEL = {'xla_gpu_autotune_level': 0}
_ON_GPU = {
  'fast': _TRITON | _FUSIONS | _LEVEL,
  'balanced': _TRITON | _FUSIONS,
  'tuned': _TRITON,
}
_ON_CPU = {'fast': {'xla_backend_optimization_level': 1}}


def options(mesh: Mesh, effort: Effort) -> dict[str, int | bool]:
  """Returns XLA's options for `jax.jit(compiler_options=…)` by the effort.

  'fast' is for programs that run for seconds, 'tuned' for those that run for
  hours. An option that the user has set in XLA_FLAGS is left out.
  """
  platform = mesh.devices.flat[0].platform
  chosen: dict[str, int | bool] = {}
  if platform == 'cpu':
    chosen = _ON_CPU.get(effort, {})
  elif platform == 'gpu' and adds_biases():
    chosen = _ON_GPU[effort]
  given = os.environ.get('XLA_FLAGS', '')
  return {name: x for name, x in chosen.items() if name not in given}


def adds_biases() -> bool:
  """Returns whether XLA adds biases to cuBLASLt's products as it should.

  Before 0.12, a (x w + b) was a x w + b, and the sum of a square product and
  b[:, None] the sum with b[None], both without Triton's products.
  """
  version = metadata.version('jaxlib').split('.')
  return tuple(map(int, version[:2])) >= (0, 12)
