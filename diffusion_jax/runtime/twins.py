"""The twin of a run in a bucket: its files on this machine.

New files are copied up whole. The object DONE completes a checkpoint; JSON
follows it, and metrics.jsonl up to its step. The arrays of a checkpoint are
copied down when they are read.
"""

import atexit
import contextlib
import errno
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from glob import has_magic
from pathlib import Path
from typing import NoReturn

from diffusion_jax.data.buckets import LIBRARIES, open_bucket, waiting
from diffusion_jax.errors import UserError, as_user_error
from diffusion_jax.runtime import processes
from diffusion_jax.runtime.files import make_folder, one_line, read_json_lines, summed_line, warn

DONE = 'commit_success.txt'  # Orbax writes it last
PAUSE, PATIENCE = 5.0, 300.0  # seconds between requests that fail, and in all
MOST_FILES = 100_000
SMALL = 2**16  # bytes of a checkpoint's file that is copied down at once
GROWING = 2**26  # bytes of a file that may grow meanwhile, and is read whole
LEASE = 60.0  # seconds after which a lock that its owner does not renew may be taken over
_METRICS = 'metrics.jsonl'
_STEP = re.compile(r'((?:.*/)?checkpoints/(\d+)/).+')
_PRIVATE = re.compile(r'.*(\.lock|\.lease|\.draft[^/]*|\.tmp(/.*)?|\.orbax-checkpoint-tmp.*)')


class Twin:
  """A temporary folder with the files of the run at an address.

  problem: why files can no longer be copied up, or ''.
  """

  def __init__(self, address: str):
    scheme, _, self._root = address.partition('://')
    parts = self._root.split('/')
    if scheme not in LIBRARIES:
      raise UserError(f'{address}: a run is in a folder, or in a bucket, gs:// or s3://')
    if len(parts) < 2 or {'', '.', '..'} & {*parts} or has_magic(self._root):
      raise UserError(
        f'{address}: give a folder of a bucket, as {scheme}://bucket/run, without * ? ['
      )
    self.address, self.problem = address, ''
    options = {'max_concurrency': 1} if scheme == 's3' else {}
    with as_user_error(), waiting(address):
      self.bucket = open_bucket(address, **options)
    self._parent = Path(tempfile.mkdtemp(prefix='diffusion_jax-')).resolve()
    atexit.register(self.remove)
    self.path = make_folder(self._parent, parts[-1])
    self._objects: dict[str, tuple] = {}  # objects of the bucket: {name: (version, size)}
    self._same: dict[str, tuple] = {}  # files that equal an object, as `_files`
    self._later: set[str] = set()  # objects that `fetch` copies
    self._written: set[str] = set()  # objects that this twin has written
    self._alone = False
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
      with waiting(self.address):
        yield
    except UserError:
      raise
    except Exception as error:  # Each library has its own.
      raise UserError(f'{self.address} cannot be {what}: {_reason(error)}') from error

  def copy_down(self, alone: bool = False) -> None:
    """Copies what has changed in the bucket.

    alone: nobody else writes checkpoints; removes those that a kill has left.
    """
    with self.told('read'):
      there = self._list()
      steps = {name: step[1] for name in there if (step := _STEP.fullmatch(name))}
      partial = {name for name, step in steps.items() if step + DONE not in there}
      there = {name: about for name, about in there.items() if name not in partial}
      new = {name for name, about in there.items() if about != self._objects.get(name)}
      later = {name for name in new if name in steps and there[name][1] > SMALL}
      self._forget(self._objects.keys() - there.keys())
      self._objects, self._later = there, self._later | later
      self._get(new - later)
      self._alone |= alone
      if alone and partial:
        self.bucket.rm([self.place(name) for name in partial])

  def _forget(self, names):
    # Removes the files of objects that are no longer there.
    for name in names:
      if step := _STEP.fullmatch(name):
        shutil.rmtree(self.path / step[1], ignore_errors=True)
      (self.path / name).unlink(missing_ok=True)
      self._same.pop(name, None)
    self._later -= names

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
      if place == self._root:
        raise UserError(f'{self.address} is an object of the bucket: give the folder of a run')
      if {'', '.', '..'} & {*name.split('/')} or not name.isprintable():
        raise UserError(f'{self.address} has the object {one_line(name)!r}: remove it')
      objects[name] = about.get('etag') or about.get('ETag'), about['size']
    for name in objects.keys() & {str(x) for path in objects for x in Path(path).parents}:
      raise UserError(f'{self.address} has the object {name!r} and a folder {name}/: remove one')
    if len(objects) > MOST_FILES:
      raise UserError(f'{self.address} has more than {MOST_FILES:,} objects: a run has fewer')
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
    files: dict[str, tuple] = {}
    for path in (Path(place, name) for place, _, names in os.walk(self.path) for name in names):
      name = self.name_of(path)
      if not _PRIVATE.fullmatch(name):
        with contextlib.suppress(FileNotFoundError):
          files[name] = path.stat().st_size, path.stat().st_mtime_ns
    if processes.started():  # Orbax writes checkpoints into the bucket itself.
      steps = self.bucket.glob(self.place(f'checkpoints/*/{DONE}'))
      written = {place.removeprefix(f'{self._root}/'): () for place in steps}
      files, self._same = written | files, written | self._same
    if _METRICS in files:
      files[_METRICS] += (_last_step(files),)
    return files

  def check_writable(self) -> None:
    """Raises UserError if nothing can be written."""
    with self.told('written'):
      self.bucket.pipe_file(self.place('write.tmp'), b'')
      self.bucket.rm_file(self.place('write.tmp'))

  def copy_up(self, if_new: bool = False, last: bool = False) -> None:
    """Copies changed files up, and removes objects without a file.

    Sets `problem` if it cannot. if_new: only if there are new files; last:
    writes objects again that somebody has removed meanwhile.
    """
    with self._uploads:
      if self.problem:
        return
      try:
        files = self._files()
        if not if_new or files.keys() != self._same.keys():
          self._copy_up(files)
        if last and (lost := self._lost(files)):
          self._same = {name: x for name, x in self._same.items() if name not in lost}
          self._copy_up(files)
      except Exception as error:  # Each library has its own.
        self.problem = f'{self.address} cannot be written: {_reason(error)}'

  def _copy_up(self, files):
    for name in sorted(files, key=_order):
      if files[name] != self._same.get(name):
        if not self._put(name, files):  # Orbax removes the checkpoint meanwhile.
          return
        self._same[name] = files[name]
        self._written.add(name)
    steps = {step[1] for step in map(_STEP.fullmatch, files) if step}
    lost = {name for name in self._later if _STEP.sub(r'\1', name) not in steps}
    for name in sorted(lost | (self._same.keys() - files.keys()), key=_order, reverse=True):
      with contextlib.suppress(FileNotFoundError):
        self._patiently(self.bucket.rm_file, self.place(name))
      self._same.pop(name, None)
    self._later -= lost

  def _lost(self, files):
    # Another process may have removed a file of a run that it trains.
    missing = files.keys() - self._list().keys()
    return {x for x in missing if x in self._written or self._alone and not _STEP.fullmatch(x)}

  def _put(self, name, files):
    # Returns whether the file is still there.
    path, place = self.path / name, self.place(name)
    try:
      if name != _METRICS and files[name][0] > GROWING:
        self._patiently(self.bucket.put_file, str(path), place)
      else:
        data = _lines(path, _last_step(files)) if name == _METRICS else path.read_bytes()
        self._patiently(self.bucket.pipe_file, place, data)
    except FileNotFoundError:
      if path.exists():  # The bucket is not.
        raise
      return False
    return True

  def _patiently(self, action, *args):
    # Repeats a request that fails, unless the bucket or the right to it is missing.
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
        warn(again)
      time.sleep(PAUSE)


def _order(name):
  # A checkpoint begins after what is written before it, and DONE completes it.
  if step := _STEP.fullmatch(name):
    return 1, int(step[2]), name == step[1] + DONE, name
  return 2 * name.endswith(('.json', '.jsonl')), 0, name == _METRICS, name


def _last_step(files):
  steps = (re.fullmatch(rf'checkpoints/(\d+)/{DONE}', name) for name in files)
  return max((int(step[1]) for step in steps if step), default=-1)


def _lines(path, last):
  # Returns the lines of metrics.jsonl up to a step.
  lines = (x for x in read_json_lines(path) if isinstance(x.get('step'), int) and x['step'] <= last)
  return ''.join(map(summed_line, lines)).encode()


def _reason(error):
  if isinstance(error, FileNotFoundError):
    return 'there is no such bucket or object'
  text = str(error).strip().partition('\n')[0] or type(error).__name__
  return one_line(text)[:300]


class Lock:
  """A lock in the bucket of a twin: an object that its owner renews."""

  def __init__(self, twin: Twin, name: str):
    self._twin, self._place, self._text = twin, twin.place(name), b''

  def acquire(self, refuse: Callable[[str], NoReturn]) -> None:
    """Creates the object, or takes over one that is not renewed for LEASE."""
    with self._twin.told('locked'):
      while not self._create():
        owner, end = self._read(), time.monotonic() + LEASE
        name = owner.decode(errors='replace').partition(',')[0]
        print(f'waiting up to {LEASE:.0f} s for the lock of process {name}', flush=True)
        while owner and self._read() == owner and time.monotonic() < end:
          time.sleep(LEASE / 20)
        now = self._read()
        if now not in (owner, b''):
          refuse(now.decode(errors='replace').partition(',')[0])
        if now:
          print(f'process {name} does not renew its lock, which is taken over', flush=True)
          self._remove(now)

  def renew(self, ended: threading.Event) -> None:
    """Renews the lock, or stops the writing if another process has taken it."""
    while not ended.wait(LEASE / 4):
      with contextlib.suppress(Exception):  # The copying tells it.
        if self._read() not in (self._text, b''):
          self._twin.problem = f'{self._twin.address} was taken over by another process'
          return
        self._write()

  def release(self) -> None:
    """Removes the object, unless another process has taken it."""
    self._remove(self._text)

  def _remove(self, text):
    with contextlib.suppress(Exception):  # It ends by itself.
      if self._read() == text:
        self._twin.bucket.rm_file(self._place)

  def _create(self):
    try:
      self._write(mode='create')
    except FileExistsError:
      return False
    return True

  def _write(self, **mode):
    text = f'{os.getpid()} on {socket.gethostname()}, {time.ctime()}, {time.monotonic_ns()}'
    self._twin.bucket.pipe_file(self._place, text.encode(), **mode)
    self._text = text.encode()

  def _read(self):
    while True:
      try:
        with self._twin.bucket.open(self._place) as file:  # a stranger's may be large
          return file.read(500)
      except FileNotFoundError:
        return b''
      except OSError as error:  # s3fs: its owner has written it since it was opened
        if error.errno != errno.EBUSY:
          raise
