"""Bilinear functions that are computed in another way on CPUs; `linear` is one.

A bilinear function y = f(x, w) and its two transposes, (y, w) -> x and
(x, y) -> w, are closed under differentiation: each derivative of one of them is
again one of them. Here all three are primitives, and the platform for which a
program is lowered decides how each is computed. So forward mode, reverse mode,
higher derivatives, vmap, scan, remat and `jax.export` work as for JAX's own
functions, and tracing asks nothing about the machine.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from diffusion_jax.meshes import placed_as
from diffusion_jax.networks.cpu import parts, primitive_or

Array = jax.Array
Shape = tuple[int, ...]

# The arguments of the function that computes each of the three arrays.
ARGUMENTS = {'y': ('x', 'w'), 'x': ('y', 'w'), 'w': ('x', 'y')}


class Transposes(NamedTuple):
  """The three functions of one bilinear function, called by keywords.

  shape: shape of the result; how: static options; num_devices: number of
  devices of the program, or None if it is not known.
  """

  y: Callable  # (x, w, *, shape, how, num_devices) -> y
  x: Callable  # (y, w, *, shape, how, num_devices) -> x
  w: Callable  # (x, y, *, shape, how, num_devices) -> w


def transposes(function: Callable) -> Transposes:
  """Returns function(x, w, how) and its transposes as JAX computes them."""

  def y(x, w, *, shape, how, num_devices):
    return function(x, w, how)

  def x(y, w, *, shape, how, num_devices):
    like = jax.ShapeDtypeStruct(shape, y.dtype)
    return jax.linear_transpose(lambda x: function(x, w, how), like)(y)[0]

  def w(x, y, *, shape, how, num_devices):
    like = jax.ShapeDtypeStruct(shape, y.dtype)
    return jax.linear_transpose(lambda w: function(x, w, how), like)(y)[0]

  return Transposes(y, x, w)


def bilinear(name: str, function: Callable, on_cpu: Transposes) -> Callable:
  """Returns function(x, w, how), computed by `on_cpu` on CPUs.

  x: [..., any axes], with at least the leading axes that vmap adds; w: weights,
  of the same type as x; how: hashable options. The primitives are named `name`,
  `name`_dx and `name`_dw. With Explicit axes of a mesh the result is `function`
  on CPUs too.
  """
  return primitive_or(function, lambda: _bilinear(name, function, on_cpu))


def _bilinear(name, function, on_cpu):
  names = {'y': name, 'x': f'{name}_dx', 'w': f'{name}_dw'}
  primitives = {role: parts().Primitive(names[role]) for role in ARGUMENTS}
  for role in ARGUMENTS:
    _define(role, primitives)
    for platform, functions in (None, transposes(function)), ('cpu', on_cpu):
      lowering = _lowering(getattr(functions, role))
      parts().mlir.register_lowering(primitives[role], lowering, platform=platform)
    _REFERENCES[primitives[role]] = getattr(transposes(function), role)

  @functools.lru_cache
  def result_shape(x: Shape, w: Shape, how: Hashable) -> Shape:
    arrays = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (x, w))
    return jax.eval_shape(lambda x, w: function(x, w, how), *arrays).shape

  def call(x: Array, w: Array, how: Hashable) -> Array:
    kinds = jax.sharding.get_abstract_mesh().axis_types
    if AxisType.Explicit in kinds:
      return function(x, w, how)
    if AxisType.Manual in kinds:
      # Under `jax.shard_map` both vary from device to device if one does; the
      # gradient of w is then a sum over the devices, as JAX's own products have it.
      x, w = placed_as(w, x), placed_as(x, w)
    shape = result_shape(x.shape, w.shape, how)
    return primitives['y'].bind(x, w, shape=shape, batch=0, how=how)

  return call


def reshaped(a: Any, shape: Shape) -> Any:
  """Returns the type of an array of another shape, on the same devices as a, a ShapedArray."""
  mesh = a.sharding.mesh
  if AxisType.Manual not in mesh.axis_types:
    return parts().ShapedArray(shape, a.dtype)
  return a.update(shape=shape, sharding=NamedSharding(mesh, PartitionSpec()))


_REFERENCES: dict[Any, Callable] = {}


def reference(primitive: Hashable) -> Callable | None:
  """Returns what a primitive computes, of `Transposes`; None for others.

  Tools that read the trace of a program can count its products.
  """
  return _REFERENCES.get(primitive)


def _define(role: str, primitives: dict[str, Any]) -> None:
  # Parameters of a primitive: the shape of its result, with the first `batch`
  # axes, along which both arguments are mapped, and the options.
  primitive = primitives[role]
  first, second = ARGUMENTS[role]

  def abstract(a, b, *, shape, batch, how):
    return reshaped(a, shape)

  def transpose(of, g, a, b, *, batch, how, **_):
    arrays = {role: g, first: a, second: b}
    shape = arrays[of].aval.shape
    inputs = (arrays[name] for name in ARGUMENTS[of])
    return primitives[of].bind(*inputs, shape=shape, batch=batch, how=how)

  def vmap(arguments, axes, *, shape, batch, how):
    (a, b), (a_axis, b_axis) = arguments, axes
    if second == 'w' and b_axis is None:
      # All examples share the weights: one more axis of rows.
      size = a.shape[a_axis]
      a = jnp.moveaxis(a, a_axis, batch)
      shape = *shape[:batch], size, *shape[batch:]
      return primitive.bind(a, b, shape=shape, batch=batch, how=how), batch
    size = next(
      array.shape[axis] for array, axis in zip(arguments, axes, strict=True) if axis is not None
    )
    a, b = (
      jnp.broadcast_to(array, (size, *array.shape))
      if axis is None
      else jnp.moveaxis(array, axis, 0)
      for array, axis in zip(arguments, axes, strict=True)
    )
    shape = size, *shape
    return primitive.bind(a, b, shape=shape, batch=batch + 1, how=how), 0

  primitive.def_impl(jax.jit(primitive.bind, static_argnames=('shape', 'batch', 'how')))
  primitive.def_abstract_eval(abstract)
  rules = (functools.partial(transpose, name) for name in ARGUMENTS[role])
  parts().ad.defbilinear(primitive, *rules)
  parts().batching.primitive_batchers[primitive] = vmap


def _lowering(function: Callable) -> Callable:
  # Returns the rule by which a primitive is lowered to the function.
  def rule(context, *arguments, **params):
    program = context.module_context.axis_context
    num_devices = getattr(program, 'num_devices', None)

    def compute(a, b, *, shape, batch, how):
      mapped = functools.partial(function, shape=shape[batch:], how=how, num_devices=num_devices)
      for _ in range(batch):
        mapped = jax.vmap(mapped)
      return mapped(a, b)

    return lowered(compute)(context, *arguments, **params)

  return rule


def lowered(function: Callable) -> Callable:
  """Returns the rule by which a primitive is lowered to a function."""
  lower = parts().mlir.lower_fun(function, multiple_results=False)

  def rule(context, *arguments, **params):
    # Types that vary from device to device would add sums over the devices.
    plain = {
      name: [parts().ShapedArray(a.shape, a.dtype) for a in getattr(context, name)]
      for name in ('avals_in', 'avals_out')
    }
    return lower(context.replace(**plain), *arguments, **params)

  return rule


# The gradient of a product with several row axes sums over all of them, and
# XLA:CPU transposes the cotangent for it in the loop that computes it: 18 % of
# the processor time of DDPM++'s gradient. A product of rows has one such axis.


def _plain(x, kernel, precision):
  axes = (((x.ndim - 1,), (0,)), ((), ()))
  return lax.dot_general(x, kernel, axes, precision=precision)


def _rows(x, kernel, precision):
  out = _plain(x.reshape(-1, x.shape[-1]), kernel, precision)
  return out.reshape(*x.shape[:-1], out.shape[-1])


def _product_of_rows(x, kernel, *, shape, how, num_devices):
  return _rows(x, kernel, how)


def kernel_gradient(
  x: Array, g: Array, *, shape: Shape, how: lax.PrecisionLike, num_devices: object
) -> Array:
  """Returns x^T g of rows x [..., C] and g [..., D]; `how` is the precision.

  XLA:CPU has no bfloat16 product that sums over the first axes of both: it would
  convert them to float32.
  """
  x, g = (a.reshape(-1, a.shape[-1]) for a in (x, g))
  axis = 0
  if x.dtype == jnp.bfloat16 and can_transpose(x.shape):
    x, axis = transposed(x), 1
  return lax.dot_general(x, g, (((axis,), (0,)), ((), ())), precision=how)


_TILE = 16


def can_transpose(shape: Shape) -> bool:
  """Returns whether `transposed` takes matrices of this shape."""
  rows, columns = shape
  return rows % (2 * _TILE) == 0 and columns % _TILE == 0


def transposed(x: Array) -> Array:
  """Returns the transpose of a matrix as an array, which XLA:CPU keeps.

  It removes a plain transpose before a product, and one of columns is slow: here
  tiles are transposed first. Joining two halves keeps XLA from one product of each.
  """
  rows, columns = x.shape

  def half(x):
    tiles = x.reshape(-1, _TILE, columns // _TILE, _TILE).transpose(0, 2, 3, 1)
    tiles = lax.optimization_barrier(tiles)
    return tiles.transpose(1, 2, 0, 3).reshape(columns, -1)

  return jnp.concatenate([half(x[: rows // 2]), half(x[rows // 2 :])], axis=1)


_product = bilinear(
  'linear', _plain, Transposes(_product_of_rows, transposes(_rows).x, kernel_gradient)
)


def linear(
  x: Array, kernel: Array, dimension_numbers: object = None, precision: lax.PrecisionLike = None
) -> Array:
  """Computes x kernel: [..., C], [C, D] -> [..., D].

  It can be the `dot_general` of `nn.Dense`, which gives the dimension numbers
  of this product. The default of `precision` is the value of
  `jax.default_matmul_precision` at the call, also for the gradients.
  """
  # `jax.config` makes its attributes at run time.
  if precision is None:
    precision = jax.config.values['jax_default_matmul_precision']
  return _product(x, kernel, precision)
