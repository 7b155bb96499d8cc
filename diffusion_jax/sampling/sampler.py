"""The function that runs every sampler, and the noise it starts from.

A `Sampler` is an (init, step) pair, as in optax. `step` makes one transition
from level t to the cleaner level s; inpainting, churn and Langevin correctors
are functions sampler -> sampler.

A key is one key, or one key per example ([B]); with the latter image i depends
only on its own key. A step gets one key in both cases (`core/keys.py`).

x may be a dict of arrays, of several variables; levels are then a dict of grids
(`diffusion_jax.joint`).
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from diffusion_jax.aliases import PyTree
from diffusion_jax.core.arguments import as_float, expand_to, kind_of
from diffusion_jax.core.checked import Key, checked, needed
from diffusion_jax.core.denoiser import Denoiser
from diffusion_jax.core.keys import as_one_key, draw_normal, split_key
from diffusion_jax.core.levels import (
  Grid,
  NoiseLevel,
  check_axes,
  check_order,
  equal_levels,
  is_grid,
)
from diffusion_jax.ranges import Rule, Shape

Array = jax.Array
# One array [B, ...], or one of each of several variables.
ArrayTree = TypeVar('ArrayTree', bound=Array | Mapping[str, Array])


def are_grids(value: Any) -> bool:
  """Returns whether a value is a dict of a grid of levels for each variable."""
  return isinstance(value, Mapping) and bool(value) and all(map(is_grid, value.values()))


Grids = Grid | Annotated[Mapping[str, NoiseLevel], Rule('a dict of grids', are_grids)]


def is_denoiser(value: Any) -> bool:
  """Returns whether a value is a function, and no schedule, which is one too."""
  return callable(value) and not isinstance(value, type) and not hasattr(value, 'from_logsnr')


# What samplers of other processes call takes other arguments.
AnyDenoiser = Annotated[
  Denoiser | Callable[..., PyTree],
  Rule('a denoiser, such as network.denoiser(params, cond)', is_denoiser),
]


class SamplerInit(Protocol):
  """The function of a `Sampler` that makes its first state."""

  def __call__(self, x: Any, /) -> PyTree:
    """Returns the state before the first step, () for one-step methods."""


class SamplerStep(Protocol):
  """The transition of a `Sampler`; its levels are passed by name."""

  def __call__(
    self,
    key: Key,
    x: Any,
    state: PyTree,
    denoise: Callable[..., PyTree],
    *,
    level_s: Any,
    level_t: Any,
  ) -> tuple[Any, PyTree]:
    """Takes x [B, ...] from level t to the cleaner level s, [] or of other shapes (`NoiseLevel`).

    Of several variables x and levels are dicts.

    key: one key, which `sample` makes of keys [B] by `as_one_key`; denoise: a
    `Denoiser`, or the input of a wrapper such as `self_conditioned`. Returns
    (x, state) at level s.
    """
    ...


@needed('a Sampler, such as ddim()')
class Sampler(NamedTuple):
  """A rule for going from one noise level to the next; x: [B, ...].

  init: x -> state; step: (key, x, state, denoise, *, level_s, level_t) -> (x,
  state); keys: (key, N) -> the keys of N steps, [N]. Only a step whose
  noise depends on its levels (`path_noise`) may get the same key as others.
  """

  init: SamplerInit
  step: SamplerStep
  keys: Callable[[Array, int], PyTree] = split_key


@checked
def sample(
  key: Key, denoise: AnyDenoiser, sampler: Sampler, levels: Grids, x: ArrayTree
) -> ArrayTree:
  """Runs a sampler from levels[0] to levels[N] in one `lax.scan`, [B, ...].

  Args:
    key: [] or [B]; TypeError for anything but a random key.
    denoise: The denoiser; TypeError unless it returns a `Prediction`. Samplers
      of discrete states take a `StateDenoiser`, `flow_map_sampler` a `FlowMap`,
      `bridge_sampler` a `BridgeFn`.
    sampler: A sampler such as `ddim()`; TypeError for others.
    levels: [N+1], noisiest first (`level_grid`), or ValueError, as for eps from
      alpha = 0. Under `jit` eps and traced levels from clean data give NaN. A
      step between equal levels leaves x unchanged. [N+1, B] has a level for each
      example; [N+1, 1, T] and [N+1, B, T] one for each element (tokens, frames).
    x: [B, ...] at the first level (`prior_sample`), at least float32 is used. A
      `joint_sampler` takes a dict of arrays, and a dict of grids of the same names.
  """
  return sample_frames(key, denoise, sampler, levels, x, 0)[0]


@checked
def sample_with_state(
  key: Key, denoise: AnyDenoiser, sampler: Sampler, levels: Grids, x: ArrayTree
) -> tuple[ArrayTree, PyTree]:
  """Returns (`sample`, the sampler's last state, as the weights of `steered`)."""
  x, _, state = sample_frames(key, denoise, sampler, levels, x, 0)
  return x, state


@checked
def trajectory(
  key: Key, denoise: AnyDenoiser, sampler: Sampler, levels: Grids, x: ArrayTree
) -> ArrayTree:
  """Returns x at all levels of `sample`, [N+1, B, ...]."""
  return sample_frames(key, denoise, sampler, levels, x, math.inf)[1]


@checked
def sample_frames(
  key: Key,
  denoise: AnyDenoiser,
  sampler: Sampler,
  levels: Grids,
  x: ArrayTree,
  num_frames: float,
  num_examples: int | None = None,
) -> tuple[ArrayTree, ArrayTree, PyTree]:
  """Returns (`sample`, the first examples at some levels [F, n, ...], state).

  num_frames: see `spread_levels`; num_examples: n, by default all;
  state: the sampler's last.
  """
  num_steps = _check_grids(levels, x)
  keys = sampler.keys(as_one_key(key), num_steps)
  x = of_each(lambda a: as_float(a) if jnp.issubdtype(a.dtype, jnp.floating) else a, x)

  shown = spread_levels(num_steps, num_frames)
  # A step writes into the frame of the next level that is shown, which stays.
  frame = np.searchsorted(shown, np.arange(1, num_steps + 1))
  few = jax.tree.map(lambda a: a[:num_examples], x)
  frames = jax.tree.map(lambda a: jnp.broadcast_to(a, (len(shown), *a.shape)), few)

  def body(carry, inputs):
    key, level_t, level_s, frame = inputs
    x, state, frames = carry
    x, state = take_step(sampler, key, x, state, denoise, level_s=level_s, level_t=level_t)
    if len(shown):
      frames = jax.tree.map(lambda f, a: f.at[frame].set(a[:num_examples]), frames, x)
    return (x, state, frames), None

  level_t, level_s = (
    of_each(lambda level, part=part: level.take(part), levels)
    for part in (slice(None, -1), slice(1, None))
  )
  inputs = keys, level_t, level_s, frame
  state = sampler.init(x)
  starts = _as_list(of_each(lambda level: level.alpha, level_t))
  if any(alpha.ndim > 2 for alpha in starts):
    state = _with_axes(state, lambda state: _state_after(sampler, x, state, denoise, inputs))
  if any(not isinstance(a, Tracer) and (a[:1] == 0.0).any() for a in starts):
    # The loop hides the values of levels from the checks of a denoiser.
    first = jax.tree.map(lambda array: array[0], inputs)
    jax.eval_shape(lambda x: body((x, state, frames), first), x)
  carry = x, state, frames
  (x, state, frames), _ = jax.lax.scan(body, carry, inputs)
  return x, frames, state


def of_each(function: Callable[..., Any], value: Any, *others: Any) -> Any:
  """Returns function(value, *others), or for dicts of several variables a dict of it."""
  if not isinstance(value, Mapping):
    return function(value, *others)
  return {name: function(own, *(x[name] for x in others)) for name, own in value.items()}


def _as_list(value):
  return [*value.values()] if isinstance(value, Mapping) else [value]


def _check_grids(levels, x):
  # Returns N; ValueError for levels that do not fit x, or that do not fall.
  of, given = (sorted(a) if isinstance(a, Mapping) else 'one array' for a in (levels, x))
  if of != given:
    raise ValueError(f'levels are of {of}, and x of {given}: x needs a grid for each variable')
  if not isinstance(x, Mapping):  # A grid [N+1, B] of a variable is of examples.
    check_axes(levels, x)
  with jax.ensure_compile_time_eval():  # `jit` would trace the slice.
    of_each(lambda level: check_order(level, level.take(slice(1))), levels)
  lengths = {level.t.shape[0] for level in _as_list(levels)}
  if len(lengths) > 1:
    raise ValueError(f'the grids of levels have {sorted(lengths)} levels: all must have as many')
  return lengths.pop() - 1


def _with_axes(state, after):
  # A state may hold levels. Those of a grid with a level for each element have more axes
  # than `init` knows of: as many as after some steps.
  shape = None
  while shape != jax.tree.map(jnp.shape, state):
    state = jax.tree.map(lambda a, b: jnp.broadcast_to(a, b.shape), state, after(state))
    shape = jax.tree.map(jnp.shape, after(state))
  return state


def _state_after(sampler, x, state, denoise, inputs):
  def step(inputs, x, state):
    key, level_t, level_s, _ = jax.tree.map(lambda array: array[0], inputs)
    return sampler.step(key, x, state, denoise, level_s=level_s, level_t=level_t)[1]

  return jax.eval_shape(step, inputs, x, state)


def take_step(
  sampler: Sampler,
  key: Key,
  x: ArrayTree,
  state: PyTree,
  denoise: Callable[..., PyTree],
  level_s: NoiseLevel | Mapping[str, NoiseLevel],
  level_t: NoiseLevel | Mapping[str, NoiseLevel],
) -> tuple[ArrayTree, PyTree]:
  """Makes one step of a sampler, none between levels that are equal.

  A grid with repeated levels gives what the grid without them does. Levels are
  [], [B] with a level per example, or [B, T] or [1, T] with one per element; for the
  others see `SamplerStep`. Each of several variables has its own.
  """
  equal = of_each(equal_levels, level_s, level_t)
  none_moves = functools.reduce(jnp.logical_and, map(jnp.all, _as_list(equal)))

  def move():
    result = sampler.step(key, x, state, denoise, level_s=level_s, level_t=level_t)
    if not isinstance(result, tuple) or len(result) != 2:
      raise TypeError(f'the step of a sampler returns (x, state), not {kind_of(result)}')
    x_s, new_state = result
    if jax.tree.map(jnp.shape, new_state) != jax.tree.map(jnp.shape, state):
      raise TypeError(
        'the step of a sampler returns a state of the same arrays as init(x) does, '
        f'{kind_of(state)}, not {kind_of(new_state)}'
      )
    return of_each(_where_moved, equal, x, x_s), new_state

  return jax.lax.cond(none_moves, lambda: (x, state), move)


def _where_moved(equal, x, x_s):
  return jnp.where(expand_to(equal, x), x, x_s) if equal.ndim else x_s


def spread_levels(num_steps: int, num_frames: float) -> np.ndarray:
  """Returns at most num_frames of 0, ..., num_steps, evenly spread, [F]."""
  count = int(min(num_frames, num_steps + 1))
  return np.rint(np.linspace(0, num_steps, count)).astype(int)


@checked
def prior_sample(key: Key, shape: Shape, level: NoiseLevel, exact: bool = False) -> Array:
  """Draws x_T ~ N(0, (alpha^2 + sigma^2) I), N(0, I) for every VP schedule.

  key: [] or [B]; shape: [B, ...]; level: the first level of the grid, [], or with one per
  element, [1, T].
  exact=True draws from N(0, sigma^2 I) instead, as EDM and VE code does.
  """
  variance = as_float(level.sigma**2 + (0.0 if exact else level.alpha**2))
  zeros = jnp.zeros(shape, variance.dtype)
  return jnp.sqrt(expand_to(variance, zeros)) * draw_normal(key, zeros)
