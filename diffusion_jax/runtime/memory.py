"""Keeps freed memory for the next step of a program."""

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed_memory() -> bool:
  """Makes glibc keep freed memory in the process; returns whether it does.

  XLA:CPU allocates the buffers of each call at once. glibc gives such large
  blocks back to Linux when they are freed, and every page of the next is
  cleared and mapped anew. One arena that never shrinks holds them instead. A
  process then keeps the memory of its largest step until it ends. Elsewhere
  than on glibc nothing is changed, nor where the user has set its variables.
  """
  own = any(name.startswith(('MALLOC_', 'GLIBC_TUN')) for name in os.environ)
  if own or platform.libc_ver()[0] != 'glibc':
    return False
  mallopt = ctypes.CDLL(None).mallopt
  options = (_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1)
  return all([mallopt(*option) for option in options])
