"""Evaluates functions of images in batches on all devices of a run.

Batches are kept in files until all are there.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from diffusion_jax.aliases import Params, PyTree
from diffusion_jax.core.keys import fold_each
from diffusion_jax.data import npz, reads
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import processes
from diffusion_jax.runtime.compiling import Effort, Program, program
from diffusion_jax.runtime.files import make_folder, read_summed, write_npz, write_summed
from diffusion_jax.runtime.sharding import batch_sharding

Item = TypeVar('Item')
Result = TypeVar('Result')
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class PerExample:
  """A function of (params, index [n], inputs [n, ...]) -> NumPy arrays [n, ...].

  program: takes params, `others`, roots, index and inputs on the mesh. others:
  further parameters, which are the same in all calls.
  """

  program: Program
  mesh: Mesh
  roots: PyTree
  size: int
  others: tuple[PyTree, ...]

  def __call__(self, params: Params, index: np.ndarray, inputs: PyTree) -> PyTree:
    """Returns the arrays, [n, ...]."""
    return self.start(params, index, inputs)()

  def start(self, params: Params, index: np.ndarray, inputs: PyTree) -> Callable[[], PyTree]:
    """Dispatches the work; returns () -> the arrays, which waits for them."""
    arrays = self.compute(params, *self._placed(index, inputs))
    return lambda: rows(jax.device_get(arrays), slice(len(index)))

  def compute(self, params: Params, index: jax.Array, inputs: PyTree) -> PyTree:
    """Returns JAX arrays; it can be traced, lowered and exported."""
    return self.program.start(params, self.others, self.roots, index, inputs)

  def compile(self, params: Params, index: np.ndarray, inputs: PyTree) -> None:
    """Compiles the program that `start` uses; params may be shapes."""
    self.program.compile(params, self.others, self.roots, *self._placed(index, inputs))

  def _placed(self, index, inputs):
    n = len(index)
    count = -(-max(n, self.size) // self.mesh.size) * self.mesh.size
    batch = rows((index, inputs), np.arange(count) % n)
    return jax.device_put(batch, batch_sharding(self.mesh))


def per_example(
  function: Callable[..., PyTree],
  mesh: Mesh,
  roots: PyTree,
  size: int = 0,
  what: str = 'a program',
  effort: Effort = 'tuned',
  others: tuple[PyTree, ...] = (),
) -> PerExample:
  """Returns a function of (params, index [n], inputs) that runs on a mesh.

  function: (params, *others, keys [B], inputs) -> tree of arrays [B, ...]; it
  is jitted. Image i gets the key fold_in(root, i), for each key in the tree
  `roots`, and depends only on i and its inputs, a tree of NumPy arrays
  [n, ...]. Copies of the first images fill a batch up to `size` and a multiple
  of the devices, and are dropped from the result, so that one program serves
  all batches. Several processes get the same result. what: the program's name
  in messages. effort: see `compiling.options`. others: further parameters.
  """

  def images(params, others, roots, index, inputs):
    keys = jax.tree.map(lambda root: fold_each(root, index), roots)
    return function(params, *others, keys, inputs)

  return PerExample(program(what, images, mesh, effort), mesh, roots, size, others)


def one_ahead(
  start: Callable[[Item], Callable[[], Result]], parts: Iterable[Item]
) -> Iterator[tuple[Item, Result]]:
  """Yields (part, start(part)()) for each part.

  The next part starts before the current one is fetched, so that the devices do
  not wait for the host. At most two parts are under way.
  """
  before = None
  for part in parts:
    waiting = part, start(part)
    if before is not None:
      yield before[0], before[1]()
    before = waiting
  if before is not None:
    yield before[0], before[1]()


def rows(tree: PyTree, index: np.ndarray | slice | int | tuple[slice, int]) -> PyTree:
  """Returns the rows `index` of every array [N, ...] of a tree."""
  return jax.tree.map(lambda x: x[index], tree)


def write_parts(
  start: Callable[[np.ndarray], Callable[[], Arrays]],
  count: int,
  size: int,
  folder: Path,
  what: str,
) -> list[Path]:
  """Computes items 0..count - 1, with a file for each batch; returns the files.

  start: dispatches the work of items [n], and returns a function () -> their
  arrays, which waits for them. Files that are in the folder are kept, so an
  interrupted computation continues, unless what the user's parts had read for them
  (`reads`) has changed. All processes compute what the first one
  lacks, and it writes. what: a word for the progress bar.
  """
  batches = np.split(np.arange(count), range(size, count, size))
  paths = [folder / f'{index[0]:08d}.npz' for index in batches]
  if processes.is_first():
    make_folder(folder.parent, folder.name)
    _drop_changed(folder, what)
  missing = processes.broadcast([not path.exists() for path in paths])
  todo = np.flatnonzero(missing)
  before = count - sum(len(batches[i]) for i in todo)
  with tqdm(total=count, initial=before, desc=what, unit='image', disable=None) as bar:
    for i, arrays in one_ahead(lambda i: start(batches[i]), todo):
      if processes.is_first():
        note_opened(folder)
        write_npz(paths[i], arrays)
      bar.update(len(batches[i]))
  return paths


def opened(folder: Path) -> reads.Opened:
  """Returns what the user's parts have read until now, also for the files that are in a folder."""
  return reads.joined(_noted(folder), reads.record())


def note_opened(folder: Path) -> None:
  """Writes `opened` into the folder, before a file that depends on it."""
  if (record := opened(folder)) != _noted(folder):
    write_summed(folder / reads.FILE, record)


def _noted(folder):
  path = folder / reads.FILE
  return read_summed(path, f'delete {folder}') if path.exists() else {}


def _drop_changed(folder, what):
  # Removes the files that were made of what has changed.
  before = _noted(folder)
  if changed := [name for name, x in reads.now(before).items() if x != before[name]]:
    print(f'{what} begins again: {changed[0]} has changed')
    for path in [*folder.glob('*.npz'), folder / reads.FILE]:
      path.unlink()


def join_parts(paths: list[Path]) -> Arrays:
  """Joins the arrays of all files, in memory-mapped files without a name.

  Raises UserError for a file that is damaged.
  """
  firsts: Arrays = {}
  files = {}
  with contextlib.ExitStack() as stack:
    for path in paths:
      try:
        for name, part in npz.read(path, [*firsts] or npz.names_of(path)).items():
          if name not in files:
            files[name] = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
          first = firsts.setdefault(name, part[:1])
          if part[:1].shape != first.shape:
            raise ValueError(f'{name} has the shape {list(part.shape)}')
          files[name].write(part.astype(first.dtype).tobytes())
      except (FileNotFoundError, TypeError, ValueError) as error:
        raise UserError(
          f'{path} is damaged ({error}): delete it, and the same command makes it again'
        ) from error
    return {name: _mapped(files[name], first) for name, first in firsts.items()}


def _mapped(file, first):
  file.flush()
  return np.memmap(file, first.dtype, 'r+').reshape(-1, *first.shape[1:])
