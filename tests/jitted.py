"""Shares jitted equations between tests: `jitted(dj.q_sample)(...)`.

An eager call compiles each operation for every new shape, which would take
most of the tests' time. tests/laws/test_any_mesh.py compares both.
"""

import functools
import inspect

import jax

import diffusion_jax as dj

_STATIC = {
  'kind', 'variance', 'cdf', 'num_levels', 'weight', 'data_shape', 'sigma_data',
  'num_steps', 'spacing', 't_start', 'end_clean', 'num_iterations',
}  # fmt: skip


@functools.cache
def jitted(function):
  """Returns one jitted function for each function, so that tests share it."""
  names = set(inspect.signature(function).parameters) & _STATIC
  return jax.jit(function, static_argnames=tuple(names))


level_grid = jitted(dj.level_grid)
level_at = jax.jit(lambda schedule, t: schedule(t))
at_step = jax.jit(lambda schedule, step: schedule.at_step(step))
