"""Evaluates functions of images in batches on all devices of a run.

Batches are kept in files until all are there.
"""

import contextlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from diffusion_jax.aliases import Params, PyTree
from diffusion_jax.core.keys import fold_each
from diffusion_jax.data import npz
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import processes
from diffusion_jax.runtime.compiling import Effort, program
from diffusion_jax.runtime.files import make_folder, write_npz
from diffusion_jax.runtime.sharding import batch_sharding

Part = TypeVar('Part')
Result = TypeVar('Result')
Arrays = dict[str, np.ndarray]


class PerExample(NamedTuple):
  """A function of (params, index [n], inputs [n, ...]) -> NumPy arrays.

  start: takes the same arguments, dispatches the work, and returns a function
  () -> the arrays, which waits for them. compute: the same function of JAX
  arrays, which can be traced, lowered and exported. compile: compiles `start`;
  params may be shapes.
  """

  start: Callable[..., Callable[[], PyTree]]
  compute: Callable[..., PyTree]
  compile: Callable[..., object]

  def __call__(self, *args: PyTree) -> PyTree:
    """Returns the arrays, [n, ...]."""
    return self.start(*args)()

  def then(self, function: Callable[[Params, PyTree], PyTree]) -> 'PerExample':
    """Returns this function, followed by (params, arrays) -> result."""

    def start(params, *args):
      fetch = self.start(params, *args)
      return lambda: function(params, fetch())

    def compute(params, *args):
      return function(params, self.compute(params, *args))

    return PerExample(start, compute, self.compile)


def per_example(
  function: Callable[[Params, PyTree, PyTree], PyTree],
  mesh: Mesh,
  roots: PyTree,
  size: int = 0,
  what: str = 'a program',
  effort: Effort = 'tuned',
) -> PerExample:
  """Returns a function of (params, index [n], inputs) that runs on a mesh.

  function: (params, keys [B], inputs) -> tree of arrays [B, ...]; it is jitted.
  Image i gets the key fold_in(root, i), for each key in the tree `roots`, and
  depends only on i and its inputs, a tree of NumPy arrays [n, ...]. Copies of
  the first images fill a batch up to `size` and a multiple of the devices, and
  are dropped from the result, so that one program serves all batches. Several
  processes get the same result. what: the program's name in messages. effort:
  see `compiling.options`.
  """

  def images(params, roots, index, inputs):
    keys = jax.tree.map(lambda root: fold_each(root, index), roots)
    return function(params, keys, inputs)

  on_devices = program(what, images, mesh, effort)

  def placed(index, inputs):
    n = len(index)
    count = -(-max(n, size) // mesh.size) * mesh.size
    batch = rows((index, inputs), np.arange(count) % n)
    return jax.device_put(batch, batch_sharding(mesh))

  def start(params, index, inputs):
    arrays = on_devices.start(params, roots, *placed(index, inputs))
    return lambda: rows(jax.device_get(arrays), slice(len(index)))

  def compute(params, index, inputs):
    return on_devices.start(params, roots, index, inputs)

  def compile(params, index, inputs):
    on_devices.compile(params, roots, *placed(index, inputs))

  return PerExample(start, compute, compile)


def one_ahead(
  start: Callable[[Part], Callable[[], Result]], parts: Iterable[Part]
) -> Iterator[tuple[Part, Result]]:
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


def rows(tree: PyTree, index: np.ndarray | slice) -> PyTree:
  """Returns the rows `index` of every array [N, ...] of a tree."""
  return jax.tree.map(lambda x: x[index], tree)


def kept(
  start: Callable[[np.ndarray], Callable[[], Arrays]],
  count: int,
  size: int,
  folder: Path,
  what: str,
  **more: np.ndarray,
) -> list[Path]:
  """Computes items 0..count - 1, with a file for each batch; returns the files.

  start: dispatches the work of items [n], and returns a function () -> their
  arrays, which waits for them. Files that are in the folder are kept, so an
  interrupted computation continues. All processes compute what the first one
  lacks, and it writes. what: a word for the progress bar; more: further arrays
  of each file.
  """
  batches = np.split(np.arange(count), range(size, count, size))
  paths = [folder / f'{index[0]:08d}.npz' for index in batches]
  if processes.is_first():
    make_folder(folder.parent, folder.name)
  missing = processes.broadcast([not path.exists() for path in paths])
  todo = np.flatnonzero(missing)
  before = count - sum(len(batches[i]) for i in todo)
  with tqdm(total=count, initial=before, desc=what, unit='image', disable=None) as bar:
    for i, arrays in one_ahead(lambda i: start(batches[i]), todo):
      if processes.is_first():
        write_npz(paths[i], arrays | more)
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
          f'{path} is damaged ({error}): delete it, and the same command makes it again'
        ) from error
    return {name: _mapped(files[name], first) for name, first in firsts.items()}


def _mapped(file, first):
  file.flush()
  return np.memmap(file, first.dtype, 'r+').reshape(-1, *first.shape[1:])
