"""Files of weights, read without running anything that is in them.

The kind of a file is recognised by its first bytes, whatever its name is. Every
mistake is a ValueError of one line that names the file.
"""

import contextlib
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import serialization
from safetensors import SafetensorError, safe_open

INDEX = '.index.json'  # of a safetensors file in several parts
_ZIP = b'PK\x03\x04'
_MOST_HEADER = 100_000_000  # bytes, the limit of the safetensors library
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_TORCH = 0x1950A86A20F9469CFC6C.to_bytes(10, 'little')  # before torch 1.6


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
  """Returns all arrays of a file by their names, as they are stored.

  A file of safetensors, or the index (*.index.json) of one in parts; .npz;
  PyTorch's .bin, .pt, .pth or .ckpt, which need torch; Flax's msgpack. Names of
  nested dicts and lists are joined by '/', as 'ema/shadow_params/0'. Numbers of
  16 bits stay so: `names.read` makes them float32. Raises ValueError in one
  line for a file that is cut, holds code, or is of none of these kinds.
  """
  path = Path(path)
  try:
    if path.name.endswith(INDEX):
      return _read_parts(path)
    kind = kind_of(path)
  except OSError as error:
    raise ValueError(f'{path} cannot be read: {error.strerror}') from error
  return _READERS[kind](path)


def kind_of(path: str | Path) -> str:
  """Returns safetensors, npz, torch, pickle, or msgpack for any other file.

  It is decided by the first bytes of the file. The name of the file decides
  only if these say nothing. Raises OSError.
  """
  path = Path(path)
  with path.open('rb') as file:
    start = file.read(32)
  # A safetensors file begins with the length of its header. These 8 bytes can
  # be those of any other kind, so the header, which is JSON, is sought first.
  length = int.from_bytes(start[:8], 'little')
  if start[8:9] == b'{' and length <= _MOST_HEADER:
    return 'safetensors'
  if start.startswith(_ZIP):
    return 'torch' if _is_torch(path) else 'npz'
  if start.startswith(_PICKLES) and _TORCH in start:
    return 'torch'
  if path.suffix == '.safetensors':
    return 'safetensors'
  return 'pickle' if start.startswith(_PICKLES) else 'msgpack'


def check_kind(path: str | Path) -> None:
  """Raises ValueError in one line for a file that cannot be one of weights."""
  if kind_of(path) in ('pickle', 'msgpack'):  # Others are known by their start.
    read_tensors(path)


class Lazy(Mapping):
  """Holds the tensors of a safetensors file, which are read when they are used.

  rename: a tensor's name -> the name that it is found by here.
  """

  def __init__(
    self, path: Path, rename: Callable[[str], str] = lambda name: name
  ):
    self.path = path
    with _reading_safetensors(path):
      self.file = safe_open(path, framework='numpy', backend='pread')
      self.names = {rename(name): name for name in self.file.keys()}

  def __getitem__(self, name):
    with _reading_safetensors(self.path):
      return self.file.get_tensor(self.names[name])

  def __iter__(self):
    return iter(self.names)

  def __len__(self):
    return len(self.names)


def open_tensors(
  path: str | Path, rename: Callable[[str], str] = lambda name: name
) -> Mapping[str, np.ndarray]:
  """Returns `read_tensors` with other names, of safetensors without memory.

  rename: a tensor's name -> the name that it gets.
  """
  path = Path(path)
  if path.suffix == '.safetensors':
    return Lazy(path, rename)
  return {rename(name): x for name, x in read_tensors(path).items()}


def read_metadata(path: str | Path) -> dict[str, str]:
  """Returns the texts that a safetensors file holds beside its tensors."""
  with _reading_safetensors(path):
    with safe_open(path, framework='numpy', backend='pread') as file:
      return file.metadata() or {}


def read_json(path: str | Path) -> dict[str, Any]:
  """Returns the object that a JSON file holds; ValueError otherwise."""
  path = Path(path)
  try:
    found = json.loads(path.read_text())
  except OSError as error:
    raise ValueError(f'{path} cannot be read: {error.strerror}') from error
  except ValueError as error:
    raise ValueError(f'{path} is no JSON file: {error}') from error
  if not isinstance(found, dict):
    raise ValueError(f'{path} holds a {type(found).__name__}, not an object')
  return found


def find(folder: str | Path, names: Iterable[str]) -> Path:
  """Returns the first of `names` that is in the folder, or ValueError."""
  names = list(names)
  for name in names:
    if (Path(folder) / name).is_file():
      return Path(folder) / name
  raise ValueError(f'{folder} has none of {", ".join(names)}')


def write_safetensors(
  path: str | Path, tensors: Mapping[str, np.ndarray], **metadata: str
) -> None:
  """Writes arrays by names, contiguous ones, whole or not at all.

  Raises OSError where that is not possible, as on a full disk.
  """
  draft = Path(f'{path}.tmp')
  draft.touch()
  mode = draft.stat().st_mode
  try:
    safetensors.numpy.save_file(dict(tensors), draft, metadata or None)
  except SafetensorError as error:
    draft.unlink(missing_ok=True)
    raise OSError(f'{path} cannot be written: {_brief(error)}') from error
  draft.chmod(mode)  # Its own files are for their owner alone.
  draft.replace(path)


def flatten(tree: Any, prefix: str = '') -> dict[str, np.ndarray]:
  """Returns the arrays and numbers of nested dicts and lists by name."""
  if isinstance(tree, Mapping):
    items = [(str(name), value) for name, value in tree.items()]
  elif isinstance(tree, list | tuple):
    items = [(str(i), value) for i, value in enumerate(tree)]
  elif isinstance(tree, np.ndarray | np.generic | bool | int | float):
    return {prefix: np.asarray(tree)}
  else:  # texts and None are no weights
    return {}
  found = {}
  for name, value in items:
    found |= flatten(value, f'{prefix}/{name}' if prefix else name)
  return found


def _read_safetensors(path):
  with _reading_safetensors(path):
    # Read, not mapped: pages of a mapped file would count twice.
    return safetensors.numpy.load_file(path, backend='pread')


@contextlib.contextmanager
def _reading_safetensors(path):
  try:
    yield
  except (AttributeError, TypeError) as error:  # 8 bits and less
    raise ValueError(
      f'{path} holds numbers of a kind that NumPy does not have ({error})'
    ) from error
  except (SafetensorError, OSError, ValueError) as error:
    raise ValueError(
      f'{path} is no whole safetensors file: {_brief(error)}'
    ) from error


def _read_parts(path):
  parts = read_json(path).get('weight_map')
  if not isinstance(parts, dict) or not parts:
    raise ValueError(f'{path} has no weight_map, the list of the parts')
  tensors: dict[str, np.ndarray] = {}
  for name in sorted({str(part) for part in parts.values()}):
    if os.path.basename(name) != name:
      raise ValueError(f'{path} names {name!r}, which is in another folder')
    tensors |= _read_safetensors(path.with_name(name))
  missing = [name for name in parts if name not in tensors]
  if missing:
    raise ValueError(f'{path}: {missing[0]} is in none of the parts')
  return tensors


def _read_npz(path):
  try:
    # Opened here, because NumPy leaves the file of a damaged archive open.
    with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
      return {name: arrays[name] for name in arrays.files}
  except Exception as error:  # zlib, zipfile and NumPy have one each
    raise ValueError(
      f'{path} is not a whole npz file, nor a file of PyTorch: {_brief(error)}'
    ) from error


def _read_msgpack(path):
  try:
    found = serialization.msgpack_restore(path.read_bytes())
  except Exception as error:  # msgpack, NumPy and Flax have several
    raise ValueError(
      f'{path} is no file of weights: not safetensors, npz, PyTorch, nor a '
      'whole msgpack'
    ) from error
  if not isinstance(found, dict):
    raise ValueError(
      f'{path} is no file of weights: not safetensors, npz, PyTorch, nor '
      'msgpack of a dict'
    )
  return found


def _is_torch(path):
  # Both are zip archives; the names of their members are in the clear.
  try:
    with zipfile.ZipFile(path) as archive:
      return any(n.endswith('data.pkl') for n in archive.namelist())
  except (zipfile.BadZipFile, OSError):
    return False  # It is cut, and `_read_npz` says so.


def _refuse_pickle(path):
  raise ValueError(
    f'{path} begins as a pickle does, and torch.save did not write it: pickles '
    'are not read, because they can run code. Nothing of it was run'
  )


def _load_torch(path):
  # weights_only: tensors, numbers and containers, and nothing that is called.
  try:
    import torch  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    raise ValueError(
      f'{path} is a file of PyTorch: pip install torch, which reads it; '
      'safetensors need none'
    ) from error
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # it is refused, or not
      found = torch.load(path, map_location='cpu', weights_only=True)
  except pickle.UnpicklingError as error:
    raise ValueError(
      f'{path} was not read: it is cut, or a pickle of more than weights, '
      f'which would run code ({_reason(error)}). Nothing of it was run'
    ) from error
  except Exception as error:  # torch has RuntimeError, EOFError and others
    raise ValueError(f'{path} is no whole file: {_brief(error)}') from error
  return _to_numpy(found, torch)


def _to_numpy(tree, torch):
  if isinstance(tree, torch.Tensor):
    tree = tree.detach()
    if tree.dtype == torch.bfloat16:  # NumPy has it through jax only
      return tree.view(torch.int16).numpy().view(jnp.bfloat16)
    return tree.numpy()
  if isinstance(tree, Mapping):
    return {name: _to_numpy(value, torch) for name, value in tree.items()}
  if isinstance(tree, list | tuple):
    return [_to_numpy(value, torch) for value in tree]
  return tree


_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
  'safetensors': _read_safetensors,
  'npz': _read_npz,
  'torch': lambda path: flatten(_load_torch(path)),
  'pickle': _refuse_pickle,
  'msgpack': lambda path: flatten(_read_msgpack(path)),
}


def _reason(error):
  # torch explains at length; what was refused is in a line of its own.
  lines = [line.strip() for line in str(error).splitlines()]
  refused = [line for line in lines if line.startswith(('Trying', 'Unsupp'))]
  return (refused or ['weights only'])[0].rstrip('.')


def _brief(error):
  return str(error).strip().partition('\n')[0][:200]
