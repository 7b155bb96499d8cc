"""Dataclasses as arguments of jitted functions."""

import dataclasses
from typing import TypeVar

import jax

Class = TypeVar('Class', bound=type)


def pytree_dataclass(cls: Class) -> Class:
  """Registers a dataclass as a pytree of its fields, except static ones.

  The tree structures of two classes are never equal. With
  `jax.tree_util.register_dataclass` (jaxlib 0.10.2) they compare equal if the
  static fields and the number of other fields match; only their hashes differ.
  `jit` could then run the program of one schedule for another.
  """
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

  jax.tree_util.register_pytree_with_keys(
    cls, flatten_with_keys, unflatten, flatten
  )
  return cls
