"""Items that are computed in batches, and kept in files until all are there."""

import contextlib
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
from tqdm import tqdm

from diffusion_jax.data import npz
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import processes
from diffusion_jax.runtime.files import make_folder, write_npz
from diffusion_jax.runtime.per_image import one_ahead

Arrays = dict[str, np.ndarray]


def kept(
  start: Callable[[np.ndarray], Callable[[], Arrays]],
  count: int,
  size: int,
  folder: Path,
  what: str,
  write: Callable[[Path, Arrays], None] = write_npz,
) -> list[Path]:
  """Computes items 0..count - 1, with a file for each batch; returns the files.

  start: dispatches the work of items [n], and returns a function () -> their
  arrays, which waits for them. Files that are in the folder are kept, so an
  interrupted computation continues. All processes compute what the first one
  lacks, and it writes. what: a word for the progress bar.
  """
  batches = np.split(np.arange(count), range(size, count, size))
  paths = [folder / f'{index[0]:08d}.npz' for index in batches]
  if processes.is_first():
    make_folder(folder.parent, folder.name)
  missing = processes.broadcast([not path.exists() for path in paths])
  todo = np.flatnonzero(missing)
  before = count - sum(len(batches[i]) for i in todo)
  with tqdm(
    total=count, initial=before, desc=what, unit='image', disable=None
  ) as bar:
    for i, arrays in one_ahead(lambda i: start(batches[i]), todo):
      if processes.is_first():
        write(paths[i], arrays)
      bar.update(len(batches[i]))
  return paths


def gathered(paths: list[Path], without: Collection[str] = ()) -> Arrays:
  """Joins the arrays of all files, in memory-mapped files without a name.

  Raises UserError for a file that is damaged.
  """
  firsts: Arrays = {}
  files = {}
  with contextlib.ExitStack() as stack:
    for path in paths:
      try:
        names = [n for n in npz.names_of(path) if n not in without]
        for name, part in npz.read(path, [*firsts] or names).items():
          if name not in files:
            file = tempfile.TemporaryFile(dir=path.parent)
            files[name] = stack.enter_context(file)
          first = firsts.setdefault(name, part[:1])
          if part[:1].shape != first.shape:
            raise ValueError(f'{name} has the shape {list(part.shape)}')
          files[name].write(part.astype(first.dtype).tobytes())
      except (FileNotFoundError, TypeError, ValueError) as error:
        raise UserError(
          f'{path} is damaged ({error}): delete it, and the same command makes '
          'it again'
        ) from error
    return {name: _mapped(files[name], first) for name, first in firsts.items()}


def _mapped(file, first):
  file.flush()
  return np.memmap(file, first.dtype, 'r+').reshape(-1, *first.shape[1:])
