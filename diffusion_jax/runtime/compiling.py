"""How XLA compiles a program, what the user sees of it, and where it is kept.

Its options, the precision of products and the layouts of arrays; messages; and
the folder of compiled programs in the user's cache.
"""

import collections
import contextlib
import functools
import gc
import hashlib
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import jax
from jax import stages
from jax.core import Tracer
from jax.experimental.layout import Format, Layout
from jax.extend.core import ClosedJaxpr
from jax.sharding import Mesh
from tqdm import tqdm

from diffusion_jax.aliases import PyTree
from diffusion_jax.atomic_files import draft
from diffusion_jax.paths import cache_folder
from diffusion_jax.runtime import processes
from diffusion_jax.runtime.sharding import on_mesh, platform_of, replicated

Effort = Literal['once', 'fast', 'tuned']

# Triton's products cannot add a bias, and are tried in 30 sizes each. Without
# them cuBLASLt computes products with their biases and activations. Fusions
# with sums are compiled twice, to be raced. Level 0 takes the default
# algorithms of cuBLAS and cuDNN.
_OPTIONS = {
  ('cpu', 'once'): {'xla_backend_optimization_level': 0},
  ('cpu', 'fast'): {'xla_backend_optimization_level': 1},
  ('gpu', 'tuned'): {'xla_gpu_enable_triton_gemm': False},
  ('gpu', 'fast'): {
    'xla_gpu_enable_triton_gemm': False,
    'xla_gpu_experimental_enable_fusion_autotuner': False,
    'xla_gpu_autotune_level': 0,
  },
}


def options(mesh: Mesh, effort: Effort, deterministic: bool = False) -> dict[str, int | bool]:
  """Returns XLA's options for `jax.jit(compiler_options=...)`.

  effort: 'once' for a program that runs once, on CPUs; 'fast' for one that runs
  for seconds, 'tuned' for hours. deterministic: only operations whose results are always the same,
  bit for bit; CPUs have no other. An option that the user sets in XLA_FLAGS, or
  that the installed XLA does not have, is left out.
  """
  platform, chosen = platform_of(mesh), {}
  if platform != 'gpu' or adds_biases():
    chosen |= _OPTIONS.get((platform, effort), {})
  if deterministic and platform == 'gpu':
    chosen['xla_gpu_exclude_nondeterministic_ops'] = True
  given = os.environ.get('XLA_FLAGS', '')
  return {
    name: value for name, value in chosen.items() if name not in given and _exists(name, value)
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
  before, stored = spent(), events[_STORED]

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
    where, _ = source(before)
    kept = ', kept for the next start' if events[_STORED] > stored else ''
    kept = f', {where}' if where == 'from the cache' else kept
    tqdm.write(f'compiled {what}: {time.monotonic() - start:.0f} s{kept}')


class Program(NamedTuple):
  """A function of arrays that is compiled at its first call, or before.

  start: the function, whose first call is `announced`. compile: compiles it for
  arrays or shapes.
  """

  start: Callable
  compile: Callable[..., object]


def program(what: str, function: Callable, mesh: Mesh, effort: Effort) -> Program:
  """Returns a function as a program on a mesh; every device gets the results.

  what: its name in messages; effort: see `options`.
  """
  traced = on_mesh(mesh, function)
  inner = jax.jit(traced)  # Programs within others can have no options.
  jitted = jax.jit(traced, out_shardings=replicated(mesh), compiler_options=options(mesh, effort))
  waiting = [what]

  def start(*args):
    if any(isinstance(x, Tracer) for x in jax.tree.leaves(args)):
      return inner(*args)
    if not waiting:
      return jitted(*args)
    with announced(waiting.pop()):
      return jitted(*args)

  return Program(start, lambda *args: jitted.lower(*args).compile())


def places_of(mesh: Mesh, shapes: PyTree) -> PyTree:
  """Returns the shardings of shapes, on GPUs with layouts that XLA may choose.

  cuDNN's convolutions have other layouts than JAX: a training step with JAX's
  transposes each kernel, and its gradient back. Elsewhere JAX's are the best.
  """
  free = platform_of(mesh) == 'gpu'
  return jax.tree.map(lambda x: Format(Layout.AUTO, x.sharding) if free else x.sharding, shapes)


@contextlib.contextmanager
def _without_collections():
  # Python would search the many objects of a trace for cycles while they are
  # made: a tenth to a fifth of the time.
  enabled = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if enabled:
      gc.enable()


def in_place(
  jitted: stages.Wrapped,
  shapes: PyTree,
  what: str = 'a program',
  read: Callable[[ClosedJaxpr], object] = lambda jaxpr: None,
) -> Program:
  """Returns a jitted (state, ...) -> (state, ...) as a program to be compiled first.

  `compile(...)` takes the arguments after the state, whose shapes are known. The
  first call moves the state into the layouts of the program; later ones expect
  what an earlier one returned.
  what: the program's name in messages. read: called with its trace.
  """
  compiled, formats = None, None

  def compile(*args):
    nonlocal compiled, formats
    with announced(what):
      with _without_collections():
        traced = jitted.trace(shapes, *args)
        lowered = traced.lower()
      read(traced.jaxpr)
      compiled = lowered.compile()
    formats = compiled.input_formats[0][0]

  def start(state, *args):
    nonlocal formats
    assert compiled is not None
    if formats is not None:
      state, formats = jax.tree.map(_relaid, state, formats), None
    return compiled(state, *args)

  return Program(start, compile)


def _relaid(x, target):
  # A copy between equal layouts would be a program for each shape.
  if x.format.layout == target.layout:
    return x
  return jax.device_put(x, Format(target.layout, x.sharding), donate=True)


@contextlib.contextmanager
def products_at(name: str) -> Iterator[None]:
  """Traces programs with products of a precision, in all threads.

  name: 'default' keeps JAX's setting, JAX_DEFAULT_MATMUL_PRECISION included.
  """
  before = precision_in_use()
  wanted = before if name == 'default' else name
  jax.config.update('jax_default_matmul_precision', wanted)
  try:
    yield
  finally:
    jax.config.update('jax_default_matmul_precision', before)


def precision_in_use() -> str | None:
  """Returns JAX's setting; None is the fastest precision of the device."""
  return jax.config.values['jax_default_matmul_precision']


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


LIMIT = 4 * 2**30  # bytes of compiled programs; older ones are deleted
# A program is written into the cache; JAX 0.10 writes none with callbacks.
_STORED = '/jax/compilation_cache/cache_misses'
# {JAX's name of an event: how often it has happened in this process}
events: collections.Counter[str] = collections.Counter()
_seconds = collections.defaultdict(collections.Counter)  # {thread: seconds of its programs}


@functools.cache
def _listen() -> None:
  # Counts the events and the seconds of the programs from now on.
  def add(event, **_):
    events.update([event])

  def add_seconds(event, duration_secs, **_):
    _seconds[threading.get_ident()].update({event: duration_secs})

  jax.monitoring.register_event_listener(add)
  jax.monitoring.register_event_duration_secs_listener(add_seconds)


def spent() -> collections.Counter[str]:
  """Returns the seconds of the programs of this thread, by JAX's name of the event.

  They are of the programs since the first call.
  """
  _listen()
  return _seconds[threading.get_ident()].copy()


def source(since: collections.Counter[str]) -> tuple[str, float]:
  """Returns where this thread's programs came from, and their seconds.

  since: an earlier result of `spent`, whose programs do not count.
  """
  new = spent() - since
  every = new['/jax/core/compile/backend_compile_duration']
  reading = new['/jax/compilation_cache/cache_retrieval_time_sec']
  return 'from the cache' if reading > every / 2 else 'compilation', every


def keep_compilations(path: str | None = None) -> None:
  """Makes JAX keep compiled programs in a folder, and read them from there.

  path: the folder; None is a folder in the user's cache, '' turns this off. A
  folder that was already set in JAX, such as by JAX_COMPILATION_CACHE_DIR, is
  used instead. If the folder cannot be written, a warning goes to stderr and no
  program is kept.
  """
  write_whole()
  if path == '' or jax.config.values['jax_compilation_cache_dir']:
    return
  try:
    root = Path(path).expanduser() if path else cache_folder() / 'compiled'
    place = root / processor()
    place.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=place).close()
    delete_oldest(root)
  except OSError as error:
    print(
      f'warning: compiled programs are not kept in {error.filename} '
      f'({error.strerror}): give another --config.compilation_cache',
      file=sys.stderr,
    )
    return
  jax.config.update('jax_compilation_cache_dir', str(place))
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


@functools.cache
def write_whole() -> None:
  """Makes JAX write each program whole, in place of one that a kill has cut.

  JAX 0.10.2 writes into the file itself, which another process may be reading,
  and never replaces it.
  """
  try:
    from jax._src.lru_cache import LRUCache
  except ImportError:  # Another version of JAX has its own way.
    return
  original = LRUCache.put

  def put(self, key, value):
    if self.eviction_enabled or '://' in str(self.path):
      original(self, key, value)
      return
    with draft(self.path / f'{key}-cache') as file:
      file.write(value)

  LRUCache.put = put


def processor() -> str:
  """Returns a name for the instruction set of this processor.

  XLA compiles for all instructions of a CPU, but JAX's cache key does not
  contain them, and several machines may share a home folder.
  """
  try:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = [platform.processor()]
  flags = sorted({x for x in lines if x.startswith(('flags', 'Features'))})
  digest = hashlib.sha256('\n'.join(flags or lines[:1]).encode()).hexdigest()
  return f'{platform.machine()}-{digest[:12]}'


def delete_oldest(root: Path, limit: int = LIMIT) -> None:
  """Deletes the oldest files below root until `limit` bytes are left."""
  files = []
  for path in root.rglob('*'):
    try:  # Another process may delete it at the same time.
      about = path.lstat()
    except FileNotFoundError:
      continue
    if path.is_file() and path.name.endswith(('-cache', '-atime', '.tmp')):
      files.append((about.st_mtime, about.st_size, path))
  size = sum(bytes for _, bytes, _ in files)
  for _, bytes, path in sorted(files, key=lambda x: x[0]):
    if size <= limit:
      return
    path.unlink(missing_ok=True)
    size -= bytes
