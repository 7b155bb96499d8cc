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
from diffusion_jax.data.set_files import files_below
from diffusion_jax.paths import cache_folder

_BYTES, _FILES = 2**26, 100  # bytes and files that are read at a time
TICK = 0.05  # seconds in which a file system may give two changes one time
# Of `identity`: what is read at each look, in bytes; what opening a file costs, in bytes; samples.
_READ, _READ_UNTIMED, _OPENING = 2**24, 2**30, 2**14
_SAMPLES, _BLOCK = 256, 2**16


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

  return kept(paths, lambda: digest([_content(paths)]))


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
  """Returns a sum, which is computed again when one of the files changes; see `identity`.

  paths: the files that decide the sum; without files it is not kept. what: all else that the
  sum depends on.
  """
  if not paths:
    return compute()
  return remembered(digest([what.encode(), identity(paths).encode()]), compute)


def identity(paths: Sequence[str | Path]) -> str:
  """Returns a sum that changes when one of the files does, without reading all of large files.

  It is of the bytes of files, in this order. Of files whose reading costs more than _READ bytes it
  is of their paths, sizes, inodes and times, and of _SAMPLES blocks at random places: times alone
  do not tell, since an image may be mounted where another was. Times of whole seconds, as in such
  an image, may be equal on purpose: of these files up to _READ_UNTIMED bytes are read.
  """
  stats = [os.stat(path) for path in paths]
  if max((x.st_ctime for x in stats), default=0.0) > time.time() - TICK:
    time.sleep(TICK)  # A later change has another time.
  sizes = [x.st_size for x in stats]
  untimed = any(x.st_ctime_ns % 10**9 == 0 for x in stats)
  if sum(sizes) + _OPENING * len(sizes) <= (_READ_UNTIMED if untimed else _READ):
    return digest([_content(paths)])
  times = [(x.st_size, x.st_mtime_ns, x.st_ctime_ns, x.st_ino) for x in stats]
  names = [os.path.abspath(os.fsdecode(path)) for path in paths]
  return digest([repr((names, times)).encode(), *_samples(paths, sizes)])


def _content(paths):
  # Returns the SHA-256 of each file, joined.
  from tqdm import tqdm  # the program installs tqdm

  def some(start):
    parts = []
    for path in paths[start : start + _FILES]:
      with open(path, 'rb') as file:
        parts.append(hashlib.file_digest(file, 'sha256').digest())
    return b''.join(parts)

  starts = range(0, len(paths), _FILES)
  with ThreadPoolExecutor() as pool:
    parts = pool.map(some, starts)
    return b''.join(tqdm(parts, 'summing files', len(starts), delay=1, disable=None))


def _samples(paths, sizes):
  # Yields blocks at the same random places of the joined files each time, and the first and last.
  ends = np.cumsum(sizes)
  places = np.random.default_rng(0).integers(ends[-1], size=_SAMPLES - 2)
  for place in (0, *places.tolist(), max(0, int(ends[-1]) - _BLOCK)):
    i = int(np.searchsorted(ends, place, side='right'))
    with open(paths[i], 'rb') as file:
      file.seek(place - int(ends[i] - sizes[i]))
      yield file.read(_BLOCK)


def remembered(name: str, compute: Callable[[], str]) -> str:
  """Returns the text of a name, which is computed once on this machine if its cache is writable.

  name: a `digest` of all that the text depends on.
  """
  text = ''
  with contextlib.suppress(OSError, ValueError):
    text = Path(cache_folder(), 'sums', name).read_text()
  if not text:
    text = compute()
    with contextlib.suppress(OSError, ValueError):  # a cache that cannot be written
      own_folder(cache_folder() / 'sums')
      with draft(cache_folder() / 'sums' / name) as file:
        file.write(text.encode())
  return text
