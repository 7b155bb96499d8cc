"""Files of a data set, and lines about what is read otherwise than expected."""

import collections
import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_SAID: set[str] = set()
_SHARD = re.compile(r'(.*)-(\d+)-of-(\d+)(.*)', re.DOTALL)


def readable(name: str) -> str:
  r"""Returns a name that can be printed: \xe9 for a byte that UTF-8 lacks."""
  return os.fsencode(name).decode(errors='backslashreplace')


@contextlib.contextmanager
def naming(what: str, *errors: type[Exception]) -> Iterator[None]:
  """Turns errors of a library into a ValueError of one line, `what: error`.

  Of an error with a cause, which says most, it is the cause.
  """
  try:
    yield
  except errors as error:
    cause = error.__cause__ or error
    reason = ' '.join(str(cause).split()) or type(cause).__name__
    raise ValueError(f'{what}: {reason:.400}') from None


def say_once(line: str, what: str = '') -> None:
  """Prints a line once in a process, or one line for each `what`."""
  if (what or line) not in _SAID:
    _SAID.add(what or line)
    print(readable(line), flush=True)


def files_below(root: Path, suffixes: Sequence[str]) -> list[str]:
  """Returns the names of the files below a folder, sorted, with /.

  suffixes: such as '.png', in small or capital letters. Hidden files and
  folders are left out. Links to folders are followed, except to what is read
  anyway. Raises OSError.
  """
  ends = '|'.join(map(re.escape, suffixes))
  fits = re.compile(f'[^.].*({ends})', re.IGNORECASE | re.DOTALL).fullmatch
  names, tops = [], [root.resolve()]
  for place, folders, files in os.walk(root, onerror=_fail, followlinks=True):
    shown = sorted(x for x in folders if x[0] != '.')
    folders[:] = [x for x in shown if _is_new(Path(place, x), tops)]
    below = Path(place).relative_to(root).as_posix()
    prefix = '' if below == '.' else f'{below}/'
    names += [prefix + name for name in files if fits(name)]
  return sorted(names)


def _is_new(folder, tops):
  # tops: the root, and where links lead; all below them is read.
  real = folder.resolve()
  if not folder.is_symlink():
    return real not in tops
  if any(real.is_relative_to(top) for top in tops):
    return False
  tops.append(real)
  return True


def _fail(error):
  raise error  # By default os.walk skips folders that it may not read.


def say_missing(paths: Iterable[str | Path]) -> None:
  """Prints a line for each set train-00000-of-00003 with fewer files."""
  sets = collections.defaultdict(set)
  for path in paths:
    if shard := _SHARD.fullmatch(str(path)):
      first, number, total, end = shard.groups()
      sets[f'{first}-*-of-{total}{end}', int(total)].add(number)
  for (name, total), numbers in sets.items():
    if (count := len(numbers)) < total:
      say_once(f'{name} has {count} of {total} files: the others are left out')
