"""Data in a bucket, gs:// or s3://, copied once into a folder of this machine.

The copy of gs://bucket/a/b is gs/bucket/a/b in data/ of `paths.cache_folder`. A hidden file next
to it has the ETag of the object, which is copied again if its ETag or size changes.
"""

import contextlib
import fnmatch
import glob
import importlib
import logging
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from diffusion_jax.atomic_files import draft, own_folder
from diffusion_jax.errors import naming
from diffusion_jax.paths import cache_folder, is_address

# {scheme: (library, the extra that installs it)}.
LIBRARIES = {'gs': ('gcsfs', 'gcs'), 's3': ('s3fs', 's3')}
_THREADS = 8  # objects that are copied at the same time


def local(path: str, suffix: str = '') -> str:
  """Returns the path of the copy of data in a bucket, which is made if needed.

  path: the address of an object, a folder or a pattern; other paths are
  returned as they are. suffix: of the objects of a folder, such as '.tar'. Raises
  ValueError or OSError in one line.
  """
  if not is_address(path):
    return path
  target = place(path)
  with waiting(path):
    bucket = open_bucket(path)
    with naming(f'{path} cannot be read with your credentials'):
      objects = _objects(bucket, path.rstrip('/'))
  copies = {place(address): version for address, version in objects.items()}
  wanted = [x for x in copies if x == target or fnmatch.fnmatch(x.name.lower(), f'*{suffix}')]
  if not wanted:
    raise FileNotFoundError(f'{path}: the bucket has no object or folder of this name')
  missing = [x for x in wanted if _version(x) != copies[x][1:]]
  if missing:
    size = sum(copies[x][1] for x in missing)
    print(f'copying {len(missing):,} files of {path}, {size:,} bytes, to {target}', flush=True)
  with naming(f'{path} cannot be copied to {target}'):
    with ThreadPoolExecutor(_THREADS) as pool:
      list(pool.map(lambda x: _copy(bucket, x, *copies[x]), missing))
    below = target.rglob('*') if target.is_dir() else map(Path, glob.glob(str(target)))
    for copy in {*below} - copies.keys() if target not in copies else ():
      if _mark(copy).is_file():  # Its object was removed.
        copy.unlink()
  return str(target)


def place(path: str) -> Path:
  """Returns where the copy of an address is; ValueError for a name that leads out of it."""
  scheme, _, name = path.partition('://')
  parts = name.rstrip('/').split('/')
  if {'', '.', '..'} & {*parts}:
    raise ValueError(f'{path}: a name with an empty part, . or .. cannot be copied to a folder')
  return Path(cache_folder(), 'data', scheme, *parts)


def open_bucket(path: str, **options: object) -> Any:
  """Returns the file system of an address; ValueError without its library.

  It does not remember what it has read. options: of the library.
  """
  scheme = path.partition('://')[0]
  if scheme not in LIBRARIES:
    raise ValueError(
      f'{path}: data are read from gs:// and s3://, not from {scheme}://: copy them to a '
      'folder of this machine, or mount the bucket'
    )
  library, extra = LIBRARIES[scheme]
  for name in (library, 'google.auth'):  # They log tracebacks.
    logging.getLogger(name).setLevel(logging.CRITICAL)
  try:
    importlib.import_module(library)
  except ImportError:
    raise ValueError(f"{path} needs the library {library}: pip install -e '.[{extra}]'") from None
  fsspec = importlib.import_module('fsspec')
  return fsspec.filesystem(scheme, use_listings_cache=False, **options)


@contextlib.contextmanager
def waiting(address: str) -> Iterator[None]:
  """Says after 5 s what the block waits for."""
  line = f'still waiting for {address}, which needs a network and credentials'
  timer = threading.Timer(5.0, print, [line], {'file': sys.stderr, 'flush': True})
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def _objects(bucket, path):
  # Returns {address: (name, size, ETag)} of an object, or of all in a folder.
  scheme, _, name = path.partition('://')
  if glob.has_magic(name.partition('/')[0]):
    raise ValueError('the name of a bucket cannot be a pattern')
  try:
    objects = bucket.find(name, detail=True)
    if not objects and glob.has_magic(name):
      objects = bucket.glob(name, detail=True)
  except FileNotFoundError:  # no such bucket
    return {}
  return {
    f'{scheme}://{name}': (name, x['size'], x.get('etag') or x['ETag'])
    for name, x in objects.items()
    if x['type'] == 'file' and not name.endswith('/')
  }


def _copy(bucket, path, name, size, etag):
  if path.is_dir():  # An object replaces a folder, or a folder an object.
    shutil.rmtree(path)
  if _mark(path.parent).is_file():
    path.parent.unlink(missing_ok=True)
    _mark(path.parent).unlink(missing_ok=True)
  own_folder(path.parent)
  with draft(path) as file:
    bucket.get_file(name, file.name)
    if (copied := os.path.getsize(file.name)) != size:
      raise OSError(f'{copied:,} of the {size:,} bytes of {name} came')
  with draft(_mark(path)) as file:
    file.write(etag.encode())


def _version(path):
  # Returns the (size, ETag) of a copy, None without one.
  mark = _mark(path)
  return (path.stat().st_size, mark.read_text()) if path.is_file() and mark.is_file() else None


def _mark(path):
  return path.with_name(f'.{path.name}.etag')
