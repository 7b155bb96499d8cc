"""The start of a program: its phases, and how glibc keeps its memory."""

import ctypes
import io
import os
import platform
import sys
import time
from pathlib import Path

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
  """Measures the phases of a start; str() makes one line of them.

  The clock starts at construction. The time of the process before that, mostly
  imports, is the first phase.
  """

  def __init__(self):
    before = seconds_since_launch()
    self._phases = {} if before is None else {'before training': before}
    self._clock = time.perf_counter()

  def mark(self, name: str, last: str = '', seconds: float = 0.0) -> None:
    """Ends a phase, whose part `last` took `seconds`; its first end counts."""
    now = time.perf_counter()
    self._phases.setdefault(name, now - self._clock - seconds)
    self._phases.setdefault(last or name, seconds)
    self._clock = now

  def __str__(self) -> str:
    total = sum(self._phases.values())
    parts = ', '.join(f'{name} {x:.1f}' for name, x in self._phases.items())
    return f'first step {total:.1f} s after the launch: {parts}'


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
