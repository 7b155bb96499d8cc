"""Where a run is: a folder of this machine or of a bucket, gs://bucket/run or s3://bucket/run.

The doors of the program make a `RunFolder` once: the command line, `dj.open_run`, and the
fields of a config that name runs. Of a run in a bucket a program works in the twin, a
temporary folder of this machine (`twins.py`), and does not know it. `hold` lets one process
at a time write.
"""

import contextlib
import dataclasses
import errno
import itertools
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

from filelock import FileLock, SoftFileLease, Timeout

from diffusion_jax.errors import UserError
from diffusion_jax.paths import is_address
from diffusion_jax.runtime import processes, twins
from diffusion_jax.runtime.files import make_folder
from diffusion_jax.runtime.twins import Twin

SHARED = 'model.safetensors'  # the weights of a folder that is shared, see `weights.share`
POLL = 5.0  # seconds between two looks for new files
_READINGS = 50  # of a checkpoint, each of which a training may remove

T = TypeVar('T')

_twins: dict[str, Twin] = {}
_waits = itertools.count()  # each has a name of its own


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """A run's folder, which may not exist yet.

  name: the folder or the address in a bucket, as messages say it; path: its files on this machine,
  for a bucket in the twin; written: whether results may be written into it. It is a path for
  `os` and `pathlib`, `run / 'config.json'` is a path in it, and equal ones have equal paths.
  """

  name: str = dataclasses.field(compare=False)
  path: Path
  written: bool = dataclasses.field(default=True, compare=False)

  @classmethod
  def at(cls, place: 'str | Path | RunFolder', written: bool = True) -> Self:
    """Returns the folder at a path or an address, whose first call copies the run down.

    Raises UserError for a bucket that cannot be read, and for objects that a run does not have.
    """
    if isinstance(place, RunFolder):
      return cls(place.name, place.path, written)
    return cls(named(place), _path_of(place), written)

  def __str__(self) -> str:
    return self.name

  def __fspath__(self) -> str:
    return str(self.path)

  def __truediv__(self, below: str | Path) -> Path:
    return self.path / below

  def make(self, below: str | Path = '') -> Path:
    """Makes the folder, and the path `below` in it; see `make_folder`."""
    assert self.written, f'{self} is a run that is read'
    return make_folder(self.path, below)

  @property
  def config(self) -> Path:
    """The file that makes the folder a run."""
    return self / 'config.json'

  @property
  def absolute(self) -> str:
    """Its address in a bucket, or its path from the root, without links."""
    return named(self.path.resolve())

  @property
  def checkpoints(self) -> Path:
    """The folder of the weights."""
    return self / 'checkpoints'

  @property
  def is_shared(self) -> bool:
    """Whether the folder has shared weights, and no checkpoints."""
    return (self / SHARED).exists() and not self.checkpoints.exists()

  @property
  def metrics(self) -> Path:
    """The curves of the training."""
    return self / 'metrics.jsonl'

  @property
  def samples(self) -> Path:
    """The folder of previews and of --mode=sample."""
    return self / 'samples'

  @property
  def evaluation(self) -> Path:
    """The folder of the results of --mode=evaluate."""
    return self / 'evaluation'

  @property
  def simulations(self) -> Path:
    """The folder of simulations that the run keeps."""
    return self / 'simulations'

  @property
  def latent(self) -> Path:
    """The record of the run's autoencoder, which completes its copy."""
    return self / 'latent.json'

  @property
  def autoencoder(self) -> 'RunFolder':
    """The copy of the autoencoder, a run folder itself."""
    return RunFolder(f'{self}/autoencoder', self / 'autoencoder', self.written)


Folder = Path | RunFolder


def _path_of(place):
  # The path itself; of an address the twin's, which its first call makes and copies down.
  address = str(place).rstrip('/')
  if not is_address(place):
    return Path(place)
  if address not in _twins:
    twin = Twin(address)
    twin.copy_down()
    _twins[address] = twin
  return _twins[address].path


def twin_of(path: str | Folder) -> Twin | None:
  """Returns the twin that a path is in, if any."""
  path = Path(path).absolute()
  return next((x for x in _twins.values() if path.is_relative_to(x.path)), None)


def named(text: object) -> str:
  """Returns a message with addresses for the paths of twins."""
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

  Orbax writes into gs://; s3:// is a UserError.
  """
  twin = twin_of(folder)
  if twin is None or not processes.started():
    return folder
  if not twin.address.startswith('gs://'):
    raise UserError(
      f'{twin.address}: several processes cannot write checkpoints there: give a --workdir in '
      'gs://, or a shared folder'
    )
  from etils import epath

  return epath.Path(f'{twin.address}/{twin.name_of(folder)}')


def while_trained(run: Path, kept: Callable[[], list[int]], read: Callable[[], T]) -> T:
  """Returns read(), of one of the files of a run that its training may remove meanwhile.

  kept: gives the steps of these files. After an error it reads again, so that it takes the
  newest, if they have changed. Raises the error if they have not.
  """
  for _ in range(_READINGS):
    before = kept()
    try:
      return read()
    except (OSError, UserError, ValueError):
      if twin := twin_of(run):
        twin.copy_down()
      if kept() == before:
        raise
  raise ValueError(
    f'the training in {run} removes its files before they are read: wait until it ends, or let '
    'it keep more (training.checkpoints.keep, training.average.keep)'
  )


def share(path: Path, what: str) -> None:
  """Waits for all processes, which then have what the first one has written."""
  twin = twin_of(path)
  if twin and processes.is_first():
    twin.copy_up()
  processes.wait_for_all(f'{what} {next(_waits)}')
  if twin and processes.started():
    twin.copy_down()


def check_copying() -> None:
  """Raises OSError if files cannot be copied up, or if a lock is lost."""
  for twin in _twins.values():
    if twin.problem:
      raise OSError(twin.problem)


@contextlib.contextmanager
def copying(workdir: Folder) -> Iterator[None]:
  """Copies new files of a twin up, in a thread and at the end of the block.

  Printed lines have the bucket's addresses in place of local paths. Twins are removed
  at the end. If files could not be copied, their twin stays, and a UserError names it.
  """
  twin = twin_of(workdir) if processes.is_first() else None
  try:
    with _copying(twin) if twin else contextlib.nullcontext():
      yield
  finally:
    for other in _twins.values():
      other.remove()


@contextlib.contextmanager
def _copying(twin):
  def watch(ended):
    while not (ended.wait(POLL) or twin.problem):
      twin.copy_up(if_new=True)

  twin.check_writable()
  try:
    with (
      contextlib.redirect_stdout(_Named(sys.stdout)),
      contextlib.redirect_stderr(_Named(sys.stderr)),
      beside(watch),
    ):
      yield
  finally:
    twin.copy_up(last=True)
    if twin.problem:
      del _twins[twin.address]  # from here on the twin's own path is printed
      raise UserError(f'{twin.problem}: the files are kept in {twin.path}')


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

  def flush(self):
    self._stream.flush()

  def __getattr__(self, name):
    return getattr(self._stream, name)


# -- one process at a time ------------------------------------------------------

# The kernel releases a lock of flock when its process ends, even by a kill. On
# file systems without flock a lease is used. It expires when its process ends;
# on another machine, when the process did not renew it for `twins.LEASE` seconds.
_NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def hold(folder: Path, what: str = '', other: str = '--workdir') -> Iterator[None]:
  """Locks a run folder for training, or the file `what` of a folder.

  Raises UserError with the owner's name, and `other`, the flag that gives
  another place. If several processes work together, the first takes the lock.
  """
  if not processes.is_first():
    if twin_of(folder):
      share(folder, 'the lock')
    yield
    return
  path = folder / f'{what or "train"}.lock'

  def refuse(owner) -> NoReturn:
    who = f'process {owner}' if owner else 'another process'
    raise UserError(
      f'{folder / what} is being {"written" if what else "trained"} by {who}: '
      f'wait until it ends, or give another {other}'
    ) from None

  # Whoever may write in the folder may take the lock, for every umask.
  mode = 0o600 | folder.stat().st_mode & 0o066
  lock = FileLock(path, mode=mode, fallback_to_soft=False, on_acquired=_sign)
  try:
    lock.acquire(blocking=False)
  except Timeout:
    refuse(_signed(path))
  except OSError as error:
    if error.errno not in _NO_FLOCK:
      raise
    lock = _lease(path.with_suffix('.lease'), refuse)
  try:
    with _hold_in_bucket(path, refuse, trains=not what):
      yield
  finally:
    try:
      if what:
        path.unlink(missing_ok=True)
    finally:
      lock.release()


def _lease(path, refuse):
  lease = SoftFileLease(path, lease_duration=twins.LEASE)
  try:
    lease.acquire(timeout=1.2 * twins.LEASE)
  except Timeout:
    owner = lease.owner
    refuse(f'{owner.pid} on {owner.hostname}' if owner else '')
  return lease


@contextlib.contextmanager
def _hold_in_bucket(path, refuse: Callable[[str], NoReturn], trains: bool):
  twin = twin_of(path)
  if twin is None:
    yield
    return
  lock = twins.Lock(twin, twin.name_of(path))
  lock.acquire(refuse)
  try:
    with beside(lock.renew):
      twin.copy_down(alone=trains)  # The owner before may have written more.
      share(path, 'the lock')
      try:
        yield
      finally:
        twin.copy_up()
  finally:
    if not twin.problem:
      lock.release()


def _sign(descriptor):
  if os.fstat(descriptor).st_nlink > 1:  # A hard link may lead out of the run.
    return
  os.truncate(descriptor, 0)
  os.write(descriptor, f'{os.getpid()} on {socket.gethostname()}\n'.encode())


def _signed(path):
  try:
    return path.read_text().strip()
  except OSError:
    return ''
