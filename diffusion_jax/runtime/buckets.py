"""Runs in a bucket: gs://bucket/run and s3://bucket/run.

A program works in the *twin* of such a run, a temporary folder of this machine.
A thread copies new files up: the object DONE completes a checkpoint, JSON
follows it, and metrics.jsonl up to its step. The arrays of a checkpoint are
copied down when they are read.
"""

import atexit
import contextlib
import importlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from diffusion_jax.errors import UserError
from diffusion_jax.runtime import processes
from diffusion_jax.runtime.files import make_folder, one_line, read_json_lines

LIBRARIES = {'gs': ('gcsfs', 'gcs'), 's3': ('s3fs', 's3')}  # and extras
DONE = 'commit_success.txt'  # Orbax writes it last
POLL = 5.0  # seconds between two looks for new files
PATIENCE = 300.0  # seconds for which a failing request is repeated
MOST_FILES = 100_000
SMALL = 2**16  # bytes of a checkpoint's file that is copied down at once
GROWING = 2**26  # bytes of a file that may grow meanwhile, and is read whole
_METRICS = 'metrics.jsonl'
_STEP = re.compile(r'((?:.*/)?checkpoints/(\d+)/).+')
_PRIVATE = re.compile(r'.*(\.lock|\.lease|\.draft[^/]*|\.tmp(/.*)?|\.orbax-checkpoint-tmp.*)')

_twins: dict[str, 'Twin'] = {}


def folder(name: str | Path) -> Path:
  """Returns the folder of a run: the twin of an address, or the path itself.

  The first call for an address copies the run down. Raises UserError for a
  bucket that cannot be read, and for objects that a run does not have.
  """
  address = str(name).rstrip('/')
  if not re.match(r'[A-Za-z][\w+.-]*://', str(name)):
    return Path(name)
  if address not in _twins:
    twin = Twin(address)
    twin.copy_down()
    _twins[address] = twin
  return _twins[address].path


def twin_of(path: str | Path) -> 'Twin | None':
  """Returns the twin that a path is in, if any."""
  path = Path(path).absolute()
  return next((x for x in _twins.values() if path.is_relative_to(x.path)), None)


def named(text: object) -> str:
  """Returns a text with addresses for the paths of twins."""
  text = str(text)
  for twin in _twins.values():
    text = text.replace(str(twin.path), twin.address)
  return text


def fetch(checkpoint: Path) -> None:
  """Copies the rest of a checkpoint down, before its files are read."""
  if twin := twin_of(checkpoint):
    twin.fetch(twin.name_of(checkpoint))


def of_checkpoints(folder: Path) -> Any:
  """Returns where checkpoints are written: several processes need the bucket.

  Orbax writes there; of s3:// it does not, which is a UserError.
  """
  twin = twin_of(folder)
  if twin is None or not processes.started():
    return folder
  if not twin.address.startswith('gs://'):
    raise UserError(f'{twin.address}: several processes write to gs:// or a shared folder only')
  from etils import epath

  return epath.Path(f'{twin.address}/{twin.name_of(folder)}')


def share(path: Path, what: str) -> None:
  """Waits for all processes, which then have what the first one has written."""
  twin = twin_of(path)
  if twin and processes.is_first():
    twin.copy_up()
  processes.wait_for_all(what)
  if twin and processes.started():
    twin.copy_down()


def check() -> None:
  """Raises OSError if files cannot be copied up, or if a lock is lost."""
  for twin in _twins.values():
    if twin.problem:
      raise OSError(twin.problem)


@contextlib.contextmanager
def copying(workdir: str | Path) -> Iterator[None]:
  """Copies new files of a twin up, in a thread and at the end of the block.

  What is printed has addresses for paths. All twins are removed but one with
  files that could not be copied, which the UserError names.
  """
  twin = twin_of(workdir) if processes.is_first() else None
  try:
    with twin.copying() if twin else contextlib.nullcontext():
      yield
  finally:
    for other in _twins.values():
      other.remove()


@contextlib.contextmanager
def beside(function: Callable[[threading.Event], None]) -> Iterator[None]:
  """Runs function(ended) in a thread; the event is set when the block ends."""
  ended = threading.Event()
  thread = threading.Thread(target=function, args=(ended,), daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()


class _Named:
  # A stream that writes addresses for the paths of twins.
  def __init__(self, stream):
    self._stream = stream

  def write(self, text):
    return self._stream.write(named(text))

  def __getattr__(self, name):
    return getattr(self._stream, name)


class Twin:
  """The folder of this machine with the files of a run in a bucket.

  problem: why files can no longer be copied up, or ''.
  """

  def __init__(self, address: str):
    scheme, _, self._root = address.partition('://')
    parts = self._root.split('/')
    if scheme not in LIBRARIES:
      raise UserError(f'{address}: a run is in a folder, or in a bucket, gs:// or s3://')
    if len(parts) < 2 or {'', '.', '..'} & {*parts}:
      raise UserError(f'{address}: give a folder of a bucket, as {scheme}://bucket/run')
    self.address, self.problem = address, ''
    with self.told('opened'):
      self.bucket = _open(scheme)
    self._parent = Path(tempfile.mkdtemp(prefix='diffusion_jax-')).resolve()
    atexit.register(self.remove)
    self.path = make_folder(self._parent, parts[-1])
    self._objects: dict[str, tuple] = {}  # of the bucket: {name: (version, size)}
    self._same: dict[str, tuple] = {}  # files that equal an object, as `_files`
    self._later: set[str] = set()  # objects that `fetch` copies
    self._uploads = threading.Lock()

  def name_of(self, path: Path) -> str:
    """Returns the name of a path in the run."""
    return path.absolute().relative_to(self.path).as_posix()

  def place(self, name: str) -> str:
    """Returns the path of an object in the bucket's library."""
    return f'{self._root}/{name}'

  def remove(self) -> None:
    """Removes the folder, unless it has files that could not be copied up."""
    if not self.problem:
      shutil.rmtree(self._parent, ignore_errors=True)

  @contextlib.contextmanager
  def told(self, what: str) -> Iterator[None]:
    """Raises UserError for errors of requests, by which the run is `what`."""
    try:
      yield
    except UserError:
      raise
    except Exception as error:  # Each library has its own.
      raise UserError(f'{self.address} cannot be {what}: {_reason(error)}') from error

  def copy_down(self, alone: bool = False) -> None:
    """Copies what has changed in the bucket; alone: removes what a kill left."""
    with self.told('read'):
      there = self._list()
      whole = {name.removesuffix(DONE) for name in there if name.endswith(f'/{DONE}')}
      steps = {name: step[1] for name in there if (step := _STEP.fullmatch(name))}
      partial = {name for name, step in steps.items() if step not in whole}
      new = {n for n in there if there[n] != self._objects.get(n)} - partial
      later = {name for name in new if name in steps and there[name][1] > SMALL}
      self._objects, self._later = there, self._later | later
      self._get(new - later)
      if alone and partial:
        self.bucket.rm([self.place(name) for name in partial])

  def fetch(self, checkpoint: str) -> None:
    """Copies what `copy_down` has left of a checkpoint."""
    names = {name for name in self._later if name.startswith(f'{checkpoint}/')}
    with self.told('read'):
      self._get(names)
    self._later -= names

  def _list(self):
    objects = {}
    for place, about in self.bucket.find(self._root, detail=True).items():
      name = place.removeprefix(f'{self._root}/')
      if place.endswith('/') or _PRIVATE.fullmatch(name):
        continue
      if name == place or {'', '.', '..'} & {*name.split('/')} or not name.isprintable():
        raise UserError(f'{self.address} has the object {one_line(name)!r}: remove it')
      objects[name] = about.get('etag') or about.get('ETag'), about['size']
    if len(objects) > MOST_FILES:
      raise UserError(f'{self.address} has more than {MOST_FILES:,} objects: it is no run')
    return objects

  def _get(self, names):
    needed, free = sum(self._objects[n][1] for n in names), shutil.disk_usage(self.path).free
    if needed > free:
      raise UserError(
        f'{self.address} has {needed >> 20:,} MiB to copy down, and {self._parent.parent} '
        f'{free >> 20:,} MiB of room: set TMPDIR to a folder of a larger disk'
      )
    if names := sorted(names):
      self.bucket.get([self.place(n) for n in names], [str(self.path / n) for n in names])
      files = self._files()
      self._same |= {name: files[name] for name in names}

  def _files(self):
    # Returns {name: its size and time} of the files that belong into the bucket.
    paths = (Path(place, name) for place, _, names in os.walk(self.path) for name in names)
    files: dict[str, tuple] = {}
    for path in paths:
      with contextlib.suppress(FileNotFoundError):
        files[self.name_of(path)] = path.stat().st_size, path.stat().st_mtime_ns
    files = {name: about for name, about in files.items() if not _PRIVATE.fullmatch(name)}
    if processes.started():  # Orbax writes checkpoints into the bucket itself.
      steps = self.bucket.glob(self.place(f'checkpoints/*/{DONE}'))
      written = {place.removeprefix(f'{self._root}/'): () for place in steps}
      files, self._same = written | files, written | self._same
    if _METRICS in files:
      files[_METRICS] += (_last_step(files),)
    return files

  @contextlib.contextmanager
  def copying(self) -> Iterator[None]:
    """See the function."""
    with self.told('written'):
      self.bucket.pipe_file(self.place('write.tmp'), b'')
      self.bucket.rm_file(self.place('write.tmp'))
    try:
      with (
        contextlib.redirect_stdout(_Named(sys.stdout)),
        contextlib.redirect_stderr(_Named(sys.stderr)),
        beside(self._watch),
      ):
        yield
    finally:
      self.copy_up()
      if self.problem:
        del _twins[self.address]  # so that its path is printed
        raise UserError(f'{self.problem}: the files are kept in {self.path}')

  def _watch(self, ended):
    while not (ended.wait(POLL) or self.problem):
      self.copy_up(if_new=True)

  def copy_up(self, if_new: bool = False) -> None:
    """Copies changed files up, removes objects, or sets `problem`.

    if_new: only if there are new files.
    """
    with self._uploads:
      if self.problem or if_new and self._files().keys() == self._same.keys():
        return
      try:
        self._copy_up(self._files())
      except Exception as error:  # Each library has its own.
        self.problem = f'{self.address} cannot be written: {_reason(error)}'

  def _copy_up(self, files):
    partial = set()  # checkpoints that Orbax removes meanwhile
    for name in sorted(files, key=_order):
      step = _STEP.fullmatch(name)
      if files[name] == self._same.get(name) or step and step[1] in partial:
        continue
      if self._put(name, files):
        self._same[name] = files[name]
      elif step:
        partial.add(step[1])
    steps = {step[1] for step in map(_STEP.fullmatch, files) if step}
    lost = {name for name in self._later if _STEP.sub(r'\1', name) not in steps}
    for name in sorted(lost | (self._same.keys() - files.keys()), key=_order, reverse=True):
      with contextlib.suppress(FileNotFoundError):
        self._patiently(self.bucket.rm_file, self.place(name))
      self._same.pop(name, None)
    self._later -= lost

  def _put(self, name, files):
    # Returns whether the file is still there.
    path, place = self.path / name, self.place(name)
    try:
      if name == _METRICS:
        data = _lines(path, _last_step(files))
      else:
        data = path.read_bytes() if files[name][0] <= GROWING else None
    except FileNotFoundError:
      return False
    if data is None:
      self._patiently(self.bucket.put_file, str(path), place)
    else:
      self._patiently(self.bucket.pipe_file, place, data)
    return True

  def _patiently(self, action, *args):
    # Repeats a request that fails, unless there is no bucket or no right.
    end = time.monotonic() + PATIENCE
    while True:
      try:
        return action(*args)
      except (FileNotFoundError, PermissionError):
        raise
      except Exception as error:  # Each library has its own.
        if time.monotonic() > end or 'Forbidden' in str(error):
          raise
        again = f'{self.address} cannot be written: {_reason(error)}: it is tried again'
        print(f'warning: {again}', file=sys.stderr, flush=True)
      time.sleep(POLL)


def _open(scheme) -> Any:
  # Returns the library of a bucket, which must not remember what it has read.
  library, extra = LIBRARIES[scheme]
  logging.getLogger(library).setLevel(logging.CRITICAL)  # It logs tracebacks.
  try:
    importlib.import_module(library)
  except ModuleNotFoundError as error:
    needed = f"pip install 'diffusion_jax[{extra}]'"
    raise UserError(f'{scheme}:// needs {error.name}: {needed}') from error
  options = {'max_concurrency': 1} if scheme == 's3' else {}
  return importlib.import_module('fsspec').filesystem(scheme, use_listings_cache=False, **options)


def _order(name):
  # A checkpoint begins after what is written before it, and DONE completes it.
  step, is_json = _STEP.fullmatch(name), name.endswith(('.json', '.jsonl'))
  rank = 1 + (name == step[1] + DONE) if step else 3 * is_json
  return rank, name == _METRICS, name


def _last_step(files):
  steps = (re.fullmatch(rf'checkpoints/(\d+)/{DONE}', name) for name in files)
  return max((int(step[1]) for step in steps if step), default=-1)


def _lines(path, last):
  # Returns the lines of metrics.jsonl up to a step.
  lines = (x for x in read_json_lines(path) if isinstance(x.get('step'), int) and x['step'] <= last)
  return ''.join(f'{json.dumps(x)}\n' for x in lines).encode()


def _reason(error):
  if isinstance(error, FileNotFoundError):
    return 'there is no such bucket or object'
  text = str(error).strip().partition('\n')[0] or type(error).__name__
  return one_line(text)[:300]
