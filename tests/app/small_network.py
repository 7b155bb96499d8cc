"""A network of 9 arrays, for tests of modes."""

from flax import linen as nn
from jax.typing import DTypeLike

from diffusion_jax.networks.embeddings import (
  noise_and_label,
  of_step,
  sinusoidal,
  with_estimate,
  with_image,
)
from diffusion_jax.networks.layers import Conv


class SmallNetwork(nn.Module):
  """Two convolutions, with the inputs that most networks have."""

  out_channels: int
  channels: int = 16
  num_classes: int = 0
  null_class: bool = False
  image_channels: int = 0
  self_conditioning: bool = False
  elapsed: bool = False
  guidance_input: bool = False
  dropout: float = 0.0
  dtype: DTypeLike = 'float32'

  @nn.compact
  def __call__(self, x, noise, cond=None, *, train=False):
    cond = cond or {}
    if self.self_conditioning:
      x = with_estimate(x, cond)
    if self.image_channels:
      x = with_image(x, cond, self.image_channels)
    style = {'initializer': 'ho', 'dtype': self.dtype}
    classes = self.num_classes, self.null_class
    embedding = noise_and_label(
      sinusoidal(noise, self.channels), cond, self.channels, *classes, **style
    )
    embedding += of_step(self, cond, self.channels, self.channels)
    h = Conv(self.channels, **style, name='conv_in')(x)
    h = nn.swish(h + embedding[:, None, None, :])
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    return Conv(
      self.out_channels, initializer='ho', zero=True, name='conv_out'
    )(h)
