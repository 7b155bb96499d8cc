"""Tries what a training does beside its steps, before the first step."""

from collections.abc import Callable
from typing import Any

import jax

from diffusion_jax.build import own_parts
from diffusion_jax.errors import UserError


def rehearse(
  what: str, field: str, function: Callable[..., Any], *shapes: Any
) -> None:
  """Traces function(*shapes), which neither compiles nor computes anything.

  shapes: trees of `jax.ShapeDtypeStruct`. A jitted function that is called
  inside is not traced again by its first call with arrays of these shapes. What
  the library refuses, and what a part of the user's own raises, is a UserError;
  field: of the config, which leaves it out if it is 0.
  """
  try:
    jax.eval_shape(lambda *args: (function(*args), None)[1], *shapes)
  except UserError:
    raise
  except Exception as error:
    place = own_parts.place_of(error)
    if not place and not isinstance(error, (ValueError, TypeError)):
      raise
    kind = f'{type(error).__name__}: ' if place else ''
    raise UserError(
      f'{what} cannot be computed: {kind}{error}{place}. --config.{field}=0 '
      'trains without'
    ) from error
