"""Broadcasting and reductions for arrays [B, ...]."""

import jax
import jax.numpy as jnp

Array = jax.Array


def expand_to(value: Array | float, x: Array, name: str = 'a value') -> Array:
  """Reshapes a value to broadcast against x: [] and [B] become [B|1, 1, ...].

  This is the only broadcasting rule of the library. Raises ValueError for a
  shape that does not fit the leading axes of x. Floats get the precision of x,
  at least float32: float64 levels do not change the type of float32 images.
  """
  shape = jnp.shape(value)
  if len(shape) > x.ndim or any(
    n not in (1, m) for n, m in zip(shape, x.shape, strict=False)
  ):
    raise ValueError(
      f'{name} of shape {list(shape)} does not fit an array of shape '
      f'{list(x.shape)}: it must be [] or [B]'
    )
  value = jnp.reshape(value, shape + (1,) * (x.ndim - len(shape)))
  if jnp.issubdtype(value.dtype, jnp.floating):
    value = value.astype(jnp.promote_types(x.dtype, jnp.float32))
  return value


def data_axes(x: Array) -> tuple[int, ...]:
  """Returns all axes of x [B, ...] except the first."""
  return tuple(range(1, x.ndim))


def sum_data_axes(x: Array) -> Array:
  """Sums x [B, ...] over all axes except the first, [B]."""
  return jnp.sum(x, axis=data_axes(x))


def check_same_shape(**arrays: Array) -> None:
  """Raises ValueError with all names and shapes unless the shapes are equal.

  Otherwise two images would broadcast if they differ in an axis of length 1.
  """
  shapes = [jnp.shape(array) for array in arrays.values()]
  if len(set(shapes)) > 1:
    pairs = zip(arrays, map(list, shapes), strict=True)
    listing = ', '.join(f'{name} {shape}' for name, shape in pairs)
    raise ValueError(f'shapes must be equal: {listing}')
