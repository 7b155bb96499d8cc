"""The options with which XLA compiles a program."""

import functools
import os
from importlib import metadata
from typing import Literal

import jax
from jax.sharding import Mesh

Effort = Literal['fast', 'tuned']

# The value of an option, and the efforts that take it.
_CPU = {'xla_backend_optimization_level': (1, ('fast',))}
# Triton's products cannot add a bias, and are tried in 30 sizes each. Without
# them cuBLASLt computes products with their biases and activations. Fusions
# with sums are compiled twice, to be raced. Level 0 takes the default
# algorithms of cuBLAS and cuDNN.
_GPU = {
  'xla_gpu_enable_triton_gemm': (False, ('fast', 'tuned')),
  'xla_gpu_experimental_enable_fusion_autotuner': (False, ('fast',)),
  'xla_gpu_autotune_level': (0, ('fast',)),
}


def options(
  mesh: Mesh, effort: Effort, deterministic: bool = False
) -> dict[str, int | bool]:
  """Returns XLA's options for `jax.jit(compiler_options=...)`.

  effort: 'fast' for a program that runs once, else 'tuned'. deterministic: only
  operations whose results are always the same, bit for bit; CPUs have no other.
  An option that the user sets in XLA_FLAGS, or that the installed XLA does not
  have, is left out.
  """
  platform = mesh.devices.flat[0].platform
  table = {'cpu': _CPU, 'gpu': _GPU if adds_biases() else {}}.get(platform, {})
  chosen = {
    n: value for n, (value, efforts) in table.items() if effort in efforts
  }
  if deterministic and platform == 'gpu':
    chosen['xla_gpu_exclude_nondeterministic_ops'] = True
  given = os.environ.get('XLA_FLAGS', '')
  return {
    name: value
    for name, value in chosen.items()
    if name not in given and _exists(name, value)
  }


def adds_biases() -> bool:
  """Returns whether XLA adds a bias to a product of cuBLASLt as it should.

  Before jaxlib 0.12 it computed (a x w) + b for a (x w + b), and added
  b[None] where b[:, None] was asked for, if the product is square.
  """
  major, minor = metadata.version('jaxlib').split('.')[:2]
  return (int(major), int(minor)) >= (0, 12)


@functools.cache
def _exists(name, value):
  try:
    jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True
