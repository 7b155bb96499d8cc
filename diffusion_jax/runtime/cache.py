"""The user's cache folder, where JAX keeps compiled programs."""

import collections
import functools
import hashlib
import os
import platform
import sys
import tempfile
from pathlib import Path

import jax

from diffusion_jax.drafts import draft

LIMIT = 4 * 2**30  # bytes of compiled programs; older ones are deleted
# Of the programs of this process, by JAX's name of the event.
seconds: collections.Counter[str] = collections.Counter()
jax.monitoring.register_event_duration_secs_listener(
  lambda event, duration_secs, **_: seconds.update({event: duration_secs})
)


def source(since: collections.Counter | None = None) -> tuple[str, float]:
  """Returns where the programs in `seconds` came from, and their seconds.

  since: an earlier copy of `seconds`, whose programs do not count.
  """
  spent = seconds - (since or collections.Counter())
  every = spent['/jax/core/compile/backend_compile_duration']
  reading = spent['/jax/compilation_cache/cache_retrieval_time_sec']
  return 'from the cache' if reading > every / 2 else 'compilation', every


def is_kept() -> bool:
  """Returns whether JAX keeps compiled programs."""
  values = jax.config.values
  return bool(
    values['jax_compilation_cache_dir']
    and values['jax_enable_compilation_cache']
  )


def folder() -> Path:
  """Returns $XDG_CACHE_HOME/diffusion_jax, by default in ~/.cache."""
  home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return Path(home).expanduser() / 'diffusion_jax'


def keep_compilations(path: str | None = None) -> None:
  """Makes JAX keep compiled programs in a folder, and read them from there.

  path: the folder; None is a folder in the user's cache, '' turns this off. A
  folder that was already set in JAX, such as by JAX_COMPILATION_CACHE_DIR, is
  used instead. If the folder cannot be written, a warning goes to stderr and no
  program is kept.
  """
  write_whole()
  if path == '' or jax.config.values['jax_compilation_cache_dir']:
    return
  root = Path(path).expanduser() if path else folder() / 'compiled'
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
  jax.config.update('jax_compilation_cache_dir', str(place))
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


@functools.cache
def write_whole() -> None:
  """Makes JAX write each program whole, in place of one that a kill has cut.

  JAX 0.10.2 writes into the file itself, which another process may be reading,
  and never replaces it.
  """
  try:
    from jax._src.lru_cache import LRUCache
  except ImportError:  # Another version of JAX has its own way.
    return
  original = LRUCache.put

  def put(self, key, value):
    if self.eviction_enabled or '://' in str(self.path):
      original(self, key, value)
      return
    with draft(self.path / f'{key}-cache') as file:
      file.write(value)

  LRUCache.put = put


def processor() -> str:
  """Returns a name for the instruction set of this processor.

  XLA compiles for all instructions of a CPU, but JAX's cache key does not
  contain them, and several machines may share a home folder.
  """
  try:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = [platform.processor()]
  flags = sorted({x for x in lines if x.startswith(('flags', 'Features'))})
  digest = hashlib.sha256('\n'.join(flags or lines[:1]).encode()).hexdigest()
  return f'{platform.machine()}-{digest[:12]}'


def delete_oldest(root: Path, limit: int = LIMIT) -> None:
  """Deletes the oldest files below root until `limit` bytes are left."""
  files = []
  for path in root.rglob('*'):
    try:  # Another process may delete it at the same time.
      about = path.lstat()
    except FileNotFoundError:
      continue
    if path.is_file() and path.name.endswith(('-cache', '-atime', '.tmp')):
      files.append((about.st_mtime, about.st_size, path))
  size = sum(bytes for _, bytes, _ in files)
  for _, bytes, path in sorted(files, key=lambda x: x[0]):
    if size <= limit:
      return
    path.unlink(missing_ok=True)
    size -= bytes
