"""The start of a program: its versions, streams, memory, unused devices, and its phases."""

import ctypes
import functools
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from diffusion_jax.errors import UserError

try:  # No public function says whether JAX has computed.
  from jax._src import xla_bridge
except ImportError:  # JAX has moved it.
  xla_bridge: Any = None

PACKAGES = ('diffusion_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
# Settings of JAX that change results, and JAX's defaults.
_SETTINGS: dict[str, object] = {
  'jax_default_matmul_precision': None,
  'jax_default_prng_impl': 'threefry2x32',
  'jax_enable_x64': False,
  'jax_high_dynamic_range_gumbel': False,
  'jax_numpy_dtype_promotion': 'standard',
  'jax_random_seed_offset': 0,
  'jax_threefry_partitionable': True,
}
THREADS = 8  # of `fix_threads`
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # numbers of options in malloc.h


def seconds_since_launch() -> float | None:
  """Returns the age of this process in seconds, None if it is unknown."""
  try:
    fields = Path('/proc/self/stat').read_text().rpartition(')')[2].split()
    ticks = int(fields[19])  # starttime, the 22nd field of proc(5)
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf('SC_CLK_TCK')
  except (OSError, ValueError, IndexError, AttributeError):
    return None


class _Stream(io.FileIO):
  is_lost = False

  def write(self, data):
    try:
      return super().write(data)
    except BrokenPipeError:
      pass
    except OSError as error:  # a full disk: the work itself goes on
      if not self.is_lost and sys.stdout.fileno() == self.fileno():
        print(
          f'note: stdout cannot be written ({error.strerror}); its lines are lost', file=sys.stderr
        )
      self.is_lost = True
    return memoryview(data).nbytes


def open_streams() -> None:
  """Opens stdout and stderr so that no write fails.

  What nobody reads (`--help | true`, `>&-`) and what no disk takes is dropped;
  what the encoding lacks, as in a path, is escaped.
  """
  for name in ('stdout', 'stderr'):
    stream = getattr(sys, name)  # None: it is closed
    raw = _Stream(os.dup(stream.fileno()) if stream else os.devnull, 'w')
    encoding = getattr(stream, 'encoding', 'utf-8')
    text = io.TextIOWrapper(
      io.BufferedWriter(raw), encoding, errors='backslashreplace', line_buffering=True
    )
    setattr(sys, name, text)


class StartUp:
  """Measures the phases of a start.

  The clock starts at construction. The time of the process before that, mostly
  imports, is the first phase. processor: the seconds of the processor until then.
  """

  def __init__(self):
    before, self.processor = seconds_since_launch(), time.process_time()
    self._phases = {} if before is None else {'before training': before}
    self._clock = time.perf_counter()

  def mark(self, name: str, last: str = '', seconds: float = 0.0) -> None:
    """Ends a phase, whose part `last` took `seconds`; its first end counts."""
    now = time.perf_counter()
    self._phases.setdefault(name, now - self._clock - seconds)
    self._phases.setdefault(last or name, seconds)
    self._clock = now

  def line(self, verbose: bool = True) -> str:
    """Returns a line with all phases, or with the longest."""
    total = f'first step {sum(self._phases.values()):.1f} s after the launch'
    if not verbose:
      name, seconds = max(self._phases.items(), key=lambda item: item[1])
      return f'{total}, of which {name} took {seconds:.1f}'
    return f'{total}: ' + ', '.join(f'{name} {x:.1f}' for name, x in self._phases.items())


def keep_freed_memory() -> bool:
  """Makes glibc keep freed memory in the process; returns whether it does.

  XLA:CPU allocates the buffers of each call as one block. glibc returns such
  large blocks to Linux when they are freed, and Linux must clear and map every
  page of the next one. With one arena that never shrinks, a process keeps the
  memory of its largest step until it ends. Nothing changes without glibc, or if
  the user has set glibc's variables.
  """
  own = any(name.startswith(('MALLOC_', 'GLIBC_TUN')) for name in os.environ)
  if own or platform.libc_ver()[0] != 'glibc':
    return False
  mallopt = ctypes.CDLL(None).mallopt
  options = (_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)  # never
  return all([mallopt(*option) for option in options])


# Of what this process imports, even if another one is installed later
_version = functools.cache(metadata.version)


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
  """Returns the versions of the packages that are installed.

  The settings of JAX that change results are added unless they are JAX's own.
  """
  values = {name: jax.config.values.get(name) for name in _SETTINGS}
  values = {name: getattr(x, 'value', x) for name, x in values.items()}
  installed = {n: str(x) for n, x in values.items() if x != _SETTINGS[n]}
  for name in packages:
    try:
      installed[name] = _version(name)
    except metadata.PackageNotFoundError:  # Ours may run from a checkout.
      continue
  return installed


def commits() -> dict[str, str]:
  """Returns the git commits of the package and the working folder.

  A folder outside a repository is left out; -dirty marks uncommitted changes.
  """
  package = Path(__file__).resolve().parents[2]
  names = {}
  if (package / '.git').exists():  # An environment may be in a repository.
    names['package'] = _commit(package)
  if not Path.cwd().is_relative_to(package):
    names['working folder'] = _commit(Path.cwd())
  return {name: commit for name, commit in names.items() if commit}


def _commit(folder):
  command = ['git', 'describe', '--always', '--dirty', '--abbrev=12']
  try:
    result = subprocess.run(
      [*command, '--exclude=*'],  # the commit, not the distance from a tag
      cwd=folder,
      capture_output=True,
      text=True,
      timeout=10,
    )
  except (OSError, subprocess.TimeoutExpired):  # no git, or a slow drive
    return ''
  return result.stdout.strip() if result.returncode == 0 else ''


def fix_threads() -> None:
  """Gives the CPU `THREADS` threads, whatever the machine has; before JAX's first computation.

  Their number decides how XLA splits sums of products and arrays, and so the last bits. XLA
  takes more for more than `THREADS` simulated devices. Raises UserError after a computation.
  """
  is_late = xla_bridge is not None and xla_bridge.backends_are_initialized()
  if is_late and os.environ.get('PJRT_NPROC') != str(THREADS):
    raise UserError(
      "config.training.machine.fixed_parts sets JAX's number of threads, which cannot change after "
      'a computation: a module of the config computes when it is imported. Move that into a '
      'function, or set '
      f'PJRT_NPROC={THREADS} in the environment'
    )
  os.environ['PJRT_NPROC'] = str(THREADS)


def unused_gpu() -> str:
  """Returns a note if JAX uses the CPU where nvidia-smi lists a GPU, '' otherwise.

  Whoever sets JAX_PLATFORMS or CUDA_VISIBLE_DEVICES has chosen.
  """
  chosen = {'JAX_PLATFORMS', 'CUDA_VISIBLE_DEVICES'} & os.environ.keys()
  if chosen or jax.default_backend() != 'cpu' or not (names := _names_of_gpus()):
    return ''
  return f"note: JAX uses the CPU, not the {names[0]}: pip install -e '.[cuda]'"


def unused_by_training(size: int) -> list[str]:
  """Returns a note for each thing that a training on `size` devices leaves unused.

  They are GPUs of the machine, and tasks and GPUs of a job of SLURM.
  """
  processes, platform = jax.process_count(), jax.default_backend()
  tasks, gpus = _given_by_slurm(os.environ)
  notes = []
  if tasks > processes:
    notes.append(
      f'note: SLURM gave this job {tasks} tasks, and {processes} joined in this training: '
      'start it by srun, with --multihost'
    )
  if platform != 'gpu':
    return notes
  if gpus > size:
    notes.append(f'note: SLURM gave this job {gpus} GPUs, and this training uses {size} of them')
  elif processes == 1 and (found := len(_names_of_gpus())) > size:
    seen = jax.local_device_count()
    why = f'JAX sees {seen}'
    if seen > size:
      why = f'--config.training.machine.mesh=-1,1 takes the {seen} that JAX sees'
    elif visible := os.environ.get('CUDA_VISIBLE_DEVICES'):
      why += f', by CUDA_VISIBLE_DEVICES={visible}'
    notes.append(f'note: this machine has {found} GPUs, and this training uses {size} ({why})')
  return notes


def _names_of_gpus() -> list[str]:
  # Of this machine, also those that JAX cannot see.
  if not shutil.which('nvidia-smi'):
    return []
  try:
    listed = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True, timeout=10)
  except (OSError, subprocess.TimeoutExpired):
    return []
  if listed.returncode:
    return []
  names = re.findall(r'^GPU [0-9]+: ([^(\n]*)', listed.stdout, re.MULTILINE)
  return [name.strip() for name in names]


def _given_by_slurm(environ: Mapping[str, str]) -> tuple[int, int]:
  # The numbers of tasks and GPUs of a job; 0 where SLURM does not say.
  def number(name, default=0):
    digits = re.search('[0-9]+$', environ.get(name, ''))  # such as 8, a100:8, gpu:a100:8
    return int(digits[0]) if digits else default

  nodes, tasks = number('SLURM_JOB_NUM_NODES', 1), number('SLURM_NTASKS')
  each_node = number('SLURM_GPUS_ON_NODE') or number('SLURM_GPUS_PER_NODE')
  of_tasks = number('SLURM_GPUS_PER_TASK') * tasks
  return tasks, number('SLURM_GPUS') or of_tasks or each_node * nodes
