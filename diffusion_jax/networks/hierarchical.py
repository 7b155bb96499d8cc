"""The networks of a Markov hierarchical VAE: a chain of learned Gaussians."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.networks.autoencoder import (
  Decoder,
  Encoder,
  Layers,
  block,
  layers_of,
  mean_and_log_variance,
)
from diffusion_jax.networks.blocks import output_conv
from diffusion_jax.networks.layers import Conv
from diffusion_jax.networks.options import (
  Checked,
  Dtype,
  Initialization,
  Multipliers,
)
from diffusion_jax.ranges import Positive, Rate, Size

Array = jax.Array


class Transition(nn.Module):
  """Maps latents z [B, h, w, c] to (mean, log_variance) of the next ones.

  The mean is z plus the output of residual blocks, so that a new chain passes z
  from layer to layer: with a mean of 0 the upper layers would never be used.
  """

  layers: Layers

  @nn.compact
  def __call__(self, z: Array, train: bool = False) -> tuple[Array, Array]:
    c = self.layers
    width = c.widths[-1]
    h = Conv(width, **c.style, name='conv_in')(z)
    for i in range(c.num_blocks):
      h = block(c, h, width, train, f'middle_{i}')
    h = output_conv(c, 2 * z.shape[-1], h)
    mean, log_variance = mean_and_log_variance(h)
    return z + mean, log_variance


class HierarchicalAutoencoder(Checked):
  """Computes q(z_t | z_{t-1}) and p(z_{t-1} | z_t), t = 1..T, z_0 = x.

  encode(t, z_{t-1}) -> (mean, log_variance) of z_t; decode(t, z_t) -> (mean,
  log_variance) of z_{t-1}, or for t = 1 the parameters of p(x | z_1). All
  T = num_latents layers are images [B, h, w, latent_channels], h = H /
  2^(levels - 1). Options are described in `Autoencoder`. t: Python int.
  """

  out_channels: Size
  num_latents: Size = 3
  latent_channels: Size = 4
  channels: Size = 64
  multipliers: Multipliers = (1, 2, 2)
  num_blocks: Size = 1
  attention_resolutions: Sequence[Size] = ()
  dropout: Rate = 0.0
  num_groups: Size = 32
  norm_eps: Positive = 1e-6
  initializer: Initialization = 'ho'
  dtype: Dtype = jnp.float32

  def setup(self):
    layers = layers_of(self)
    self.encoder = Encoder(2 * self.latent_channels, layers)
    self.decoder = Decoder(self.out_channels, layers)

    def steps(name):
      return [
        Transition(layers, name=f'{name}_{t}')
        for t in range(2, self.num_latents + 1)
      ]

    self.encoders, self.decoders = steps('encode'), steps('decode')

  def encode(self, t: int, z: Array, train: bool = False):
    """Returns (mean, log_variance) of q(z_t | z_{t-1})."""
    if t == 1:
      return mean_and_log_variance(self.encoder(z, train))
    return self.encoders[t - 2](z, train)

  def decode(self, t: int, z: Array, train: bool = False):
    """Returns (mean, log_variance) of p(z_{t-1} | z_t); or p(x | z_1)."""
    if t == 1:
      return self.decoder(z, train)
    return self.decoders[t - 2](z, train)

  def __call__(self, x: Array, train: bool = False) -> Array:
    """Encodes and decodes by the means, which uses all parameters."""
    z = x
    for t in range(1, self.num_latents + 1):
      z, _ = self.encode(t, z, train)
    for t in range(self.num_latents, 1, -1):
      z, _ = self.decode(t, z, train)
    return self.decoder(z, train)
