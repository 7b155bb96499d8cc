"""How images are drawn, as data: what models make, and modes and edits use."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.core.keys import split_key
from diffusion_jax.sampling.sampler import sample_frames

Wrap = Callable[[dj.Denoiser], dj.Denoiser]
FILM = 25, 10, 500  # levels, images and vectors of `Plan.film`


class Plan(NamedTuple):
  """How images are drawn with given parameters and guides.

  schedule: whose levels are visited. levels: [N + 1], the noisiest first.
  step_function(cond, after_guidance=None, clip=True, scale=None) -> the
  function that the sampler calls at each step: a denoiser, with
  self-conditioning a function x_0 -> denoiser, with some guidance a pair of
  denoisers, or a flow map; `after_guidance`
  is applied before x_0 is clipped; scale: of the guidance, [] and traced,
  instead of the config's.
  prior_sample(keys [B], level) -> pure noise [B, ...]. replace_known(sampler,
  known, mask) -> the sampler that keeps known pixels. denoises: whether step
  functions are denoisers of x. starts: whether samples start at cond['context']
  instead of noise.
  """

  schedule: dj.Schedule
  levels: dj.NoiseLevel
  sampler: dj.Sampler
  step_function: Callable[..., Callable]
  prior_sample: Callable[[jax.Array, dj.NoiseLevel], jax.Array]
  replace_known: Callable[..., dj.Sampler] = dj.replace_known
  denoises: bool = False
  starts: bool = False

  def begin(self, keys: jax.Array, cond: dict) -> tuple[jax.Array, jax.Array]:
    """Returns (x at the first level [B, ...], keys of the sampler [B])."""
    prior_keys, keys = split_key(keys, 2)
    if self.starts:
      return cond['context'], keys
    return self.prior_sample(prior_keys, self.levels.take(0)), keys

  def from_noise(
    self, keys: jax.Array, cond: dict, after_guidance: Wrap | None = None
  ) -> jax.Array:
    """Returns samples [B, ...] of the keys [B]."""
    x, keys = self.begin(keys, cond)
    step_function = self.step_function(cond, after_guidance=after_guidance)
    return dj.sample(keys, step_function, self.sampler, self.levels, x)

  def film(self, keys: jax.Array, cond: dict) -> tuple[jax.Array, ...]:
    """Returns samples [B, ...], and the first ones at some levels [n, F, ...].

    The samples equal `from_noise`'s; `spread_levels` chooses the levels. A
    third array is the `lowest_ess` [B] of a sampler of particles.
    """
    x, keys = self.begin(keys, cond)
    step_function = self.step_function(cond)
    vectors = x.ndim == 2 and jnp.issubdtype(x.dtype, jnp.floating)
    x, states, state = sample_frames(
      keys,
      step_function,
      self.sampler,
      self.levels,
      x,
      num_frames=FILM[0],
      num_examples=FILM[2 if vectors else 1],
    )
    ess = [state.lowest_ess] if hasattr(state, 'lowest_ess') else []
    return x, jnp.swapaxes(states, 0, 1), *ess


class AtOnce(NamedTuple):
  """How a model draws images without steps; draw: (keys [B], cond) -> images."""

  draw: Callable[[jax.Array, dict], jax.Array]

  def film(self, keys: jax.Array, cond: dict) -> tuple[jax.Array, None]:
    """Returns (samples [B, ...], None); see `Plan.film`."""
    return self.draw(keys, cond), None


def few_particles(lowest_ess: float, particles: int, what: str = 'the samples are not') -> str:
  """Returns a warning where few particles had nearly all the weight, or ''."""
  if lowest_ess >= max(1.5, 0.1 * particles):
    return ''
  return (
    f'. Few particles had nearly all the weight, so {what} reliable: take more '
    'particles, or more steps'
  )
