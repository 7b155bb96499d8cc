"""Checks of numbers and times; values that jit traces pass."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

Array = jax.Array


def check_numbers(
  fits: Callable[..., Array], rule: str, **values: Array | float
) -> None:
  """Raises ValueError with `rule` unless the values are finite and fit it.

  fits(*values) returns bools, element by element. Nothing is checked where one
  of the values is traced.
  """
  if any(isinstance(value, Tracer) for value in values.values()):
    return
  arrays = np.broadcast_arrays(
    *(np.asarray(value, np.float64) for value in values.values())
  )
  good = np.all(np.isfinite(arrays), axis=0) & fits(*arrays)
  if not np.all(good):
    first = np.argmin(good)
    found = ', '.join(
      f'{name} is {array.flat[first]:g}'
      for name, array in zip(values, arrays, strict=True)
    )
    raise ValueError(f'{found}: {rule}')


def as_float(x: Array | float) -> Array:
  """Converts x to floats of its own precision, at least float32.

  Integers get the default precision.
  """
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return x.astype(float)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def as_time(t: Array | float) -> Array:
  """Converts a time to floats; ValueError for concrete ones outside [0, 1].

  1e-6 beyond either end is accepted, since float32 resolves t to about 1e-7.
  """
  check_numbers(
    lambda t: (t >= -1e-6) & (t <= 1.0 + 1e-6), 'times are in [0, 1]', t=t
  )
  return as_float(t)
