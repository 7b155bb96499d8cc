"""Settings of glibc's memory allocator for XLA on the CPU."""

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # from malloc.h


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
