"""How XLA compiles a program: its options, and what the user sees of it."""

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Literal, NamedTuple

import jax
from jax.core import Tracer
from jax.sharding import Mesh
from tqdm import tqdm

from diffusion_jax.runtime import cache, processes
from diffusion_jax.runtime.sharding import on_mesh, platform_of, replicated

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

  effort: 'fast' for a program that runs for seconds, 'tuned' for one that runs
  for hours. deterministic: only
  operations whose results are always the same, bit for bit; CPUs have no other.
  An option that the user sets in XLA_FLAGS, or that the installed XLA does not
  have, is left out.
  """
  platform = platform_of(mesh)
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

  jaxlib 0.10.2 computes (a x w) + b for a (x w + b), and adds b[None] in place
  of b[:, None] if the product is square; 0.12.0 is right, 0.11 was not tried.
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


@contextlib.contextmanager
def announced(what: str, after: float = 2.0) -> Iterator[None]:
  """Says that a program is compiled, if that takes longer than `after` seconds.

  what: the program's name. A second line says for how long. Only the first of
  several processes says it.
  """
  if not processes.is_first():
    yield
    return
  start, begun = time.monotonic(), threading.Event()
  before = cache.seconds.copy()

  def say():
    begun.set()
    tqdm.write(f'compiling {what} ...')

  timer = threading.Timer(after, say)
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()
  if begun.is_set():
    where, spent = cache.source(before)
    kept = ', kept for the next start' if spent and cache.is_kept() else ''
    kept = f', {where}' if where == 'from the cache' else kept
    tqdm.write(f'compiled {what}: {time.monotonic() - start:.0f} s{kept}')


class Program(NamedTuple):
  """A function of arrays that is compiled at its first call, or before.

  call: the function, whose first call is `announced`. compile: compiles it for
  arrays or shapes.
  """

  call: Callable
  compile: Callable[..., object]


def program(
  what: str, function: Callable, mesh: Mesh, effort: Effort
) -> Program:
  """Returns a function as a program on a mesh; every device gets the results.

  what: its name in messages; effort: see `options`.
  """
  traced = on_mesh(mesh, function)
  inner = jax.jit(traced)  # Programs within others can have no options.
  jitted = jax.jit(
    traced,
    out_shardings=replicated(mesh),
    compiler_options=options(mesh, effort),
  )
  waiting = [what]

  def call(*args):
    if any(isinstance(x, Tracer) for x in jax.tree.leaves(args)):
      return inner(*args)
    if not waiting:
      return jitted(*args)
    with announced(waiting.pop()):
      return jitted(*args)

  return Program(call, lambda *args: jitted.lower(*args).compile())


def hide_warnings() -> None:
  """Hides XLA's warnings, unless the user has chosen a level of messages.

  On GPUs its autotuner warns of a busy machine. JAX itself sets level 1, which
  hides messages below a warning. Without a TPU, libtpu gets a type and a host,
  or it would report that it finds none.
  """
  name = 'TF_CPP_MIN_LOG_LEVEL'
  if os.environ.get(name, '1') == '1':
    os.environ[name] = '2'
  if os.environ.get('TPU_SKIP_MDS_QUERY') == '1':  # JAX has found no TPU.
    os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-8')
    os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
