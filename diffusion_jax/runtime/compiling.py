"""How programs are compiled: with which options, beside what, and what is said."""

import functools
import os
import threading
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any, Literal

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from diffusion_jax.runtime import processes
from diffusion_jax.runtime.sharding import on_mesh

Effort = Literal['fast', 'balanced', 'tuned']

# Triton's products are tried in some 30 sizes each and cannot add a bias;
# without them cuBLASLt computes both. Fusions with sums are compiled twice, to
# be raced. Level 0 takes the default algorithms of cuBLAS and cuDNN.
_GPU = {
  'xla_gpu_enable_triton_gemm': (False, ('fast', 'balanced', 'tuned')),
  'xla_gpu_experimental_enable_fusion_autotuner': (False, ('fast', 'balanced')),
  'xla_gpu_autotune_level': (0, ('fast',)),
}
_CPU = {'xla_backend_optimization_level': (1, ('fast',))}


def options(mesh: Mesh, effort: Effort) -> dict[str, int | bool]:
  """Returns XLA's options for `jax.jit(compiler_options=…)`.

  effort: 'fast' for programs that run for seconds, 'tuned' for those that run
  for hours. What the user has set in XLA_FLAGS is left out, and what this
  version of XLA does not know.
  """
  platform = mesh.devices.flat[0].platform
  table = _CPU if platform == 'cpu' else _GPU if platform == 'gpu' else {}
  if platform == 'gpu' and not adds_biases():
    table = {}
  given = os.environ.get('XLA_FLAGS', '')
  return {
    name: value
    for name, (value, efforts) in table.items()
    if effort in efforts and name not in given and _exists(name, value)
  }


def adds_biases() -> bool:
  """Returns whether XLA adds biases to cuBLASLt's products as it should.

  Before jaxlib 0.12 it computed a (x w) + b for a (x w + b), and for square
  results the sum with b[None] in place of b[:, None].
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


class Program:
  """A function that is jitted for a mesh; its first call says that it waits.

  what: its name in messages. begin(*args) compiles in a thread, for arrays or
  their shapes; a call waits for it. The function is traced with the mesh in
  use. options: of `jax.jit`.
  """

  def __init__(
    self, what: str, function: Callable, mesh: Mesh, effort: Effort, **jit: Any
  ):
    self.what, self._thread, self._ready = what, None, False
    self._result: list[Any] = []
    self.jitted = jax.jit(
      on_mesh(mesh, function), compiler_options=options(mesh, effort), **jit
    )

  def begin(self, *args: Any) -> None:
    """Starts to compile in a thread."""
    self._thread = threading.Thread(target=self._compile, args=args)
    self._thread.start()
