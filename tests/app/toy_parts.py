"""What a user may write: no part of the package, named in a config."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import diffusion_jax as dj
from diffusion_jax.training import objectives


class Network(nn.Module):
  """One layer, of `width` that configs/base.py has not."""

  out_channels: int
  width: int = 2

  @nn.compact
  def __call__(self, x, noise, cond=None, *, train=False):
    noise = jnp.broadcast_to(noise[:, None, None, None], x.shape)
    h = nn.tanh(nn.Dense(self.width)(jnp.concatenate([x, noise], -1)))
    return nn.Dense(self.out_channels)(h)


@dataclasses.dataclass(frozen=True)
class Schedule:
  """alpha = cos, sigma = sin of an angle from `first` to pi/2 - `first`."""

  first: float = 0.1

  def __call__(self, t):
    angle = self.first + t * (np.pi / 2 - 2 * self.first)
    return dj.NoiseLevel(t, jnp.cos(angle), jnp.sin(angle))


def sampler(damping: float = 1.0):
  """The ODE's step, times `damping`."""
  inner = dj.ddim()

  def step(key, x, state, denoise, *, level_s, level_t):
    x, state = inner.step(
      key, x, state, denoise, level_s=level_s, level_t=level_t
    )
    return damping * x, state

  return dj.Sampler(inner.init, step)


def objective(network_fn, schedule, noise_input):
  """The plain loss of v at uniform times."""
  network = objectives.Network(network_fn, noise_input, parametrization='v')
  return objectives.denoising(network, schedule, times=dj.uniform_times)
