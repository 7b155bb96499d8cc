"""The function that runs every sampler, and the noise it starts from.

A `Sampler` is an (init, step) pair, as in optax. `step` makes one transition
from level t to the cleaner level s; inpainting, churn and Langevin correctors
are functions sampler -> sampler.

A key is one key, or one key per example ([B]); with the latter image i depends
only on its own key. A step gets one key in both cases (`core/keys.py`).
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from diffusion_jax.aliases import PyTree
from diffusion_jax.core.arguments import as_float, expand_to, kind_of
from diffusion_jax.core.checked import Key, checked, needed
from diffusion_jax.core.denoiser import Denoiser
from diffusion_jax.core.keys import as_one_key, draw_normal, split_key
from diffusion_jax.core.levels import Grid, NoiseLevel, check_axes, check_order, equal_levels
from diffusion_jax.ranges import Rule, Shape

Array = jax.Array


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

  def __call__(self, x: Array, /) -> PyTree:
    """Returns the state before the first step, () for one-step methods."""


class SamplerStep(Protocol):
  """The transition of a `Sampler`; its levels are passed by name."""

  def __call__(
    self,
    key: Key,
    x: Array,
    state: PyTree,
    denoise: Callable[..., PyTree],
    *,
    level_s: NoiseLevel,
    level_t: NoiseLevel,
  ) -> tuple[Array, PyTree]:
    """Takes x [B, ...] from level t to the cleaner level s, [] or of other shapes (`NoiseLevel`).

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
  keys: Callable[[Array, int], Array] = split_key


@checked
def sample(key: Key, denoise: AnyDenoiser, sampler: Sampler, levels: Grid, x: Array) -> Array:
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
    x: [B, ...] at the first level (`prior_sample`), at least float32 is used.
  """
  return sample_frames(key, denoise, sampler, levels, x, 0)[0]


@checked
def sample_with_state(
  key: Key, denoise: AnyDenoiser, sampler: Sampler, levels: Grid, x: Array
) -> tuple[Array, PyTree]:
  """Returns (`sample`, the sampler's last state, as the weights of `steered`)."""
  x, _, state = sample_frames(key, denoise, sampler, levels, x, 0)
  return x, state


@checked
def trajectory(key: Key, denoise: AnyDenoiser, sampler: Sampler, levels: Grid, x: Array) -> Array:
  """Returns x at all levels of `sample`, [N+1, B, ...]."""
  return sample_frames(key, denoise, sampler, levels, x, math.inf)[1]


@checked
def sample_frames(
  key: Key,
  denoise: AnyDenoiser,
  sampler: Sampler,
  levels: Grid,
  x: Array,
  num_frames: float,
  num_examples: int | None = None,
) -> tuple[Array, Array, PyTree]:
  """Returns (`sample`, the first examples at some levels [F, n, ...], state).

  num_frames: see `spread_levels`; num_examples: n, by default all;
  state: the sampler's last.
  """
  check_axes(levels, x)
  with jax.ensure_compile_time_eval():  # `jit` would trace the slice.
    check_order(levels, levels.take(slice(1)))
  num_steps = levels.t.shape[0] - 1
  keys = sampler.keys(as_one_key(key), num_steps)
  x = as_float(x) if jnp.issubdtype(x.dtype, jnp.floating) else x

  shown = spread_levels(num_steps, num_frames)
  # A step writes into the frame of the next level that is shown, which stays.
  frame = np.searchsorted(shown, np.arange(1, num_steps + 1))
  few = x[:num_examples]
  frames = jnp.broadcast_to(few, (len(shown), *few.shape))

  def body(carry, inputs):
    key, level_t, level_s, frame = inputs
    x, state, frames = carry
    x, state = take_step(sampler, key, x, state, denoise, level_s=level_s, level_t=level_t)
    if len(shown):
      frames = frames.at[frame].set(x[:num_examples])
    return (x, state, frames), None

  level_t, level_s = levels.take(slice(None, -1)), levels.take(slice(1, None))
  inputs = keys, level_t, level_s, frame
  state = sampler.init(x)
  if level_t.alpha.ndim > 2:
    state = _with_axes(state, lambda state: _state_after(sampler, x, state, denoise, inputs))
  start = inputs[1].alpha[:1]
  if not isinstance(start, Tracer) and (start == 0.0).any():
    # The loop hides the values of levels from the checks of a denoiser.
    first = jax.tree.map(lambda array: array[0], inputs)
    jax.eval_shape(lambda x: body((x, state, frames), first), x)
  carry = x, state, frames
  (x, state, frames), _ = jax.lax.scan(body, carry, inputs)
  return x, frames, state


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
  x: Array,
  state: PyTree,
  denoise: Callable[..., PyTree],
  level_s: NoiseLevel,
  level_t: NoiseLevel,
) -> tuple[Array, PyTree]:
  """Makes one step of a sampler, none between levels that are equal.

  A grid with repeated levels gives what the grid without them does. Levels are
  [], [B] with a level per example, or [B, T] or [1, T] with one per element; for the
  others see `SamplerStep`.
  """
  equal = equal_levels(level_s, level_t)

  def move():
    result = sampler.step(key, x, state, denoise, level_s=level_s, level_t=level_t)
    if not isinstance(result, tuple) or len(result) != 2:
      raise TypeError(f'the step of a sampler returns (x, state), not {kind_of(result)}')
    x_s, new_state = result
    return (jnp.where(expand_to(equal, x), x, x_s) if equal.ndim else x_s), new_state

  return jax.lax.cond(jnp.all(equal), lambda: (x, state), move)


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
