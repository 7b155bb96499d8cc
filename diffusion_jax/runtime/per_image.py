"""Evaluates functions of images in batches on all devices of a run."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from diffusion_jax.aliases import Params, PyTree
from diffusion_jax.core.keys import fold_each
from diffusion_jax.runtime.compiling import Effort, program
from diffusion_jax.runtime.sharding import batch_sharding

Part = TypeVar('Part')
Result = TypeVar('Result')


class PerImage(NamedTuple):
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

  def then(self, function: Callable[[Params, PyTree], PyTree]) -> 'PerImage':
    """Returns this function, followed by (params, arrays) -> result."""

    def start(params, *args):
      fetch = self.start(params, *args)
      return lambda: function(params, fetch())

    def compute(params, *args):
      return function(params, self.compute(params, *args))

    return PerImage(start, compute, self.compile)


def per_image(
  function: Callable[[Params, PyTree, PyTree], PyTree],
  mesh: Mesh,
  roots: PyTree,
  size: int = 0,
  what: str = 'a program',
  effort: Effort = 'tuned',
) -> PerImage:
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
    arrays = on_devices.call(params, roots, *placed(index, inputs))
    return lambda: rows(jax.device_get(arrays), slice(len(index)))

  def compute(params, index, inputs):
    return on_devices.call(params, roots, index, inputs)

  def compile(params, index, inputs):
    on_devices.compile(params, roots, *placed(index, inputs))

  return PerImage(start, compute, compile)


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
