"""Reads and writes the files of a run, whose folder may come from a stranger.

Only regular files of limited size are read, and nothing is written through a
link in the folder.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from errno import EFBIG, EINVAL
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.atomic_files import draft
from diffusion_jax.errors import UserError, reason_of

SUM = 'sha256'  # the entry of an object in a file that sums up the others: its first 16 digits
DIFFERS = 'is damaged: its sum differs'
_MOST_DAMAGED = 2**24  # bytes of the damaged lines that are read


def sha256(path: str | Path) -> str:
  """Returns the SHA-256 of a file, in hexadecimal."""
  with Path(path).open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def make_folder(workdir: str | os.PathLike[str], below: str | Path = '') -> Path:
  """Makes a folder, and the path `below` in it; returns both joined.

  Raises UserError if it cannot be written, and for a link in `below`. The
  workdir itself may be a link, since the user names it.
  """
  folder = Path(workdir)
  try:
    os.makedirs(folder, exist_ok=True)
    for part in Path(below).parts:
      folder /= part
      if part in ('/', '..') or folder.is_symlink():
        raise UserError(
          f'nothing is written in {folder}, which leads out of {workdir}: '
          'remove it. Only the run folder itself may be a link'
        )
      folder.mkdir(exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
  except OSError as error:
    is_run = is_regular(Path(workdir) / 'config.json')
    advice = f'give --config={workdir} and another --workdir, for the results' if is_run else ''
    raise UserError(
      f'cannot write in the workdir {folder} ({error.strerror}): '
      f'{advice or "give another --workdir"}'
    ) from error
  return folder


def check_files(folder: Path) -> None:
  """Raises UserError for pipes, devices, and links to folders, in a folder.

  A library that reads or writes there would wait for them or follow them. It
  cannot open a path that is not UTF-8, which is refused too.
  """
  try:
    str(folder).encode()
  except UnicodeEncodeError as error:
    raise UserError(f'{folder} is not UTF-8: rename the folder') from error
  paths = [folder] * folder.is_symlink()
  for place, folders, names in os.walk(folder):
    paths += [Path(place, x) for x in folders if Path(place, x).is_symlink()]
    paths += [Path(place, x) for x in names if not is_regular(Path(place, x))]
  for path in filter(os.path.lexists, paths):  # Others were removed meanwhile.
    raise UserError(
      f'{path} is a link, a pipe or a device, which a run does not contain: '
      'put a file or a folder in its place'
    )


def is_regular(path: Path) -> bool:
  """Returns whether a path is a file, or a link to one, that has an end."""
  try:
    about = path.stat()
  except OSError:
    return False
  # Some files of /proc have the size 0 and no end.
  ends = about.st_size > 0 or not path.is_symlink()
  return stat.S_ISREG(about.st_mode) and ends


def open_regular(path: Path, most: int = 2**24) -> BinaryIO:
  """Opens a regular file of at most `most` bytes; OSError for any other."""
  size = path.stat().st_size
  if not is_regular(path):
    raise OSError(EINVAL, 'not a regular file', str(path))
  if size > most:
    raise OSError(EFBIG, f'more than {most >> 20} MiB', str(path))
  return path.open('rb')


def parse_json(text: str | bytes) -> Any:
  """Returns what JSON says; ValueError also if it is nested deeply.

  Integers of more than 64 bits become floats, which may be infinite.
  """
  with contextlib.suppress(RecursionError):
    content = json.loads(text, parse_int=lambda x: int(x) if len(x) < 20 else float(x))
    if _depth(content) < 100:  # Functions of ours call themselves as often.
      return content
  raise ValueError('it is nested too deeply')


def _depth(tree):
  parts = tree.values() if isinstance(tree, dict) else tree
  inner = parts if isinstance(tree, (dict, list)) else ()
  return 1 + max(map(_depth, inner), default=0)


def read_json(path: Path) -> Json:
  """Returns the object of a JSON file.

  Raises FileNotFoundError, or UserError for a file that is something else.
  """
  try:
    with open_regular(path) as file:
      content = parse_json(file.read())
    if not isinstance(content, dict):
      raise ValueError(f'it is a JSON {type(content).__name__}, not an object')
  except (FileNotFoundError, NotADirectoryError):
    raise
  except (OSError, ValueError) as error:
    raise UserError(f'{path} cannot be read: {reason_of(error)}') from error
  return content


def read_json_lines(path: Path) -> Iterator[Json]:
  """Yields the JSON objects of a file that has one per line, without their sums.

  Skips damaged lines, which a full disk or a kill may leave, and says so. A missing
  file and one that is not regular yield nothing.
  """
  damaged = 0
  for _, entry in lines_of(path):
    if entry is not None:
      yield entry
    damaged += entry is None
  if damaged:
    warn(f'{path}: {damaged} damaged line{"s" * (damaged > 1)} left out')


def lines_of(path: Path) -> Iterator[tuple[bytes, Json | None]]:
  """Yields (line, its object, or None if it is damaged) of a file of `summed_line`s.

  A file may have any number of lines, of at most 1 MiB; what follows 16 MiB of damaged
  ones is left out with a warning: a stranger's file of holes would have no end.
  """
  if not is_regular(path):
    return
  left = _MOST_DAMAGED
  with path.open('rb') as file:
    for line in iter(lambda: file.readline(2**20), b''):
      entry = parse_line(line)
      left -= len(line) if entry is None else 0
      if left < 0:
        warn(f'{path}: what follows {_MOST_DAMAGED >> 20} MiB of damaged lines is left out')
        return
      yield line, entry


def parse_line(line: bytes) -> Json | None:
  """Returns the object of a line of `summed_line`, without its sum; None if damaged.

  A line without a sum is read as it is.
  """
  try:
    content = parse_json(line)
  except ValueError:
    return None
  rest, differs = parted(content) if isinstance(content, dict) else (None, False)
  return None if differs else rest


def warn(line: str) -> None:
  """Prints a warning of one line."""
  print(f'warning: {one_line(line)}', file=sys.stderr, flush=True)


def one_line(text: str) -> str:
  """Replaces newlines and other control characters by spaces."""
  return re.sub('[\x00-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]', ' ', text)


def with_error(value: object, error: float | None = None) -> str:
  """Returns '1.234 ± 0.005', unbroken, rounded like the error, or 5 digits.

  Numbers below 1e-4 or from 1e9 on have an exponent, as '6.9e-14 ± 1.2e-14' has.
  """
  if not isinstance(value, (int, float)) or not math.isfinite(value):
    return ''
  if not error or not math.isfinite(error):
    return f'{value:.5g}'
  last = math.floor(math.log10(error))
  if not 1e-4 <= max(abs(value), error) < 1e9:
    first = math.floor(math.log10(abs(value))) if value else last
    return f'{value:.{max(0, first - last + 1)}e}\xa0±\xa0{error:.1e}'
  places = max(0, 1 - last)
  return f'{value:.{places}f}\xa0±\xa0{error:.{places}f}'


def write_json(path: Path, content: dict) -> None:
  """Writes an object as JSON, whole or not at all."""
  write_text(path, json.dumps(content, indent=2) + '\n')


def write_summed(path: Path, content: dict) -> None:
  """Writes an object as JSON, with a sum of it, whole or not at all."""
  rest, _ = parted(content)
  write_json(path, {**rest, SUM: _sum_of(rest)})


def summed_line(content: dict) -> str:
  """Returns an object as a line of JSON, with a sum of it."""
  rest, _ = parted(content)
  return json.dumps({**rest, SUM: _sum_of(rest)}) + '\n'


def read_summed(path: Path, advice: str = 'put the file back as it was') -> Json:
  """Returns the object of a file of `write_summed`, without its sum.

  Raises as `read_json`, and UserError with the advice if the sum differs. A file
  without a sum is read as it is.
  """
  content, differs = parted(read_json(path))
  if differs:
    raise UserError(f'{path} {DIFFERS}: {advice}')
  return content


def parted(content: Json) -> tuple[Json, bool]:
  """Returns an object without its sum, and whether its sum differs."""
  rest = {name: x for name, x in content.items() if name != SUM}
  return rest, SUM in content and content[SUM] != _sum_of(rest)


def _sum_of(content):
  # The sum is of what JSON gives back: it has no tuples, and integers up to 64 bits.
  text = json.dumps(parse_json(json.dumps(content)), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
  """Writes a text file, whole or not at all."""
  with draft(path) as file:
    file.write(text.encode(errors='backslashreplace'))  # names of files


def write_npz(path: Path, arrays: dict) -> None:
  """Writes an npz file, whole or not at all."""
  with draft(path) as file:
    np.savez(file, **arrays)
