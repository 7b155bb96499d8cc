"""Sums of what data contain, which are computed once and kept on this machine."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from diffusion_jax.atomic_files import draft, own_folder
from diffusion_jax.data.files import files_below
from diffusion_jax.paths import cache_folder

_BYTES, _FILES = 2**26, 100  # bytes and files that are read at a time
_TICK = 0.05  # seconds in which a file system may give two changes one time


def digest(parts: Iterable[bytes | np.ndarray]) -> str:
  """Returns 16 digits of the SHA-256 of bytes and arrays, with their types."""
  total = hashlib.sha256()
  for part in parts:
    blocks: Iterable[bytes] = []
    if isinstance(part, np.ndarray):
      total.update(f'{part.dtype.str} {part.shape} '.encode())
      flat = part[None] if part.ndim == 0 else part
      count = max(1, min(len(flat), -(-part.nbytes // _BYTES)))
      blocks = (block.tobytes() for block in np.array_split(flat, count))
    else:
      total.update(b'%d:' % len(part))
      blocks = [part]
    for block in blocks:
      total.update(block)
  return total.hexdigest()[:16]


def of_json(content: object) -> str:
  """Returns the `digest` of JSON values; orders of keys and 1.0 or 1 are the same."""

  def canonical(x):
    if isinstance(x, dict):
      return {name: canonical(value) for name, value in x.items()}
    if isinstance(x, (list, tuple)):
      return [canonical(value) for value in x]
    return int(x) if isinstance(x, float) and x.is_integer() else x

  return digest([json.dumps(canonical(content), sort_keys=True).encode()])


def of_array(array: np.ndarray) -> str:
  """Returns the `digest` of an array, kept if it is mapped from a whole file."""
  if (
    isinstance(array, np.memmap)
    and (path := array.filename)
    and os.path.getsize(path) == array.offset + array.nbytes
  ):
    return kept([path], lambda: digest([array]), f'{array.shape} {array.strides}')
  return digest([array])


def of_files(paths: Sequence[str | Path]) -> str:
  """Returns a sum of the bytes of files, in this order."""

  def some(start):
    parts = []
    for path in paths[start : start + _FILES]:
      with open(path, 'rb') as file:
        parts.append(hashlib.file_digest(file, 'sha256').digest())
    return b''.join(parts)

  def compute():
    from tqdm import tqdm  # the program installs tqdm

    starts = range(0, len(paths), _FILES)
    with ThreadPoolExecutor() as pool:
      return digest(tqdm(pool.map(some, starts), 'summing files', len(starts), disable=None))

  return kept(paths, compute)


def of_path(path: str | Path) -> str:
  """Returns a sum of a file, or of the names and contents of a folder; '' without either.

  Hidden files of a folder are left out.
  """
  path = Path(path).expanduser()
  if path.is_file():

    def compute():
      with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()[:16]

    return f'sha256 {kept([path], compute, "sha256")}'
  if not path.is_dir():
    return ''
  names = files_below(path, [''])
  content = of_files([path / name for name in names])
  return f'files {digest([content.encode(), *map(os.fsencode, names)])}'


def kept(paths: Sequence[str | Path], compute: Callable[[], str], what: str = '') -> str:
  """Returns a sum, which is computed again when one of the files changes.

  paths: the files that decide the sum; a file is the same while its size, times
  and inode are. Without files the sum is not kept. what: all else that the sum
  depends on.
  """
  stats = [os.stat(path) for path in paths]
  if max((x.st_ctime for x in stats), default=0.0) > time.time() - _TICK:
    time.sleep(_TICK)  # A later change has another time.
  about = [(x.st_size, x.st_mtime_ns, x.st_ctime_ns, x.st_ino) for x in stats]
  name = digest([what.encode(), repr(about).encode()])
  total = ''
  with contextlib.suppress(OSError, ValueError):
    total = Path(cache_folder(), 'sums', name).read_text() if paths else ''
  if not total:
    total = compute()
    with contextlib.suppress(OSError, ValueError):  # a cache that cannot be written
      if paths:
        own_folder(cache_folder() / 'sums')
        with draft(cache_folder() / 'sums' / name) as file:
          file.write(total.encode())
  return total
