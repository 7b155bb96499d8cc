"""The function that runs every sampler, and the noise it starts from.

A `Sampler` is an (init, step) pair, as in optax. `step` makes one transition
from level t to the cleaner level s; changes of it (inpainting, churn, a
Langevin corrector) are functions sampler -> sampler.

A key is one key, or one key per example ([B]): image i then depends on its own
key alone, whatever the batch (`core/keys.py`).
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.core.concrete import as_float
from diffusion_jax.core.denoiser import Denoiser
from diffusion_jax.core.discrete_states import StateDenoiser
from diffusion_jax.core.keys import draw_normal, split_key
from diffusion_jax.core.levels import NoiseLevel

Array = jax.Array


class SamplerInit(Protocol):
  """The first function of a `Sampler`."""

  def __call__(self, x: Array, /) -> Any:
    """Returns the state before the first step, () for one-step methods."""
    ...


class SamplerStep(Protocol):
  """The second function of a `Sampler`; its levels are passed by name."""

  def __call__(
    self,
    key: Array,
    x: Array,
    state: Any,
    denoise: Any,
    *,
    level_s: NoiseLevel,
    level_t: NoiseLevel,
  ) -> tuple[Array, Any]:
    """Takes x [B, ...] from level t to the cleaner level s, both [].

    denoise: a `Denoiser`, or what a wrapper such as `self_conditioned` makes
    one from. Returns (x, state) at level s.
    """
    ...


class Sampler(NamedTuple):
  """A rule for going from one noise level to the next.

  init: x -> state (() for one-step methods).
  step: (key, x, state, denoise, *, level_s, level_t) -> (x, state), from level
  t to the cleaner level s, both []; x: [B, ...].
  """

  init: SamplerInit
  step: SamplerStep


def check_sampler(sampler: Sampler) -> None:
  """Raises a TypeError unless it is a `Sampler`, such as `ddim()` makes."""
  if not isinstance(sampler, Sampler):
    name = getattr(sampler, '__name__', repr(sampler))
    raise TypeError(
      f'a Sampler is needed, not {name}'
      + (f': call it, as {name}(...)' if callable(sampler) else '')
    )


def sample(
  key: Array,
  denoise: Denoiser | StateDenoiser,
  sampler: Sampler,
  levels: NoiseLevel,
  x: Array,
  return_trajectory: bool = False,
) -> Array:
  """Runs a sampler from levels[0] to levels[N] in one `lax.scan`.

  Args:
    key: [] or [B]; TypeError for what is no key.
    denoise: The denoiser; TypeError if it returns no `Prediction`. Samplers of
      discrete states have a `StateDenoiser`.
    sampler: Such as `ddim()`; TypeError for others.
    levels: [N+1], noisiest first (`level_grid`).
    x: [B, ...] at the first level (`prior_sample`).
    return_trajectory: Whether to return every x.
  Returns:
    x at the last level, [B, ...], or at all levels, [N+1, B, ...].
  """
  check_sampler(sampler)
  num_steps = levels.t.shape[0] - 1
  keys = split_key(key, num_steps)

  def body(carry, inputs):
    key, level_t, level_s = inputs
    x, state = carry
    x, state = sampler.step(
      key, x, state, denoise, level_s=level_s, level_t=level_t
    )
    return (x, state), (x if return_trajectory else None)

  inputs = keys, levels.take(slice(None, -1)), levels.take(slice(1, None))
  (last, _), xs = jax.lax.scan(body, (x, sampler.init(x)), inputs)
  if xs is None:
    return last
  return jnp.concatenate([x[None], xs])


def prior_sample(
  key: Array, shape: tuple[int, ...], level: NoiseLevel, exact: bool = False
) -> Array:
  """Draws x_T ~ N(0, (alpha^2 + sigma^2) I), N(0, I) for every VP schedule.

  Args:
    key: [] or [B].
    shape: [B, ...].
    level: The first level of the grid, [].
    exact: Draw from N(0, sigma^2 I) instead, as EDM and VE code does.
  Returns:
    x_T, of `shape`.
  """
  variance = as_float(level.sigma**2 + (0.0 if exact else level.alpha**2))
  return jnp.sqrt(variance) * draw_normal(key, jnp.zeros(shape, variance.dtype))
