"""Arguments of functions: checks, broadcasting, and dataclasses as pytrees.

Values that `jit` traces are not checked.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion_jax.aliases import PyTree
from diffusion_jax.core.products import finished

Array = jax.Array
Class = TypeVar('Class', bound=type)


def check_numbers(fits: Callable[..., Array], rule: str, **values: ArrayLike) -> None:
  """Raises ValueError with `rule` unless all values are finite and fit it.

  fits(*values) returns bools, element by element. Nothing is checked if one of
  the values is traced.
  """
  if any(isinstance(value, Tracer) for value in values.values()):
    return
  arrays = np.broadcast_arrays(*(np.asarray(value, np.float64) for value in values.values()))
  good = np.all(np.isfinite(arrays), axis=0) & fits(*arrays)
  if not np.all(good):
    first = np.argmin(good)
    listing = ', '.join(
      f'{name} is {array.flat[first]:g}' for name, array in zip(values, arrays, strict=True)
    )
    raise ValueError(f'{listing}: {rule}')


def computed_now(function: Callable[..., PyTree], *args: np.ndarray) -> PyTree | None:
  """Returns function(*args) as NumPy arrays, by one program, also inside `jit`.

  None if the function depends on traced arrays.
  """
  with jax.disable_jit(False):
    traced = jax.jit(function).trace(*args)
    jaxpr = traced.jaxpr  # `jit` makes arguments of traced arrays.
    lifted = len(jaxpr.jaxpr.invars) > len(args)
    if lifted or any(isinstance(x, Tracer) for x in jaxpr.consts):
      return None
    return jax.device_get(traced.lower().compile()(*args))


def check_positive(**value: ArrayLike) -> None:
  """Raises ValueError unless a number is finite and above 0."""
  check_numbers(lambda x: x > 0.0, 'it must be positive and finite', **value)


def check_interval(without: str, **ends: float) -> None:
  """Raises ValueError unless low <= high; both may be infinite, but not NaN.

  without: what an empty interval would mean; ends: the two, low first.
  """
  (first, low), (last, high) = ends.items()
  if not isinstance(low, Tracer) and not isinstance(high, Tracer):
    if not low <= high:
      raise ValueError(f'{first}={low} is above {last}={high}: {without}')


def check_at_least(low: int, **value: int) -> None:
  """Raises ValueError if a number is less than `low`."""
  for name, n in value.items():
    if n < low:
      raise ValueError(f'{name} is {n}: it must be at least {low}')


def kind_of(value: object) -> str:
  """Returns what a value is, for messages: 'a number', 'an array [2, 3]'."""
  if isinstance(value, (bool, int, float)):
    return 'a number'
  if isinstance(value, Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
    return 'a random key'
  shape = getattr(value, 'shape', None)
  if shape is not None:
    return f'an array {[*shape]}' if shape else 'a number'
  if type(value) is tuple:
    return f'a tuple of {len(value)}'
  return 'None' if value is None else f'a {type(value).__name__}'


def as_float(x: ArrayLike) -> Array:
  """Converts x to floats in its own precision, at least float32.

  Integers get the default precision.
  """
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return x.astype(float)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def as_time(t: ArrayLike) -> Array:
  """Converts a time to floats; ValueError for concrete times outside [0, 1].

  1e-6 beyond either end is accepted, since float32 resolves t to about 1e-7.
  """
  check_numbers(lambda t: (t >= -1e-6) & (t <= 1.0 + 1e-6), 'times are in [0, 1]', t=t)
  return as_float(t)


def expand_to(value: Array | float, x: Array, name: str = 'a value') -> Array:
  """Reshapes a value to broadcast against the leading axes of x: [B] becomes [B, 1, ...].

  This is the only broadcasting rule of the library: [] and [B], or [B, T] and [1, T]
  for one value per element. Raises ValueError for a shape that does not fit the leading
  axes of x. Floats get the precision of x, at least float32: float64 levels do not
  change the type of float32 images.
  """
  shape = jnp.shape(value)
  if len(shape) > x.ndim or any(n not in (1, m) for n, m in zip(shape, x.shape, strict=False)):
    raise ValueError(
      f'{name} of shape {list(shape)} does not fit an array of shape '
      f'{list(x.shape)}: it must be [] or [B], or [B, T] or [1, T] with one for each element'
    )
  value = jnp.reshape(value, shape + (1,) * (x.ndim - len(shape)))
  if jnp.issubdtype(value.dtype, jnp.floating):
    value = value.astype(jnp.promote_types(x.dtype, jnp.float32))
  return value


def data_axes(x: Array) -> tuple[int, ...]:
  """Returns all axes of x [B, ...] except the first."""
  return tuple(range(1, x.ndim))


def sum_data_axes(x: Array, keepdims: bool = False) -> Array:
  """Sums x [B, ...] over all axes except the first, [B] or [B, 1, ...]."""
  return finished(jnp.sum(finished(x), axis=data_axes(x), keepdims=keepdims))


def weighted_sum(weight: Array, x: Array) -> Array:
  """Sums weight x over the data axes of x [B, ...], [B]; weight: [], [B] or one per element."""
  if jnp.ndim(weight) > 1:
    return sum_data_axes(expand_to(weight, x) * x)
  total = sum_data_axes(x)  # One product for each example, not for each number.
  return expand_to(weight, total) * total


def mean_data_axes(x: Array) -> Array:
  """Returns the mean of x [B, ...] over all axes except the first, [B]."""
  return finished(jnp.mean(finished(x), axis=data_axes(x)))


def check_same_shape(**arrays: Array) -> None:
  """Raises ValueError with all names and shapes unless the shapes are equal.

  Otherwise two images would broadcast if they differ in an axis of length 1.
  """
  shapes = [jnp.shape(array) for array in arrays.values()]
  if len(set(shapes)) > 1:
    pairs = zip(arrays, map(list, shapes), strict=True)
    listing = ', '.join(f'{name} {shape}' for name, shape in pairs)
    raise ValueError(f'shapes must be equal: {listing}')


def pytree_dataclass(cls: Class) -> Class:
  """Registers a dataclass as a pytree of its fields, except static ones.

  The tree structures of two classes are never equal. With
  `jax.tree_util.register_dataclass` (jaxlib 0.10.2) they compare equal if the
  static fields and the number of other fields match; only their hashes differ.
  `jit` could then run the program of one schedule for another.
  """
  if not isinstance(cls, type) or not hasattr(cls, '__dataclass_fields__'):
    raise TypeError(f'cls must be a dataclass, not {kind_of(cls)}: put @dataclass below')
  fields = dataclasses.fields(cls)
  static = [f.name for f in fields if f.metadata.get('static')]
  data = [f.name for f in fields if f.name not in static]
  keys = [jax.tree_util.GetAttrKey(name) for name in data]

  def flatten(obj):
    values = tuple(getattr(obj, name) for name in data)
    return values, tuple(getattr(obj, name) for name in static)

  def flatten_with_keys(obj):
    values, meta = flatten(obj)
    return tuple(zip(keys, values, strict=True)), meta

  def unflatten(meta, values):
    # This skips __init__ and its checks: leaves may be gradients, or objects
    # other than numbers.
    obj = object.__new__(cls)
    for name, value in zip((*data, *static), (*values, *meta), strict=True):
      object.__setattr__(obj, name, value)
    return obj

  jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
  return cls
