"""Damaged files, and a full disk."""

import contextlib
import resource


@contextlib.contextmanager
def full_disk(limit: int):
  """Limits the size of files, which stands in for a full disk."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def flip(path, place=None):
  """Flips a bit of a byte of a file, by default of that in its middle."""
  data = bytearray(path.read_bytes())
  data[len(data) // 2 if place is None else place] ^= 1
  path.write_bytes(data)


def cut(path):
  """Leaves the first half of a file."""
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
