"""Files of a data set, and lines about what is read otherwise than expected."""

import codecs
import collections
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_SAID: set[str] = set()
# Files that are no text: patterns of their first bytes, and what they are.
_KINDS = r"""\x1f\x8b compressed by gzip: unpack it
BZh\d compressed by bzip2: unpack it
\xfd7zXZ compressed by xz: unpack it
\(\xb5/\xfd compressed by zstd: unpack it
PK\x03\x04 a zip archive or an Excel workbook (xlsx): unpack it, or save its sheet as CSV in UTF-8
\xd0\xcf\x11 an Excel workbook (xls): save its sheet as CSV in UTF-8
PAR1[^,;|\t\r\n] a Parquet file: pandas.read_parquet(file).to_csv(name, index=False) writes CSV
%PDF- a PDF: save its text in UTF-8
\xff\xfe|\xfe\xff text in UTF-16: save it in UTF-8"""
_SHARD = re.compile(r'(.*)-(\d+)-of-(\d+)(.*)', re.DOTALL)


def readable(name: str) -> str:
  r"""Returns a name that can be printed: \xe9 for a byte that UTF-8 lacks."""
  return os.fsencode(name).decode(errors='backslashreplace')


def say_once(line: str, what: str = '') -> None:
  """Prints a line once in a process, or one line for each `what`."""
  if (what or line) not in _SAID:
    _SAID.add(what or line)
    print(readable(line), flush=True)


def is_said(what: str) -> bool:
  """Returns whether `say_once` has printed a line about `what`."""
  return what in _SAID


def say_left_out(
  what: object,
  count: int,
  total: int,
  noun: str,
  such: Sequence[str] = (),
  why: str = '',
  once: str = '',
) -> None:
  """Prints once what a reader leaves out of a set: `count` of `total`, such as these; why.

  Every reader that does not take all of what it finds calls it. total: 0 if it is not known;
  once: see `say_once`.
  """
  if count:
    of = f' of {total:,}' * bool(total)
    some = f', such as {", ".join(such[:10])}' * bool(such) + ', …' * (len(such) > 10)
    reason = f': {why}' * bool(why)
    say_once(f'{what}: {count:,}{of} {noun} are left out{some}{reason}', once)


def taken_below(root: Path, suffixes: Sequence[str], silent: Sequence[str] = ()) -> list[str]:
  """Returns the names of the files below a folder with a suffix, and says the others.

  See `files_below`; silent: names of files that are read otherwise, or by nobody.
  """
  every = [name for name in files_below(root, ['']) if name.rpartition('/')[2] not in silent]
  taken = [name for name in every if name.lower().endswith((*suffixes,))]
  others = collections.defaultdict(list)
  for name in sorted({*every} - {*taken}):
    others[Path(name).suffix.lower()].append(name)
  kinds = sorted(others.values(), key=len, reverse=True)
  such = [f'{names[0]} ({len(names):,})' if len(names) > 1 else names[0] for names in kinds]
  say_left_out(root, len(every) - len(taken), len(every), 'files', such)
  return taken


def check_text(path: object, data: bytes, others: str = '', cut: bool = False) -> None:
  """Raises ValueError that says what a file is, unless it is text in UTF-8.

  others: rows as those of _KINDS, of texts that are not meant; cut: the last character may be.
  """
  for line in filter(None, [*_KINDS.split('\n'), *others.split('\n')]):
    start, _, kind = line.partition(' ')
    if re.match(start.encode(), data):
      raise ValueError(f'{path} is {kind}')
  wrong = data.find(b'\0')
  try:
    codecs.getincrementaldecoder('utf-8')().decode(data, final=not cut)
  except UnicodeDecodeError as error:
    wrong = error.start
  if wrong >= 0:
    line = data.count(b'\n', 0, wrong) + 1
    raise ValueError(
      f'{path} is not text in UTF-8 (byte {wrong + 1:,}): save it in UTF-8; line {line} has '
      f'{data[wrong : wrong + 1]!r}, of Latin-1, Windows-1252 or UTF-16 (NUL bytes)'
    )


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
