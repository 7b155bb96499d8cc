"""Sums of what data contain, which are computed once and kept on this machine."""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from diffusion_jax.atomic_files import draft
from diffusion_jax.paths import cache_folder

_LENGTH = 16  # digits of a sum
_BLOCK = 2**26  # bytes of an array
_TICK = 0.05  # seconds in which a file system may give two changes one time
_THREADS = 8


def digest(parts: Iterable[bytes | np.ndarray]) -> str:
  """Returns 16 digits of the SHA-256 of bytes and arrays, with their types."""
  total = hashlib.sha256()
  for part in parts:
    blocks = [part]
    if isinstance(part, np.ndarray):
      total.update(f'{part.dtype.str} {part.shape} '.encode())
      flat = part[None] if part.ndim == 0 else part
      count = max(1, min(len(flat), -(-part.nbytes // _BLOCK)))
      blocks = (block.tobytes() for block in np.array_split(flat, count))
    else:
      total.update(b'%d:' % len(part))
    for block in blocks:
      total.update(block)
  return total.hexdigest()[:_LENGTH]


def of_array(array: np.ndarray) -> str:
  """Returns the `digest` of an array, kept if it is mapped from a whole file."""
  paths = [array.filename] if isinstance(array, np.memmap) else []
  if any(os.path.getsize(path) != array.offset + array.nbytes for path in paths):
    paths = []
  return kept(paths, lambda: digest([array]), f'{array.dtype} {array.shape} {array.strides}')


def of_files(paths: Sequence[str | Path]) -> str:
  """Returns a sum of the bytes of files, in this order."""

  def each(path):
    with open(path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').digest()

  def compute():
    with ThreadPoolExecutor(_THREADS) as pool:
      how = {'unit': 'file', 'delay': 3.0, 'mininterval': 1.0}
      return digest(tqdm(pool.map(each, paths), 'summing', len(paths), **how))

  return kept(paths, compute)


def kept(paths: Sequence[str | Path], compute: Callable[[], str], what: str = '') -> str:
  """Returns a sum, which is computed again when one of the files changes.

  paths: the files that decide the sum; a file is the same while its size, times
  and inode are. Without files the sum is not kept. what: all else that the sum
  depends on.
  """
  if not paths:
    return compute()
  stats = [os.stat(path) for path in paths]
  if max(x.st_ctime for x in stats) > time.time() - _TICK:
    time.sleep(_TICK)  # A later change has another time.
  about = [(x.st_size, x.st_mtime_ns, x.st_ctime_ns, x.st_ino) for x in stats]
  key = digest([what.encode(), repr(about).encode()])
  with contextlib.suppress(OSError, ValueError):
    path = cache_folder() / 'sums' / key
    if len(total := path.read_text()) == _LENGTH:
      return total
  total = compute()
  with contextlib.suppress(OSError):  # a cache that cannot be written
    path = cache_folder() / 'sums' / key
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft(path) as file:
      file.write(total.encode())
  return total
