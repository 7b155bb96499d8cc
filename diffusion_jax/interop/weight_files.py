"""Files of weights, read without running code that they may contain.

The first bytes of a file say what kind it is, not its name. Every error is a
ValueError of one line that names the file.
"""

import contextlib
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import serialization, traverse_util
from safetensors import SafetensorError, safe_open

from diffusion_jax.aliases import Json, NamedParams, Params
from diffusion_jax.atomic_files import draft
from diffusion_jax.errors import naming
from diffusion_jax.interop.names import require
from diffusion_jax.runtime import files

INDEX = '.index.json'  # how the index of a safetensors file in several parts ends
_ZIP = b'PK\x03\x04'
_MOST_HEADER = 100_000_000  # bytes, the limit of the safetensors library
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_TORCH = 0x1950A86A20F9469CFC6C.to_bytes(10, 'little')  # before torch 1.6


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
  """Returns all arrays of a file by their names, as they are stored.

  The file may be safetensors, or the index (*.index.json) of one in parts; npz;
  PyTorch's .bin, .pt, .pth or .ckpt, which need torch; Flax's msgpack. Names of
  nested dicts and lists are joined by '/', as 'ema/shadow_params/0'. 16-bit
  numbers keep their type: `names.read` makes them float32. Raises ValueError in
  one line for a file that is cut, contains code, or is of another kind.
  """
  path = Path(path)
  if path.name.endswith(INDEX):
    return _read_parts(path)
  with reading(path, 'weights'):
    kind = kind_of(path)
  return _READERS[kind](path)


def kind_of(path: str | Path) -> str:
  """Returns safetensors, npz, torch, pickle, or msgpack for any other file.

  The first bytes of the file decide, and its name only if they could be of
  several kinds. Raises OSError.
  """
  path = Path(path)
  with path.open('rb') as file:
    start = file.read(32)
  # A safetensors file begins with the length of its header. These 8 bytes
  # may look like any other kind, so look for the header, which is JSON, first.
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
  """Raises ValueError in one line for a file that cannot contain weights."""
  if kind_of(path) in ('pickle', 'msgpack'):  # Other kinds are known by their first bytes.
    read_tensors(path)


def reading(path: str | Path, kind: str) -> contextlib.AbstractContextManager[None]:
  """Makes every error within it a ValueError of one line that names the file.

  kind: what the file should contain, such as 'npz'.
  """
  return naming(f'{path} cannot be read as {kind}', partial(_brief, path))


class Lazy(Mapping):
  """Holds the tensors of a safetensors file and reads each one when it is used.

  rename: a tensor's name in the file -> its name here.
  """

  def __init__(self, path: Path, rename: Callable[[str], str] = lambda name: name):
    self.path = path
    with reading(path, 'safetensors'):
      self.file = safe_open(path, framework='numpy', backend='pread')
      self.names = {rename(name): name for name in self.file.keys()}

  def __getitem__(self, name):
    stored = self.names[name]  # KeyError for an unknown name, as in any mapping
    with reading(self.path, 'safetensors'):
      return self.file.get_tensor(stored)

  def __iter__(self):
    return iter(self.names)

  def __len__(self):
    return len(self.names)


def open_tensors(
  path: str | Path, rename: Callable[[str], str] = lambda name: name
) -> Mapping[str, np.ndarray]:
  """Returns the tensors of a file; safetensors files as `Lazy`.

  rename: a tensor's name in the file -> its name here.
  """
  path = Path(path)
  if path.suffix == '.safetensors':
    return Lazy(path, rename)
  return {rename(name): x for name, x in read_tensors(path).items()}


def read_metadata(path: str | Path) -> dict[str, str]:
  """Returns the metadata of a safetensors file, strings by name."""
  with reading(path, 'safetensors'):
    with safe_open(path, framework='numpy', backend='pread') as file:
      return file.metadata() or {}


def read_json(path: str | Path) -> Json:
  """Returns the object that a JSON file contains; ValueError otherwise."""
  with reading(path, 'JSON'):
    return files.read_json(Path(path))


def find(folder: str | Path, names: Sequence[str]) -> Path:
  """Returns the first of `names` that is in the folder, or ValueError."""
  paths = [Path(folder) / name for name in names]
  present = [path for path in paths if path.is_file()]
  expected = ', '.join(names)
  require(bool(present), f'{folder} does not contain any of {expected}')
  return present[0]


def write_safetensors(path: str | Path, tensors: Mapping[str, np.ndarray], **metadata: str) -> None:
  """Writes arrays by name: the whole file, or none of it.

  Raises OSError where that is not possible, as on a full disk.
  """
  try:
    with draft(path) as file:
      mode = os.fstat(file.fileno()).st_mode
      # The library writes the memory of an array and ignores its strides.
      arrays = {n: np.asarray(x, order='C') for n, x in tensors.items()}
      safetensors.numpy.save_file(arrays, file.name, metadata or None)
      # The library's files are readable by their owner only.
      os.chmod(file.name, mode)
  except SafetensorError as error:
    raise OSError(f'{path} cannot be written: {_brief(path, error)}') from error


def flatten(tree: object, prefix: str = '') -> dict[str, np.ndarray]:
  """Returns the arrays and numbers of nested dicts and lists by name."""
  if isinstance(tree, list | tuple):
    tree = dict(enumerate(tree))
  if isinstance(tree, np.ndarray | np.generic | bool | int | float):
    return {prefix: np.asarray(tree)}
  arrays = {}
  if isinstance(tree, Mapping):  # Strings and None are not weights.
    for name, value in tree.items():
      arrays |= flatten(value, f'{prefix}/{name}' if prefix else str(name))
  return arrays


def unflatten(arrays: NamedParams) -> Params:
  """Returns the nested dicts of arrays whose names `flatten` gives."""
  return traverse_util.unflatten_dict(dict(arrays), sep='/')


def _read_safetensors(path):
  with reading(path, 'safetensors'):
    # Read, not mapped: pages of a mapped file would count twice.
    return safetensors.numpy.load_file(path, backend='pread')


def _read_parts(path):
  parts = read_json(path).get('weight_map')
  if not isinstance(parts, dict) or not parts:
    raise ValueError(f'{path} does not contain weight_map, the list of parts')
  tensors: dict[str, np.ndarray] = {}
  for name in sorted({str(part) for part in parts.values()}):
    inside = os.path.basename(name) == name
    require(inside, f'{path} names {name!r}, which is in another folder')
    tensors |= _read_safetensors(path.with_name(name))
  missing = [name for name in parts if name not in tensors]
  require(not missing, f'{path}: {"".join(missing[:1])} is not in any part')
  return tensors


def _read_npz(path):
  # Opened here, because NumPy leaves the file of a damaged archive open.
  with reading(path, 'npz'), path.open('rb') as file:
    with np.load(file, allow_pickle=False) as arrays:
      return {name: arrays[name] for name in arrays.files}


def _read_msgpack(path):
  with reading(path, 'weights (safetensors, npz, PyTorch or msgpack)'):
    tree = serialization.msgpack_restore(path.read_bytes())
    require(isinstance(tree, dict), 'its msgpack is not a dict')
    return flatten(tree)


def _is_torch(path):
  # Both are zip archives; the names of their members are not compressed.
  try:
    with zipfile.ZipFile(path) as archive:
      return any(n.endswith('data.pkl') for n in archive.namelist())
  except (zipfile.BadZipFile, OSError):
    return False  # It is cut; `_read_npz` reports it.


def _refuse_pickle(path):
  raise ValueError(
    f'{path} is a pickle that torch.save did not write: pickles are not read, '
    'because they can run code. Nothing in it was run'
  )


def _read_torch(path):
  try:
    import torch  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    raise ValueError(
      f'{path} is a PyTorch file, which needs torch: run pip install torch, or '
      'give a safetensors file'
    ) from error
  # weights_only: tensors, numbers and containers; nothing is called.
  kind = 'PyTorch weights without code (nothing in it was run)'
  with reading(path, kind), warnings.catch_warnings():
    warnings.simplefilter('ignore')  # Errors say all that the user needs.
    return flatten(_to_numpy(torch.load(path, map_location='cpu', weights_only=True), torch))


def _to_numpy(tree, torch):
  if isinstance(tree, torch.Tensor):
    tree = tree.detach()
    if tree.dtype == torch.bfloat16:  # NumPy has it through jax only.
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
  'torch': _read_torch,
  'pickle': _refuse_pickle,
  'msgpack': _read_msgpack,
}


def _brief(path, error):
  # torch explains at length; the refused object is in a line of its own.
  text = (isinstance(error, OSError) and error.strerror) or str(error)
  lines = [line.strip() for line in text.strip().splitlines()]
  refused = [line for line in lines if line.startswith(('Trying', 'Unsupp'))]
  first = (refused or lines or [type(error).__name__])[0]
  return first.removeprefix(f'{path} ').rstrip('.')
