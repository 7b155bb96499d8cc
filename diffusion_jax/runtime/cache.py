"""The user's cache folder, and the compiled programs that are kept in it."""

import hashlib
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

LIMIT = 4 * 2**30  # bytes of compiled programs; the oldest are deleted beyond


def folder() -> Path:
  """Returns $XDG_CACHE_HOME/diffusion_jax, by default in ~/.cache."""
  home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return Path(home).expanduser() / 'diffusion_jax'


def keep_compilations(chosen: str | None = None) -> None:
  """Lets JAX keep compiled programs in a folder, and read them from there.

  chosen: the folder; None: one in the user's cache, '': none. A folder that the
  user has given to JAX itself, as by JAX_COMPILATION_CACHE_DIR, stays. A folder
  that cannot be written is a warning on stderr, and nothing is kept.
  """
  config: Any = jax.config  # Its fields are made at import.
  if chosen == '' or config.jax_compilation_cache_dir:
    return
  root = Path(chosen).expanduser() if chosen else folder() / 'compiled'
  place = root / processor()
  try:
    place.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=place).close()
    delete_oldest(root)
  except OSError as error:
    print(
      f'warning: compiled programs are not kept in {place} '
      f'({error.strerror}): give another --config.compilation_cache',
      file=sys.stderr,
    )
    return
  config.update('jax_compilation_cache_dir', str(place))
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def processor() -> str:
  """Returns a name for what this processor can execute.

  Code that is compiled for a CPU uses all of its instructions, JAX's key of it
  does not know them, and a home folder may be that of several machines.
  """
  try:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = [platform.processor()]
  known = sorted({x for x in lines if x.startswith(('flags', 'Features'))})
  digest = hashlib.sha256('\n'.join(known or lines[:1]).encode()).hexdigest()
  return f'{platform.machine()}-{digest[:12]}'


def delete_oldest(root: Path, limit: int = LIMIT) -> None:
  """Deletes the oldest files below root until `limit` bytes are left."""
  found = []
  for path in root.rglob('*'):
    try:  # Another process may delete it at the same time.
      about = path.lstat()
    except FileNotFoundError:
      continue
    if path.is_file() and path.name.endswith(('-cache', '-atime')):
      found.append((about.st_mtime, about.st_size, path))
  size = sum(bytes for _, bytes, _ in found)
  for _, bytes, path in sorted(found, key=lambda x: x[0]):
    if size <= limit:
      return
    path.unlink(missing_ok=True)
    size -= bytes
