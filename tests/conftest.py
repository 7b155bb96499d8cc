"""Sets strict broadcasting and bounds of memory, and makes the runs that many tests read."""

import atexit
import ctypes
import functools
import gc
import os
import shutil
import signal
import tempfile
import threading
from contextlib import nullcontext
from pathlib import Path

from tests import environment  # noqa: F401  it is set before jax is imported

# What tests, and the processes that they start, leave in the folder of temporary files
# goes when the last worker ends; pytest's own folders stay where they are.
if 'PYTEST_XDIST_WORKER' not in os.environ:
  os.environ.setdefault('PYTEST_DEBUG_TEMPROOT', tempfile.gettempdir())
  os.environ['TMPDIR'] = tempfile.tempdir = tempfile.mkdtemp(prefix='tests-')
  atexit.register(shutil.rmtree, tempfile.tempdir, ignore_errors=True)

# Imports and traces make many permanent objects. Searching them for garbage
# takes a quarter of the collection of tests, and later a sixth of the CPU time.
gc.disable()

import jax
import numpy as np
import pytest
from filelock import FileLock
from jax._src.interpreters import mlir
from jax.core import Tracer

from diffusion_jax.core import levels
from diffusion_jax.data import reads
from diffusion_jax.runtime import compiling

# When to give up on processes that tests start. A busy machine may be many
# times slower than usual.
HANG_SECONDS = 1800

# Of a worker of the tests, in bytes, between two files.
MOST_MEMORY = 1.2e9

jax.config.update('jax_numpy_rank_promotion', 'raise')
compiling.write_whole()  # Workers compile the same programs at once.
# JAX makes an MLIR context for each program, which takes two thirds of the
# lowering of a small one. Here each thread has one: threads cannot share it.
_make_context = mlir.make_ir_context
_context_of = functools.cache(lambda thread: _make_context())
mlir.make_ir_context = lambda: _context_of(threading.get_ident())


def computed_once(ends_of):
  """Makes the ends of equal schedules, which each trace checks, one program."""
  found = {}

  def ends(schedule):
    leaves, form = jax.tree.flatten(schedule)
    if not all(isinstance(x, float | int | np.ndarray) or is_known(x) for x in leaves):
      return ends_of(schedule)
    key = type(schedule), form, *((np.asarray(x).tobytes(), np.asarray(x).dtype) for x in leaves)
    if key not in found:
      found[key] = ends_of(schedule)
    return found[key]

  def is_known(x):
    return isinstance(x, jax.Array) and not isinstance(x, Tracer)

  return ends


levels._ends_of = computed_once(levels._ends_of)


def pytest_addoption(parser):
  parser.addoption('--keys', type=int, default=1, help='number of seeds for each test')
  parser.addoption(
    '--save_outputs',
    action='store_true',
    help='store what the notebooks print and draw (with -m tutorials)',
  )


# Files that take minutes come first: no worker then waits long for the other.
LONG = 'tests/app', 'tests/test_'


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def pytest_collection_finish():
  gc.freeze()
  gc.set_threshold(100_000, 20, 100)
  gc.enable()


def pytest_xdist_auto_num_workers(config):
  """Returns the number of workers of -n auto, as many as the memory holds."""
  free = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  cores = len(os.sched_getaffinity(0))
  return max(1, min(cores, int(free / (1.5 * MOST_MEMORY))))


def memory_in_use():
  pages = int(Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE')


@pytest.fixture(scope='session')
def most_memory():
  """Returns {'bytes': the memory of a worker that forgets its programs}."""
  return {'bytes': MOST_MEMORY}


@pytest.fixture(autouse=True, scope='module')
def bounded_memory(most_memory):
  """Forgets compiled programs after a file that leaves a large process.

  They are read from the cache on the disk if another file needs them. This
  takes 0.3 s and not all memory returns, so the limit rises.
  """
  yield
  if memory_in_use() > most_memory['bytes']:
    jax.clear_caches()
    _context_of.cache_clear()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    most_memory['bytes'] = max(MOST_MEMORY, memory_in_use() + 3e8)


def pytest_generate_tests(metafunc):
  count = metafunc.config.getoption('keys')
  if count > 1:
    metafunc.parametrize('seeds', range(count), indirect=True, scope='session')


@pytest.fixture(autouse=True, scope='session')
def seeds(request):
  """Adds to the seed of every key and generator that a test makes (--keys)."""
  shift = 1000 * getattr(request, 'param', 0)

  def moved(make):
    return lambda seed, *rest: make(seed + shift if isinstance(seed, int) else seed, *rest)

  with pytest.MonkeyPatch.context() as patch:
    if shift:
      patch.setattr(jax.random, 'key', moved(jax.random.key))
      patch.setattr(np.random, 'default_rng', moved(np.random.default_rng))
    yield


@pytest.fixture(scope='session')
def trained_once(tmp_path_factory):
  """Returns a function (name, config) -> the folder of a run, for all workers."""
  place = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    place = place.parent

  def train(name, config):
    from diffusion_jax.app.modes import MODES

    workdir, done = place / 'trained' / name, place / f'{name}.done'
    with FileLock(place / f'{name}.lock'):
      if not done.exists():
        MODES['train'](config, str(workdir))
        done.touch()
    return workdir

  return train


@pytest.fixture(scope='session')
def digits_run(trained_once):
  """Returns a finished run of digits:smoke, with all files of a training.

  Tests copy the folder.
  """
  from tests.app.conftest import SEEN, smoke

  return trained_once('digits-smoke', smoke(**SEEN))


@pytest.fixture(scope='session')
def averaged(trained_once):
  """Returns a run of four steps with averages, each with a checkpoint and a snapshot."""
  from tests.app.conftest import TRACKED, smoke

  return trained_once('averaged', smoke(**TRACKED))


@pytest.fixture
def signals():
  """Handles signals as in a terminal: nohup and shells (&) ignore some.

  Yields the handlers, by the signal, which new processes inherit.
  """
  new = dict.fromkeys((signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1), signal.SIG_DFL)
  new |= {signal.SIGINT: signal.default_int_handler}
  before = {number: signal.signal(number, handler) for number, handler in new.items()}
  blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, new)
  yield new
  signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
  for number, handler in before.items():
    signal.signal(number, handler)


# Rooms of maths, in whose tests any NaN is an error.
MATHS = tuple(f'tests/{room}/' for room in ('core', 'papers', 'sampling', 'testing'))


@pytest.fixture(autouse=True)
def nan_check(request):
  """Makes any NaN an error in the tests of MATHS."""
  with jax.debug_nans(True) if request.node.nodeid.startswith(MATHS) else nullcontext():
    yield


def forget_reads():
  """Forgets what the user's code has opened in this process, which of tests is their own code."""
  for known in reads._opened, reads._found, reads._written, reads._summed, reads._children:
    known.clear()


@pytest.fixture(autouse=True)
def nothing_read():
  """Begins each test like a new process."""
  forget_reads()


@pytest.fixture
def key():
  return jax.random.key(0)


@pytest.fixture
def rng(seeds):
  return np.random.default_rng(0)
