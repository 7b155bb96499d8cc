"""`jitted(dj.q_sample)(...)`: an equation under `jax.jit`.

Called eagerly, each operation of a function is compiled by itself for every new
shape, which is most of the time of the tests; tests/core/test_transforms.py
holds jitted and eager calls against each other.
"""

import functools
import inspect

import jax

_STATIC = {
  'kind', 'variance', 'cdf', 'num_levels', 'weight', 'data_shape', 'sigma_data'
}  # fmt: skip


@functools.cache
def jitted(function):
  """Returns one jitted function for each function, so that tests share it."""
  names = set(inspect.signature(function).parameters) & _STATIC
  return jax.jit(function, static_argnames=tuple(names))
