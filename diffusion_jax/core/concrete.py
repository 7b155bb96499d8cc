"""Checks of arguments. Values that `jit` traces are not checked."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion_jax.aliases import PyTree

Array = jax.Array


def check_numbers(
  fits: Callable[..., Array], rule: str, **values: ArrayLike
) -> None:
  """Raises ValueError with `rule` unless all values are finite and fit it.

  fits(*values) returns bools, element by element. Nothing is checked if one of
  the values is traced.
  """
  if any(isinstance(value, Tracer) for value in values.values()):
    return
  arrays = np.broadcast_arrays(
    *(np.asarray(value, np.float64) for value in values.values())
  )
  good = np.all(np.isfinite(arrays), axis=0) & fits(*arrays)
  if not np.all(good):
    first = np.argmin(good)
    listing = ', '.join(
      f'{name} is {array.flat[first]:g}'
      for name, array in zip(values, arrays, strict=True)
    )
    raise ValueError(f'{listing}: {rule}')


def computed_now(
  function: Callable[..., PyTree], *args: np.ndarray
) -> PyTree | None:
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


def check_not_negative(**value: ArrayLike) -> None:
  """Raises ValueError unless a number is finite and at least 0."""
  check_numbers(lambda x: x >= 0.0, 'it cannot be negative', **value)


def check_positive(**value: ArrayLike) -> None:
  """Raises ValueError unless a number is finite and above 0."""
  check_numbers(lambda x: x > 0.0, 'it must be positive and finite', **value)


def check_fraction(**value: ArrayLike) -> None:
  """Raises ValueError unless a number is in [0, 1]."""
  check_numbers(
    lambda x: (x >= 0.0) & (x <= 1.0), 'it must be in [0, 1]', **value
  )


def check_at_least(low: int, **value: int) -> None:
  """Raises ValueError if a number is less than `low`."""
  for name, n in value.items():
    if n < low:
      raise ValueError(f'{name} is {n}: it must be at least {low}')


def kind_of(value: object) -> str:
  """Returns what a value is, for messages: 'a number', 'an array [2, 3]'."""
  if isinstance(value, (bool, int, float)):
    return 'a number'
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
  check_numbers(
    lambda t: (t >= -1e-6) & (t <= 1.0 + 1e-6), 'times are in [0, 1]', t=t
  )
  return as_float(t)
