"""The score network of variational diffusion models (Kingma et al. 2021)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffusion_jax.networks.embeddings import (
  check_conditions,
  fourier_features,
  noise_and_label,
  sinusoidal,
)
from diffusion_jax.networks.layers import (
  Attention,
  Conv,
  ResnetBlock,
  check_options,
  make_block,
  output_conv,
)

Array = jax.Array


class ScoreNetwork(nn.Module):
  """Computes eps_hat [B, H, W, C] of z [B, H, W, C] by a U-Net of one level.

  noise [B] is the log-SNR of z, -gamma; gamma is mapped from gamma_min..
  gamma_max to 0..1 and embedded as 1000 times that. There are `num_layers`
  residual blocks and num_layers + 1 with skips, attention in the middle alone
  or after every block (`attention`), Fourier features of z (2^k, k from
  fourier[0] to fourier[1] - 1), and eps_hat = z + the last convolution, which
  begins at 0.

  cond may have 'augmented' [B], 1 where the image was augmented (0 by default),
  and 'label', 'drop' as in `LabelEmbedding`. The defaults are the CIFAR-10
  model: 30,578,179 parameters, besides the 2 of gamma. Raises ValueError for
  conditions that the network does not have.
  """

  channels: int = 128
  num_layers: int = 32
  attention: bool = False
  dropout: float = 0.1
  gamma_min: float = -13.3
  gamma_max: float = 5.0
  fourier: tuple[int, int] = (6, 8)
  num_groups: int = 32
  norm_eps: float = 1e-6
  num_classes: int = 0
  null_class: bool = False
  initializer: str = 'lecun'
  remat: bool = False
  remat_policy: str = 'nothing'
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    check_options(self)

  @nn.compact
  def __call__(
    self, z: Array, noise: Array, cond: dict | None = None, *, train=False
  ) -> Array:
    cond = cond or {}
    self._check(cond)
    embedding = self._embed(noise, cond)

    def block(h, name, attention=self.attention):
      options = {'features': self.channels, 'zero_embedding': True}
      residual = make_block(ResnetBlock, self, name, **options)
      h = residual(h, embedding, train)
      return attend(h, f'{name}_attention') if attention else h

    def attend(h, name):
      return make_block(Attention, self, name)(h)

    h = fourier_features(z, *self.fourier)
    h = Conv(self.channels, **self._style(), name='conv_in')(h)
    skips = [h]
    for i in range(self.num_layers):
      h = block(h, f'down_{i}')
      skips.append(h)

    h = block(h, 'middle_0_block', attention=False)
    h = attend(h, 'middle_attention')
    h = block(h, 'middle_1_block', attention=False)

    for i in reversed(range(self.num_layers + 1)):
      h = block(jnp.concatenate([h, skips.pop()], axis=-1), f'up_{i}')

    return z + output_conv(self, z.shape[-1], h)

  def _style(self):
    return {'initializer': self.initializer, 'dtype': self.dtype}

  def _embed(self, noise, cond):
    gamma = -noise.astype(jnp.float32)
    t = (gamma - self.gamma_min) / (self.gamma_max - self.gamma_min)
    h = sinusoidal(1000.0 * t, self.channels)
    augmented = jnp.asarray(cond.get('augmented', jnp.zeros_like(t)), t.dtype)
    h = jnp.concatenate([h, augmented[:, None]], axis=-1)
    classes = self.num_classes, self.null_class
    return noise_and_label(
      h, cond, 4 * self.channels, *classes, **self._style()
    )

  def _check(self, cond):
    if self.channels < 1 or self.channels % self.num_groups:
      raise ValueError(
        f'num_groups={self.num_groups} does not divide the {self.channels} '
        'channels: change num_groups or channels'
      )
    if not self.gamma_min < self.gamma_max:
      raise ValueError(
        f'gamma_min={self.gamma_min} is not below gamma_max={self.gamma_max}'
      )
    labels = self.num_classes > 0
    check_conditions(cond, augmented=True, label=labels, drop=labels)
