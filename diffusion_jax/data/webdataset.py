"""WebDataset tars, read by index: `0007.jpg` and `0007.cls` are one example."""

import collections
import dataclasses
import glob
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion_jax.data import buckets
from diffusion_jax.data.columns import Columns, ColumnSource, checked
from diffusion_jax.data.set_files import readable, say_left_out, say_missing, taken_below
from diffusion_jax.data.sources import facts_of_fields, pictures, states
from diffusion_jax.data.splits import random_part
from diffusion_jax.declared import Free, declares
from diffusion_jax.errors import naming
from diffusion_jax.paths import ReadPath
from diffusion_jax.ranges import Count, ImageShape, Rate

# Members that are whole numbers, as in the library webdataset.
NUMBERS = ('cls', 'cls2', 'class', 'count', 'index', 'inx', 'id')
_BLOCK = 512  # bytes of a tar
_LONGEST = 2**20  # bytes of a member other than a file, such as a long name


@dataclasses.dataclass(frozen=True, eq=False)
class Tars:
  """Reads the members of tars as columns, such as 'jpg;png' or 'json:label'.

  members: for each column (offset, size) of its bytes, int64 [N, 2]; tar: the
  number of each example's tar, int64 [N].
  """

  name: str
  files: Sequence[Path]
  tar: np.ndarray
  members: dict[str, np.ndarray]
  columns: Sequence[str]

  def __len__(self) -> int:
    return len(self.tar)

  def get(self, columns: Sequence[str], index: np.ndarray) -> dict[str, list]:
    return {c: [self._value(c, i) for i in index] for c in columns}

  def place(self, i: int) -> str:
    path = self.files[int(self.tar[i])]
    offsets = {members[i, 0] for members in self.members.values()}
    names = (name for name, _, (at, _) in _members(path) if at in offsets)
    most = collections.Counter(names).most_common(1)  # links share offsets
    return ', '.join([str(path), *(name for name, _ in most)])

  def _value(self, column, i):
    offset, size = self.members[column][i]
    with open(self.files[int(self.tar[i])], 'rb') as file:
      file.seek(offset)
      data = file.read(size)
    extensions, _, key = column.partition(':')
    try:
      if key:
        return json.loads(data)[key]
      return int(data) if extensions in NUMBERS else data
    except (ValueError, TypeError, KeyError, RecursionError):
      expected = f'JSON with {key!r}' if key else 'an integer'
      raise ValueError(
        f'{self.place(i)}: {extensions} must be {expected}, got {data!r:.60}'
      ) from None


@declares(what='tars with `0007.jpg`, `0007.cls`, `0007.txt`', needs='`data.path`')
@states(facts_of_fields)
def webdataset(
  path: ReadPath,
  split: str = 'train',
  image_shape: ImageShape = (64, 64, 3),
  num_classes: Count = 0,
  image_column: str = 'jpg;jpeg;png;webp',
  label_column: str = 'cls',
  text_column: str = '',
  test_path: ReadPath = '',
  test_fraction: Rate = 0.0,
  check: Free[bool] = False,
  skip_damaged: bool = False,
) -> ColumnSource:
  """Returns the images of uncompressed tars in the WebDataset format.

  path: a tar, a folder, or a pattern such as 'train-*.tar'; test_path: the same
  for the test split, by default a fixed random test_fraction. Columns are
  extensions; 'jpg;png': either; 'json:label': a value in a JSON file.
  num_classes: 0 for no labels. check, skip_damaged: see `columns.checked`.
  Raises ValueError or FileNotFoundError.
  """
  columns = Columns(image_column, label_column if num_classes else '', text_column)
  table = open_tars(test_path if test_path and split == 'test' else path, columns.read)
  rows = np.arange(len(table))
  if not test_path:
    rows = random_part(len(table), split, test_fraction, path)
  source = ColumnSource(table, columns, rows, pictures(image_shape, num_classes))
  return checked(source, check, skip_damaged)


def open_tars(path: str, columns: Sequence[str]) -> Tars:
  """Returns tars, whose headers are read once.

  Raises ValueError for a damaged tar and for an example without a column.
  """
  paths = _tars_at(path)
  wanted = [c.partition(':')[0].lower().split(';') for c in columns]
  seen: dict[str, None] = {}
  numbers, parts = [], []
  for number, tar in enumerate(paths):
    found: dict[str, list] = {}  # Members of an example may be anywhere in its tar.
    for name, extension, member in _members(tar):
      seen[extension] = None
      places = found.setdefault(name, [(-1, 0)] * len(columns))
      for column, extensions in enumerate(wanted):
        if extension in extensions:
          if places[column][0] >= 0:
            raise ValueError(f'{tar}: {name} has two members of {columns[column]!r}')
          places[column] = member
    if not found:
      raise ValueError(f'{tar} has no examples')
    part = np.array([*found.values()], np.int64).reshape(-1, len(columns), 2)
    for i, column in np.argwhere(part[..., 0] < 0)[:1]:
      raise ValueError(
        f'{tar}, {[*found][i]} has no {columns[column]!r}; the tar has the extensions '
        f'{", ".join(seen)}'
      )
    numbers += [number] * len(found)
    parts.append(part)
  members = dict(zip(columns, np.concatenate(parts).swapaxes(0, 1), strict=True))
  every = [*dict.fromkeys([*seen, *columns])]
  return Tars(path, paths, np.array(numbers, np.int64), members, every)


def _tars_at(path):
  # Returns a file, the tars below a folder, or the matches of a pattern, by name.
  path = Path(buckets.local(str(path), '.tar')).expanduser()
  if path.is_file():
    return [path]
  if path.is_dir():
    found = [path / name for name in taken_below(path, ['.tar'])]
  else:
    found = map(Path, glob.iglob(str(path), recursive=True))
  files = sorted(file for file in found if file.is_file())
  if not files:
    hint = ': * stands for {000..003}' * ('{' in str(path))
    raise FileNotFoundError(
      f'{path} is neither a file nor a folder with *.tar files, nor a pattern of existing '
      f'files{hint}'
    )
  say_missing(files)
  return files


def _headers(file):
  # Yields the members of a tar, or of several that were joined by `cat`.
  start, rest = 0, b'x'
  while rest:
    file.seek(start)
    with tarfile.open(fileobj=file, mode='r:', tarinfo=_Header) as tar:
      yield from tar
    file.seek(tar.offset)  # tarfile takes a damaged header for the end
    if file.read(_BLOCK) != bytes(_BLOCK):
      raise tarfile.ReadError(f'it does not end after byte {tar.offset:,}')
    while (zeros := file.read(_LONGEST)) and not (rest := zeros.lstrip(b'\0')):
      pass
    rest = rest if zeros else b''
    start = (file.tell() - len(rest)) // _BLOCK * _BLOCK


class _Header(tarfile.TarInfo):
  # tarfile reads a long name into memory, whatever size the header claims.
  def _proc_member(self, tar):
    if not self.isreg() and self.size > _LONGEST:
      raise tarfile.ReadError(f'a header claims a name of {self.size:,} bytes')
    return super()._proc_member(tar)  # pyright: ignore[reportAttributeAccessIssue]


def _members(path):
  # Yields (name without extension, extension, (offset, size)) of each file.
  places, total, others = {}, 0, []
  what = 'cut short, damaged or compressed, so that it cannot be read as a tar'
  with naming(f'{path} is {what}'), open(path, 'rb') as file:
    for member in _headers(file):
      place = member.offset_data, member.size
      if member.islnk():  # the same file a second time
        place = places.get(member.linkname)
      elif not member.isreg() or member.issparse():
        place = None
      folder, slash, base = member.name.rpartition('/')
      if member.isdir() or base[:1] == '.':
        continue
      total += 1
      stem, _, extension = base.partition('.')
      if place is not None:
        places[member.name] = place
      if place is None or not extension:
        others.append(member.name)
        continue
      yield folder + slash + stem, extension.lower(), place
  why = 'they are no plain files with an extension'
  say_left_out(path, len(others), total, 'members', [*map(readable, others)], why)
