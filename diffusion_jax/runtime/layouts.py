"""Arrays that a program keeps between calls, in layouts that XLA chooses."""

from collections.abc import Callable

import jax
from jax import stages
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh

from diffusion_jax.aliases import PyTree
from diffusion_jax.runtime.compiling import announced
from diffusion_jax.runtime.sharding import platform_of


def places_of(mesh: Mesh, shapes: PyTree) -> PyTree:
  """Returns the shardings of shapes, on GPUs with layouts that XLA may choose.

  cuDNN's convolutions have other layouts than JAX: a training step with JAX's
  transposes each kernel, and its gradient back. Elsewhere JAX's are the best.
  """
  free = platform_of(mesh) == 'gpu'
  return jax.tree.map(
    lambda x: Format(Layout.AUTO, x.sharding) if free else x.sharding, shapes
  )


def in_place(
  jitted: stages.Wrapped, shapes: PyTree, what: str = 'a program'
) -> Callable:
  """Returns a jitted (state, ...) -> (state, ...) whose first call may convert.

  That call compiles for shapes of the state, and moves the state into the
  layouts of the program; later calls expect what an earlier one returned.
  what: the program's name in messages.
  """
  compiled = None

  def call(state, *args):
    nonlocal compiled
    if compiled is None:
      with announced(what):
        compiled = jitted.lower(shapes, *args).compile()
      state = jax.tree.map(_relaid, state, compiled.input_formats[0][0])
    return compiled(state, *args)

  return call


def _relaid(x, target):
  # A copy between equal layouts would be a program for each shape.
  if x.format.layout == target.layout:
    return x
  return jax.device_put(x, Format(target.layout, x.sharding), donate=True)
