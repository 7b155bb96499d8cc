"""Convolutions and matrix products that are fast on XLA:CPU.

A program that is lowered for another platform computes them as JAX does, with
JAX's gradients, whatever machine traces it. So does every program if a version of JAX
has moved what primitives are made of.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

T = TypeVar('T')


class Parts(NamedTuple):
  """What primitives are made of, modules and names of JAX that may move in any release."""

  ad: Any
  batching: Any
  mlir: Any
  ClosedJaxpr: Any
  Primitive: Any
  ShapedArray: Any
  dce_jaxpr: Any
  jaxpr_as_fun: Any


@functools.cache
def parts() -> Parts:
  """Returns the parts; raises ImportError if this version of JAX has moved one."""
  from jax.core import ShapedArray
  from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
  from jax.interpreters import ad, batching, mlir
  from jax.interpreters.partial_eval import dce_jaxpr

  return Parts(
    ad=ad,
    batching=batching,
    mlir=mlir,
    ClosedJaxpr=ClosedJaxpr,
    Primitive=Primitive,
    ShapedArray=ShapedArray,
    dce_jaxpr=dce_jaxpr,
    jaxpr_as_fun=jaxpr_as_fun,
  )


def primitive_or(plain: T, make: Callable[[], T]) -> T:
  """Returns make(), which defines primitives of `parts`, or `plain` with a warning if it cannot."""
  try:
    return make()
  except (AttributeError, ImportError, TypeError) as error:
    _warn(str(error))
    return plain


@functools.cache
def _warn(reason):
  warnings.warn(f'networks are slower on CPUs with this version of JAX: {reason}', stacklevel=4)
