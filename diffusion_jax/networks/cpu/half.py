"""Half precision as XLA:CPU computes it well: sums and functions in float32.

XLA:CPU rounds every term of a sum in half precision, at a hundredth of the speed of
the sum in float32, and every step of a function of one number.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType

from diffusion_jax.meshes import placed_as
from diffusion_jax.networks.cpu import parts, primitive_or
from diffusion_jax.networks.cpu.bilinear import Transposes, bilinear, lowered, reshaped, transposes
from diffusion_jax.networks.options import HALF

Array = jax.Array


def _is_computed_here(x):
  mesh = jax.typeof(x).sharding.mesh
  return jnp.result_type(x) in HALF and AxisType.Explicit not in mesh.axis_types


def spread(x: Array, like: Array) -> Array:
  """Returns x, such as a bias, repeated to the shape of `like`, of equal rank.

  In half precision; the gradient is a sum, which CPUs compute in float32. Other
  types, and x on Explicit axes of a mesh, are returned as they are, for + to repeat.
  """
  if not _is_computed_here(x) or x.shape == like.shape:
    return x
  # Under `jax.shard_map` the rows of a device are summed before the devices.
  return _spread(placed_as(like, x), shape=like.shape)


def _repeat(x, *, shape):
  return lax.broadcast_in_dim(x, shape, range(x.ndim))


def _total(y, *, shape):
  axes = tuple(i for i, (n, size) in enumerate(zip(shape, y.shape, strict=True)) if n != size)
  return lax.reduce_sum(y, axes).reshape(shape)


def _in_float32(function):
  # Returns the function of arrays of one type, rounded to the type at its end.
  def call(*arrays, **options):
    result = function(*(x.astype(jnp.float32) for x in arrays), **options)
    return result.astype(arrays[0].dtype)

  return call


def _define(primitive, function, on_cpu):
  primitive.def_impl(jax.jit(primitive.bind, static_argnames='shape'))
  for platform, rule in (None, function), ('cpu', on_cpu):
    parts().mlir.register_lowering(primitive, lowered(rule), platform=platform)


def _define_linear(primitive, transpose):
  def vmap(arguments, axes, *, shape):
    (x,), (axis,) = arguments, axes
    return primitive.bind(jnp.moveaxis(x, axis, 0), shape=(x.shape[axis], *shape)), 0

  primitive.def_abstract_eval(lambda x, *, shape: reshaped(x, shape))

  def back(g, x, *, shape):
    return [transpose.bind(g, shape=x.aval.shape)]

  parts().ad.deflinear2(primitive, back)
  parts().batching.primitive_batchers[primitive] = vmap


def _spreading():
  repeated, total = map(parts().Primitive, ('spread', 'spread_total'))
  _define(repeated, _repeat, _repeat)
  _define(total, _total, _in_float32(_total))
  _define_linear(repeated, total)
  _define_linear(total, repeated)
  return repeated.bind


_spread = primitive_or(_repeat, _spreading)


def _times(x, w, options):
  # vmap may give x more leading axes.
  return x * w.reshape(*[1] * (x.ndim - w.ndim), *w.shape)


def _sum_of_products(x, g, *, shape, how, num_devices):
  whole = (1,) * (x.ndim - len(shape)) + shape
  products = x.astype(jnp.float32) * g.astype(jnp.float32)
  return _total(products, shape=whole).reshape(shape).astype(x.dtype)


_BY_JAX = transposes(_times)
_product = bilinear('times', _times, Transposes(_BY_JAX.y, _BY_JAX.x, _sum_of_products))


def times(x: Array, w: Array) -> Array:
  """Returns x w, such as x [B, T, D] and a scale w [B, 1, D], of equal rank.

  In half precision the gradient in w is a sum, which CPUs compute in float32.
  """
  return _product(x, w, None) if jnp.result_type(x) in HALF else x * w


def elementwise(name: str, function: Callable[[Array], Array]) -> Callable[[Array], Array]:
  """Returns a function of each number, in float32 on CPUs for half precision.

  The result is rounded once. The primitives are `name` and `name`_slope, f'(x) t.
  """
  return primitive_or(function, lambda: _elementwise(name, function))


def _elementwise(name, function):
  ad, batching, _, ClosedJaxpr, Primitive, _, dce_jaxpr, jaxpr_as_fun = parts()
  value, slope = Primitive(name), Primitive(f'{name}_slope')

  def plain_slope(x, t):
    # Without the operations of f(x), which reverse mode has computed before.
    program = jax.make_jaxpr(lambda x, t: jax.vjp(function, x)[1](t)[0])(x, t)
    used, _ = dce_jaxpr(program.jaxpr, [True], instantiate=True)
    return jaxpr_as_fun(ClosedJaxpr(used, program.consts))(x, t)[0]

  def times_slope(t, x):
    return slope.bind(placed_as(t, x), placed_as(x, t))

  def slope_in_x(dx, x, t):
    return jax.jvp(lambda x: plain_slope(x, t), (x,), (dx,))[1]

  def vmap(primitive, arrays, axes):
    size = next(a.shape[i] for a, i in zip(arrays, axes, strict=True) if i is not None)
    rows = (
      jnp.broadcast_to(a, (size, *a.shape)) if i is None else jnp.moveaxis(a, i, 0)
      for a, i in zip(arrays, axes, strict=True)
    )
    return primitive.bind(*rows), 0

  _define(value, function, _in_float32(function))
  _define(slope, plain_slope, _in_float32(plain_slope))
  for primitive in value, slope:
    primitive.def_abstract_eval(lambda x, *_: reshaped(x, x.shape))
    batching.primitive_batchers[primitive] = functools.partial(vmap, primitive)
  ad.defjvp(value, times_slope)
  ad.defjvp(slope, slope_in_x, lambda dt, x, t: times_slope(dt, x))
  ad.primitive_transposes[slope] = lambda g, x, t: [None, times_slope(g, x)]

  def call(x: Array) -> Array:
    return value.bind(x) if _is_computed_here(x) else function(x)

  return call
