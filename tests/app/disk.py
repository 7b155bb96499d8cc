"""Changes of files by this process, seen by Python's audit events.

Files that C++ writes, Orbax's arrays and safetensors, are not seen; they have
temporary names.
"""

import contextlib
import os
import sys

_CHANGES = 'os.rename', 'os.remove', 'os.rmdir', 'os.mkdir', 'os.truncate'
_WRITES = os.O_WRONLY | os.O_RDWR


class Killed(BaseException):
  """Ends a program as SIGKILL does: no handler of ours catches it."""


class Disk:
  """Collects the changes below a folder, and ends the program at one of them.

  Change number `at` and all later ones fail, in all threads, so that no handler
  and no `finally` changes a file. only: the event to count; all by default.
  """

  watched: 'Disk | None' = None

  def __init__(self, root, at=None, only=''):
    self.root, self.at, self.only = str(root), at, only
    self.changes, self.dead = [], False

  def __enter__(self):
    Disk.watched = self
    return self

  def __exit__(self, kind, error, trace):
    Disk.watched = None
    return self.dead  # An error after the kill does not count.

  def change(self, event, path):
    if not self.only or event == self.only:
      self.dead |= len(self.changes) == self.at
      self.changes.append((event, path.removeprefix(self.root)))
    if self.dead:
      raise Killed(f'{event} {path}')


def _hook(event, args):
  disk = Disk.watched
  if disk is None or event not in ('open', *_CHANGES):
    return
  path, flags = args[0], args[-1]
  if event == 'open' and not (isinstance(flags, int) and flags & _WRITES):
    return
  with contextlib.suppress(TypeError):  # A file descriptor is open already.
    path = os.fsdecode(path)
    # shutil.rmtree gives names within a folder that it has opened.
    if path.startswith(disk.root) or not os.path.isabs(path):
      disk.change(event, path)


sys.addaudithook(_hook)
