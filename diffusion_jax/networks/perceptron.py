"""Multilayer perceptrons as the encoder and the decoder of a VAE."""

from collections.abc import Sequence

import jax
from flax import linen as nn

from diffusion_jax.networks.autoencoder import mean_and_log_variance
from diffusion_jax.networks.layers import dense
from diffusion_jax.networks.options import Checked, Initialization
from diffusion_jax.ranges import Rate, Size

Array = jax.Array


class Perceptron(nn.Module):
  """Maps [B, D] -> [B, outputs] by hidden layers with tanh, then dropout."""

  outputs: int
  hidden: Sequence[int]
  dropout: float
  initializer: Initialization

  @nn.compact
  def __call__(self, h: Array, train: bool = False) -> Array:
    for i, width in enumerate(self.hidden):
      h = dense(h, width, f'dense_{i}', initializer=self.initializer)
      h = nn.Dropout(self.dropout, deterministic=not train)(nn.tanh(h))
    return dense(h, self.outputs, 'dense_out', initializer=self.initializer)


class PerceptronAutoencoder(Checked):
  """Computes the parameters of q(z | x) and of p(x | z) by perceptrons.

  encode: x [B, H, W, C] -> (mean, log_variance) of z [B, latent_dim]; decode: z
  -> [B, H, W, out_channels]. The hidden layers of the decoder are the encoder's
  in reverse; two of 200 with 50 latents are used by Burda et al. 2016. Any size
  of image is allowed; log-variances are clipped softly to +-10.
  """

  image_size: tuple[Size, Size]
  out_channels: Size
  latent_dim: Size = 50
  hidden: Sequence[Size] = (200, 200)
  dropout: Rate = 0.0
  initializer: Initialization = 'lecun'

  def setup(self):
    height, width = self.image_size
    style = self.dropout, self.initializer
    self.encoder = Perceptron(2 * self.latent_dim, self.hidden, *style)
    pixels = height * width * self.out_channels
    self.decoder = Perceptron(pixels, self.hidden[::-1], *style)

  def encode(self, x: Array, train: bool = False) -> tuple[Array, Array]:
    """Returns (mean, log_variance) of q(z | x)."""
    return mean_and_log_variance(self.encoder(x.reshape(len(x), -1), train))

  def decode(self, z: Array, train: bool = False) -> Array:
    """Returns the parameters of p(x | z), [B, H, W, out_channels]."""
    h = self.decoder(z, train)
    return h.reshape(len(h), *self.image_size, self.out_channels)

  def __call__(self, x: Array, train: bool = False) -> Array:
    """Returns `decode` at the mean of z, which uses all parameters."""
    return self.decode(self.encode(x, train)[0], train)
