"""A network of 9 arrays, for tests of modes."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffusion_jax.networks.embeddings import noise_and_label, of_step, sinusoidal, with_inputs
from diffusion_jax.networks.inputs import STEP_INPUTS, Inputs
from diffusion_jax.networks.layers import Conv


class SmallNetwork(nn.Module):
  """Two convolutions, with the inputs that most networks have."""

  takes: ClassVar = ('label', 'image', 'x0', *STEP_INPUTS)

  out_channels: int
  channels: int = 16
  inputs: Inputs = Inputs()
  dropout: float = 0.0
  dtype: DTypeLike = 'float32'

  @nn.compact
  def __call__(self, x, noise, cond=None, *, train=False):
    cond, inputs = cond or {}, self.inputs
    x = with_inputs(inputs, x, cond)
    style = {'initializer': 'ho', 'dtype': self.dtype}
    embedding = noise_and_label(
      sinusoidal(noise, self.channels), cond, self.channels, inputs, **style
    )
    embedding += of_step(inputs, cond, self.channels, self.channels, dtype=jnp.dtype(self.dtype))
    h = Conv(self.channels, **style, name='conv_in')(x)
    h = nn.swish(h + jnp.expand_dims(embedding, range(1, h.ndim - 1)))
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    return Conv(self.out_channels, initializer='ho', zero=True, name='conv_out')(h)


class SmallClassifier(nn.Module):
  """A convolution and the mean over pixels, which sees the noise."""

  num_classes: int

  @nn.compact
  def __call__(self, x, noise, cond=None, *, train=False):
    embedding = nn.Dense(8)(sinusoidal(noise, 8))
    h = nn.swish(nn.Conv(8, (3, 3))(x) + embedding[:, None, None])
    return nn.Dense(self.num_classes)(h.mean(axis=(1, 2)))


class SmallAutoencoder(nn.Module):
  """An autoencoder of two layers, whose latents have half the size."""

  image_size: tuple[int, int]
  out_channels: int

  def setup(self):
    self.down = nn.Conv(8, (2, 2), strides=2)
    self.up = nn.ConvTranspose(self.out_channels, (2, 2), strides=(2, 2))

  def encode(self, x, train=False):
    """Returns the mean and the log-variance of q(z | x), [B, h, w, 4]."""
    return halves(self.down(x))

  def decode(self, z, train=False):
    """Returns the parameters of p(x | z), [B, H, W, out_channels]."""
    return self.up(z)

  def __call__(self, x):
    """Returns the decoder's output for the mean of z."""
    return self.decode(self.encode(x)[0])


class SmallChain(nn.Module):
  """A chain of latents: SmallAutoencoder, then dense layers."""

  image_size: tuple[int, int]
  out_channels: int
  num_latents: int = 3

  def setup(self):
    self.first = SmallAutoencoder(self.image_size, self.out_channels)
    # New layers give N(0, 1).
    layer = lambda: nn.Dense(8, kernel_init=nn.initializers.zeros)
    self.up = [layer() for _ in range(self.num_latents - 1)]
    self.down = [layer() for _ in range(self.num_latents - 1)]

  def encode(self, t, z, train=False):
    """Returns the mean and the log-variance of q(z_t | z_{t-1})."""
    return self.first.encode(z) if t == 1 else halves(self.up[t - 2](z))

  def decode(self, t, z, train=False):
    """Returns the same of p(z_{t-1} | z_t), or the parameters of p(x | z_1)."""
    return self.first.decode(z) if t == 1 else halves(self.down[t - 2](z))

  def __call__(self, x):
    """Returns the decoder's output for the mean of the last z."""
    for t in range(1, self.num_latents + 1):
      x, _ = self.encode(t, x)
    for t in range(self.num_latents, 1, -1):
      x, _ = self.decode(t, x)
    return self.decode(1, x)


def halves(h):
  return tuple(jnp.split(h, 2, axis=-1))
