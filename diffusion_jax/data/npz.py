"""Files of NumPy arrays: read without pickles, and as a source of examples."""

import contextlib
import io
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from diffusion_jax.data import buckets, directional
from diffusion_jax.data.directional import Directional
from diffusion_jax.data.set_files import say_left_out
from diffusion_jax.data.sources import ADVICE, ArraySource, check_finite, check_lengths_of
from diffusion_jax.data.spec import MOST_TOKENS
from diffusion_jax.data.splits import check_split, random_part
from diffusion_jax.declared import declares
from diffusion_jax.errors import naming
from diffusion_jax.paths import ReadPath, existing
from diffusion_jax.ranges import Count, Finite, Positive, Rate

_HEADER = 10_000  # the most bytes of the header of an array, as in NumPy
# The names that an array may have in a file.
NAMES = {
  'x': ('x', 'images', 'arr_0'),
  'label': ('label', 'labels'),
  'context': ('context',),
  'length': ('lengths',),
}


@declares(
  what='a NumPy file of pictures or of [any arrays](arrays.md), such as `--mode=sample` writes',
  needs='`data.path`',
)
def npz(
  path: ReadPath | Path,
  split: str = 'train',
  num_classes: Count = 0,
  test_fraction: Rate = 0.0,
  bounds: tuple[Finite, ...] = (),
  x: str = '',
  context: str = '',
  split_row: Count = 0,
  vocabulary: Count = 0,
  kind: Directional | None = None,
  period: Positive | None = None,
  gaps: bool = False,
) -> ArraySource:
  """Reads an npz file, or a folder of .npy files, which stay on disk.

  `x` (also `images` or `arr_0`) has levels, uint8 [N, H, W, C], [N, H, W] or
  [N, L], tokens, uint16 [N, L], or real numbers, float [N] or [N, ...]; `context`, float [N, ...],
  belongs to it; `label` [N] is read if num_classes is not 0; `lengths`, int [N], are of
  x [N, T, ...], whose rest is not read. The test split is
  `test_x` and so on if the file has them, or the examples in row split_row of
  `test_indices`, int [splits, n], otherwise a fixed random test_fraction, which
  'train' does not contain. bounds: low and high of x, or of each of its last
  axis in turn. x, context: other names of these arrays. vocabulary: how many tokens there are, of
  uint8 [N, L] too; 0: of uint16, one more than the largest of both splits. kind: x are angles
  [N, ...] with a period, 2 pi by default, unit vectors [N, ..., n], or unit quaternions [N, ...,
  4] with the scalar first; None: numbers. gaps: NaN in x is a number that is not known. Raises
  ValueError or FileNotFoundError.
  """
  check_split(split)
  if gaps and kind:
    raise ValueError(f'gaps=True is of numbers, and x has {kind}: leave gaps out')
  if period and kind != 'angles':
    raise ValueError(f'period={period:g} is of angles: set kind=angles')
  if kind and bounds:
    raise ValueError(f'bounds are of numbers, and x has {kind}: leave bounds out')
  turn = (period or directional.TURN) if kind == 'angles' else 0.0
  path = Path(buckets.local(str(path))).expanduser()
  names = names_of(path)
  for name in filter(None, (x, context)):
    if name not in names:
      raise ValueError(f'{path} has no array {name}, but {", ".join(names)}')
  spellings = NAMES | {n: (name,) for n, name in (('x', x), ('context', context)) if name}
  has_test = any(f'test_{n}' in names for n in spellings['x'])
  if split_row and (has_test or 'test_indices' not in names):
    raise ValueError(f'split_row={split_row}: {path} has test_x, or no test_indices [splits, n]')
  _say_others(path, names, spellings, has_test, num_classes)
  prefix = 'test_' if has_test and split == 'test' else ''
  arrays = _arrays(path, names, spellings, prefix, num_classes, kind=kind, period=turn, gaps=gaps)
  levels = _vocabulary(path, arrays['x'], names, spellings, vocabulary)
  if not has_test:
    size = len(arrays['x'])
    if 'test_indices' in names:
      index = _indexed_part(path, split_row, size, split)
    else:
      index = random_part(size, split, test_fraction, path)
    if len(index) < size:  # a whole folder stays on disk
      arrays = {n: array[index] for n, array in arrays.items()}
  low, high = box_of(bounds, arrays['x'].shape[-1])
  words = {'num_classes': num_classes, 'low': low, 'high': high}
  if levels:
    words |= {'levels': levels, 'tokens': True}
  return ArraySource(**arrays, **words, manifold=kind, period=turn, gaps=gaps)


def _check_directional(path, x, length, kind, period):
  if length is not None:
    raise ValueError(f'{path} has lengths, and {kind} have one length: leave lengths out')
  if x.dtype.kind != 'f':
    raise ValueError(f'{path}: x is {x.dtype}, and {kind} are float: give x.astype(float)')
  if wrong := directional.problem_of_shape(x.shape[1:], kind):
    raise ValueError(f'{path}: {wrong}')
  directional.check(x, kind, period, f'{path}: x')


def _vocabulary(path, x, names, spellings, vocabulary):
  # Returns the number of tokens in the vocabulary of a file; 0: x has no tokens.
  if x.dtype != np.uint16 and not vocabulary:
    return 0
  if x.dtype not in (np.uint8, np.uint16) or x.ndim != 2:
    raise ValueError(
      f'{path}: vocabulary={vocabulary} is of tokens, uint16 or uint8 [N, L], and x is '
      f'{x.dtype} {list(x.shape)}'
    )
  both = [f'{prefix}{word}' for word in spellings['x'] for prefix in ('', 'test_')]
  arrays = read(path, [name for name in both if name in names]).values()
  least = max(2, 1 + max(int(array.max()) for array in arrays))
  if vocabulary and not least <= vocabulary <= MOST_TOKENS:
    raise ValueError(
      f'vocabulary={vocabulary}: {path} has the token {least - 1}, and a vocabulary has at most '
      f'{MOST_TOKENS:,}: set it to {least} or more, or to 0'
    )
  return vocabulary or least


def _say_others(path, names, spellings, has_test, num_classes):
  # Says which arrays no split reads.
  taken = set() if has_test else {'test_indices'}
  for what, words in spellings.items():
    if num_classes or what != 'label':
      taken |= {*words, *(f'test_{n}' for n in words)}
  others = [n for n in names if n not in taken]
  is_label = not num_classes and not {*others}.isdisjoint(spellings['label'])
  why = 'num_classes reads labels' * is_label
  say_left_out(path, len(others), len(names), 'arrays', others, why)


def labels_in(path: str | Path, num_classes: int) -> np.ndarray | None:
  """Returns the labels of the examples of an npz file, int32 [N]; None if it has none."""
  path = Path(buckets.local(str(path))).expanduser()
  names = names_of(path)
  name = next((name for name in NAMES['label'] if name in names), None)
  if name is None:
    return None
  (labels,) = read(path, [name]).values()
  return _checked(path, labels, labels.size, num_classes)


def _indexed_part(path, row, size, split):
  # Returns the indices of a split by a row of the file's `test_indices`.
  (indices,) = read(path, ['test_indices']).values()
  is_table = indices.ndim == 2 and indices.dtype.kind in 'iu'
  is_test = np.isin(np.arange(size), indices[row : row + 1] if is_table else [])
  if not 0 < is_test.sum() == indices.shape[-1] < size:
    raise ValueError(
      f'{path}: test_indices must be int [splits, n], whose row {row} names some of '
      f'0..{size - 1}, each once; got {indices.dtype} {list(indices.shape)}'
    )
  return np.flatnonzero(is_test == (split == 'test'))


def _arrays(path, names, spellings, prefix, num_classes, kind, period, gaps):
  # Returns the arrays of NAMES that the file has, checked.
  arrays = {}
  for what, words in spellings.items():
    if what == 'label' and not num_classes:
      continue
    given = [f'{prefix}{n}' for n in words if f'{prefix}{n}' in names]
    if len(given) > 1:
      field = f'name one by {what}={given[0]}, for instance' if what in 'x context' else 'keep one'
      raise ValueError(f'{path} has {" and ".join(given)}, which both may be {what}: {field}')
    if given:
      (arrays[what],) = read(path, given[:1]).values()
    elif what not in ('context', 'length'):
      raise ValueError(
        f'{path} has the arrays {", ".join(names) or "none"}; it must contain '
        'x, images or arr_0, [N, ...], and labels, int [N], unless '
        'num_classes=0; with test_x also test_labels'
      )
  if 'length' not in arrays and any(n in names for n in spellings['length']):
    raise ValueError(f'{path} has test_x and lengths: it needs test_lengths')
  x = arrays['x'] = _checked_x(path, arrays['x'], arrays.get('length'), kind, period, gaps)
  if 'length' in arrays:
    arrays['length'] = arrays['length'].astype(np.int32)
  if 'label' in arrays:
    arrays['label'] = _checked(path, arrays['label'], len(x), num_classes)
  _check_context(path, arrays, any(n in names for n in spellings['context']))
  return arrays


def box_of(bounds: tuple[float, ...], size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Returns (low, high) of a last axis of `size`; () without bounds.

  bounds: low and high of all, or of each number in turn. Raises ValueError.
  """
  if len(bounds) not in (0, 2, 2 * size):
    raise ValueError(
      f'bounds are low,high or low,high of each of {size} numbers in turn; got '
      f'{len(bounds)} numbers'
    )
  low, high = bounds[::2], bounds[1::2]
  if any(a >= b for a, b in zip(low, high, strict=True)):
    raise ValueError(f'bounds={bounds}: each low must be below its high')
  repeats = size if len(bounds) == 2 else 1
  return low * repeats, high * repeats


def _checked_x(path, x, length, kind, period, gaps):
  # Returns uint8 levels, uint16 tokens, or floats; raises ValueError for other arrays.
  if x.ndim == 1 and x.dtype.kind == 'f':
    x = x[:, None]
  if not x.size or x.ndim < 2:
    raise ValueError(
      f'{path}: x must be [N, ...] with a shape for each example, got '
      f'{x.dtype} {list(x.shape)}: reshape numbers to [N, 1]'
    )
  if kind:
    _check_directional(path, x, length, kind, period)
    return x
  if length is not None:
    with naming(f'{path}'):
      check_lengths_of(length, *x.shape[:2])
  if gaps and x.dtype.kind != 'f':
    raise ValueError(f'{path}: gaps=True is of numbers, and x is {x.dtype}: leave gaps out')
  if x.dtype == np.uint8:
    return x[..., None] if x.ndim == 3 else x
  if x.dtype == np.uint16 and x.ndim == 2:
    return x
  if x.dtype.kind != 'f':
    raise ValueError(f'{path}: x is {x.dtype} {list(x.shape)}: {ADVICE}')
  check_finite(x, f'{path}: x', length, gaps)
  return x


def _check_context(path, arrays, has_context):
  context, size = arrays.get('context'), len(arrays['x'])
  if context is None:
    if has_context:
      raise ValueError(f'{path} has test_x and context: it needs test_context')
    return
  if context.dtype.kind != 'f' or context.ndim < 2 or len(context) != size:
    raise ValueError(
      f'{path}: context must be float [{size}, ...], got {context.dtype} {list(context.shape)}'
    )
  check_finite(context, f'{path}: context')


def _checked(path, labels, size, num_classes):
  # Returns int32 labels; raises ValueError unless they are 0..num_classes - 1.
  is_labels = labels.shape == (size,) and labels.dtype.kind in 'iu'
  if not is_labels or labels.min() < 0 or labels.max() >= num_classes:
    limits = f', {labels.min()}..{labels.max()}' if is_labels else ''
    raise ValueError(
      f'{path}: labels must be int [{size}] in 0..{num_classes - 1}, got '
      f'{labels.dtype} {list(labels.shape)}{limits}'
    )
  return labels.astype(np.int32)


def read_array(path: str | Path, name: str, kinds: str = 'fiu') -> np.ndarray:
  """Returns the numbers of a .npy file, or of an npz file by their name.

  They become float64. kinds: of NumPy's types. Raises ValueError or
  FileNotFoundError in one line.
  """
  path = Path(path).expanduser()
  if path.suffix.lower() == '.npy':
    array = _mapped(path)
  elif name in (names := names_of(path, name)):
    array = read(path, [name])[name]
  else:
    raise ValueError(f'{path} has no array {name}, but {", ".join(names)}')
  if array.dtype.kind not in kinds:
    raise ValueError(f'{path} has {array.dtype}, and numbers are needed')
  return np.asarray(array, np.float64)


def names_of(path: str | Path, needed: str = 'x') -> list[str]:
  """Returns the names of the arrays in an npz file or a folder of .npy files.

  Raises FileNotFoundError, or ValueError in one line for another kind of file,
  which says how to write one with the array `needed`.
  """
  path = Path(path).expanduser()
  if path.is_dir():
    names = sorted(file.stem for file in path.glob('[!.]*.npy'))
    if not names:
      raise FileNotFoundError(
        f'{path} has no .npy files; for a folder of pictures, set data=folder'
      )
    return names
  path = existing(path, 'npz file', Path.is_file)
  with path.open('rb') as file:
    if file.read(2) != b'PK':
      table = '; data=csv reads a table' * (path.suffix.lower() == '.csv')
      raise ValueError(
        f'{path} is not an npz file of arrays: numpy.savez(file, {needed}=array) writes one{table}'
      )
  return list(_with_file(path, lambda file: file.files))


def read(path: str | Path, names: Iterable[str], most: int | None = None) -> dict[str, np.ndarray]:
  """Returns arrays of an npz file by their names, in this order.

  Arrays of a folder of .npy files are mapped into memory. Raises ValueError in
  one line for a damaged file, for Python objects, and for an array that claims more than
  `most` bytes: an archive may be a thousand times smaller than what it holds.
  """
  path = Path(path).expanduser()
  if path.is_dir():
    return {name: _mapped(path / f'{name}.npy') for name in names}
  if most is not None:
    existing(path, 'npz file', Path.is_file)  # A pipe would hang.
    with reading(path), zipfile.ZipFile(path) as archive:
      return {name: _read_up_to(most, archive, f'{name}.npy') for name in names}
  return _with_file(path, lambda file: {n: np.asarray(file[n]) for n in names})


def _read_up_to(most, archive, member):
  with archive.open(member) as file:
    shape, _, dtype = header(file)
  if (size := math.prod(shape) * dtype.itemsize) > most:
    raise ValueError(f'{member} claims {size:,} bytes, and at most {most:,} are read')
  with archive.open(member) as file:
    return np.lib.format.read_array(file, allow_pickle=False)


def header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
  """Returns (shape, whether in Fortran order, dtype) of an npy file; ValueError."""
  if np.lib.format.read_magic(file) == (1, 0):
    return np.lib.format.read_array_header_1_0(file)
  length = file.read(4)
  if (size := int.from_bytes(length, 'little')) > _HEADER:
    raise ValueError(f'a header claims {size:,} bytes')
  return np.lib.format.read_array_header_2_0(io.BytesIO(length + file.read(size)))


def is_whole(path: str | Path) -> bool:
  """Returns whether all arrays of an npz file have the sums that the file has of them."""
  try:
    with zipfile.ZipFile(path) as file:
      return file.testzip() is None
  except Exception:  # zipfile has many, and no file can be a reason.
    return False


def _mapped(path):
  existing(path, '.npy file', Path.is_file)  # A pipe would hang.
  with reading(path):
    return np.load(path, mmap_mode='r', allow_pickle=False)


def _with_file(path, function):
  # NumPy itself would not close the file of a damaged archive.
  existing(path, 'npz file', Path.is_file)  # A pipe would hang.
  with reading(path), open(path, 'rb') as raw:
    with np.load(raw, allow_pickle=False) as file:
      return function(file)


def reading(path: str | Path) -> contextlib.AbstractContextManager[None]:
  """Turns the errors of a damaged npz file into ValueError, in one line."""

  def reason(error):
    text = str(error) or type(error).__name__
    objects = 'allow_pickle' in text or 'Python objects' in text
    return 'it contains Python objects, which are not read' if objects else text

  is_npy = Path(path).suffix == '.npy'
  kind = 'a .npy file' if is_npy else 'an npz file of arrays'
  return naming(f'{path} is not {kind}', reason)
