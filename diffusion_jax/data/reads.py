"""What a user's own parts read by themselves while a result is made of them.

Python says which files and folders it opens (`sys.addaudithook`). Those that the user's code opens,
by itself or by a library, and those that it imports are recorded, with what they hold when the
result is written. The result keeps the record, and is used again while the record is true.

Not seen are files that a library opens without Python (HDF5 for instance), what other processes
read, variables of the environment and the network; nor, in Python 3.11, what a library's own
function opens in a thread of the user's.
"""

import contextlib
import functools
import importlib.util
import os
import stat
import sys
import sysconfig
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FrameType

from diffusion_jax.data import code_sums, sums
from diffusion_jax.data.code_sums import INSTALLED, PACKAGE

Opened = dict[str, str]  # {name of a file, a folder or a package: what it holds}
FILE = 'opened.json'  # the record of what is not finished
CHANGED = 'changed while it was read'  # no content
_PACKAGE, _FOLDER = 'package:', '/'  # how names of packages begin and those of folders end

_opened: dict[str, tuple | None] = {}  # {path: its size, times and inode when it was opened}
_found: Opened = {}  # what `record` has summed up
_written: set[str] = set()
_summed: set[str] = set()  # paths whose content the settings of results have
_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()  # that the user's code started
_children: list[float] = []  # when it last started a process
_hooks: list[object] = []  # at most one: it cannot be removed


def watch() -> None:
  """Begins to record in this process."""
  if not _hooks:
    _hooks.append(_hear)
    sys.addaudithook(_hear)


def record() -> Opened:
  """Returns what the user's code has opened until now, by name."""
  for path, about in [*_opened.items()]:
    if path in _found:
      continue
    after = about if path.startswith(_PACKAGE) or path.endswith(_FOLDER) else _about(path)
    if about is not None and after is None:
      _opened.pop(path, None)  # It was a file for the moment.
    else:
      _found[path] = identity(path) if after == about else CHANGED
  named = {path: x for path, x in _found.items() if path in _opened and not _is_summed(path)}
  return {_name(path): x for path, x in sorted(named.items())}


def joined(*records: Mapping[str, str]) -> Opened:
  """Returns records as one; what they do not agree on has changed."""
  found: Opened = {}
  for each in records:
    found |= {name: x if found.get(name, x) == x else CHANGED for name, x in each.items()}
  return found


def now(before: object) -> Opened:
  """Returns what the names of a record hold now.

  Names of files are looked up only if this process records. Without parts of the user's own it
  does not: the record may be a stranger's.
  """
  names = [x for x in before if isinstance(x, str)] if isinstance(before, Mapping) else ()
  return {x: identity(x) if _hooks or x.startswith(_PACKAGE) else '' for x in names}


def identity(name: str) -> str:
  """Returns what a name of a record holds, '' for what is missing and what is no regular file."""
  if name.startswith(_PACKAGE):
    return code_sums.of_installed(name.removeprefix(_PACKAGE))
  path = Path(name)
  with contextlib.suppress(OSError, ValueError):
    if name.endswith(_FOLDER):
      shown = sorted(x for x in os.listdir(path) if x[0] != '.' and x != '__pycache__')
      return sums.digest(map(os.fsencode, shown))
    if path.is_file():
      return code_sums.of_file(path) if path.suffix == '.py' else sums.of_path(path)
  return ''


def leave_out(paths: Iterable[str]) -> None:
  """Leaves files, and folders without their hidden files, to settings that have their content."""
  _summed.update(os.path.abspath(os.path.expanduser(path)) for path in paths)


def _is_summed(path):
  places = (x for x in (Path(path), *Path(path).parents) if str(x) in _summed)
  return any(not any(x[0] == '.' for x in Path(path).relative_to(y).parts) for y in places)


def _name(path):
  # What is below the working folder may move with it.
  here = os.path.join(os.getcwd(), '')
  return path.removeprefix(here) or f'.{_FOLDER}'


# -- what Python says ------------------------------------------------------------


def _hear(event, args):
  if hear := _EVENTS.get(event):
    with contextlib.suppress(Exception):  # Whatever is opened is opened.
      hear(*args)


def _open(path, mode, flags):
  if isinstance(path, int) or not _is_of_user():
    return
  path = _path_of(path)
  if flags & (os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
    _written.add(path)
    _opened.pop(path, None)
  elif path not in _written:
    _add(path)


def _list(path):
  by_import = 'importlib' in sys._getframe(2).f_code.co_filename
  if not isinstance(path, int) and not by_import and _is_of_user():
    _add(os.path.join(_path_of(path or '.'), ''))


def _import(module, filename, *rest):
  if filename and _is_of_user():  # an extension; files of Python are opened
    _add(_path_of(filename))


def _thread(function, *rest):
  if _is_of_user():
    _threads.add(function.__self__)


def _child(*args):
  if _is_of_user():
    _children[:] = [time.time()]


_EVENTS = {
  'open': _open,
  'import': _import,
  **dict.fromkeys(('os.listdir', 'os.scandir'), _list),
  **dict.fromkeys(('_thread.start_new_thread', '_thread.start_joinable_thread'), _thread),
  **dict.fromkeys(('subprocess.Popen', 'os.system', 'os.posix_spawn', 'os.fork'), _child),
}


def _path_of(path):
  path = os.path.abspath(os.fsdecode(path))
  with contextlib.suppress(ValueError):
    path = importlib.util.source_from_cache(path) if path.endswith('.pyc') else path
  return path


def _add(path):
  parts = path.split(os.sep)
  for i in (i for i, part in enumerate(parts[:-1]) if part in INSTALLED):
    name = parts[i + 1].partition('.')[0]
    if name.isidentifier():  # not a list of what a distribution has
      _opened[_PACKAGE + name] = None
    return
  if path.startswith(_left_out()):
    return
  about = _about(path)
  if about is not None:
    mode, *_, changed = about
    # What a process writes that the user's code has started is no input.
    is_product = bool(_children) and changed / 1e9 > _children[0] - sums.TICK
    if is_product or not (stat.S_ISREG(mode) or path.endswith(_FOLDER)):
      return
  if _opened.setdefault(path, about) != about and not path.endswith(_FOLDER):
    _found[path] = CHANGED


def _about(path):
  try:
    x = os.stat(path)
  except OSError:
    return None
  return x.st_mode, x.st_size, x.st_ino, x.st_mtime_ns, x.st_ctime_ns


@functools.cache
def _left_out():
  # The system, Python, this package, which has a sum of its own, and caches.
  python = [sysconfig.get_path(x) for x in ('stdlib', 'platstdlib')]
  python += [os.path.join(x, y) for x in (sys.prefix, sys.base_prefix) for y in ('lib', 'share')]
  system = (
    '/proc /sys /dev /etc /lib /lib64 /usr/lib /usr/lib64 /usr/share /System /Library'.split()
  )
  caches = [os.path.expanduser(os.environ.get('XDG_CACHE_HOME') or '~/.cache')]
  return tuple(os.path.join(x, '') for x in (*python, *system, *caches, str(PACKAGE)))


# -- whose code it is ------------------------------------------------------------

# The user's code that these files of ours call is compared by the examples that it gives.
_DATA = (f'data{os.sep}', os.path.join('app', 'inputs', 'datasets.py'))
_SIMULATIONS = os.path.join('data', 'simulations.py')
# What libraries read in these files does not change what they compute.
_CACHES = tuple(
  os.path.join(*x.split('/'))
  for x in ('jax/_src/compilation_cache.py', 'matplotlib/font_manager.py')
)


@functools.lru_cache(10_000)
def _kind(file):
  # Returns 'user', 'ours', 'data', 'simulations', 'cache' or, of other libraries, ''.
  if file.startswith(top := os.path.join(PACKAGE, '')):
    name = file.removeprefix(top)
    return 'simulations' if name == _SIMULATIONS else 'data' if name.startswith(_DATA) else 'ours'
  if file.endswith(_CACHES):
    return 'cache'
  is_library = not INSTALLED.isdisjoint(file.split(os.sep)) or file.startswith(_left_out())
  is_written = not file.startswith('<') or file.startswith('<ipython')
  return 'user' if is_written and not is_library else ''


def _is_of_user() -> bool:
  # Returns whether the user's code that ours has called does what Python says.
  frame: FrameType | None = sys._getframe(3)
  is_of_user = is_called = False
  while frame is not None:
    kind = _kind(frame.f_code.co_filename)
    if kind == 'cache' or is_of_user and kind == 'data':
      return False
    if is_of_user and kind == 'simulations':
      return True
    is_called |= is_of_user and kind == 'ours'
    is_of_user |= kind == 'user'
    frame = frame.f_back
  thread = threading.current_thread()
  is_of_jax = is_of_user and thread is not threading.main_thread()  # a callback of a program
  return is_called or is_of_jax or thread in _threads
