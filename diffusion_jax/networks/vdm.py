"""The score network of variational diffusion models (Kingma et al. 2021)."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.declared import Free, declares
from diffusion_jax.networks.attention import Attention
from diffusion_jax.networks.blocks import ResnetBlock, make_block, output_conv
from diffusion_jax.networks.embeddings import fourier_features, noise_and_label, sinusoidal
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.layers import Conv
from diffusion_jax.networks.options import Checked, Dtype, Initialization, RematPolicy
from diffusion_jax.ranges import Count, Positive, Rate, Size

Array = jax.Array


@declares(
  what='residual blocks at full resolution, and Fourier features of z ([VDM](#vdm))',
  needs='as `unet`, without changes of resolution',
  data='grid',
)
class ScoreNetwork(Checked):
  """Computes eps_hat [B, H, W, C] of z [B, H, W, C] by a U-Net of one level.

  noise [B] is the log-SNR of z, -gamma. The range gamma_min..gamma_max of gamma
  is mapped to 0..1, multiplied by 1000 and embedded. There are `num_layers`
  residual blocks, and num_layers + 1 that also take a skip connection.
  Attention stands in the middle, with `attention` also after every block. The
  input has Fourier features of z (2^k, k from fourier[0] to fourier[1] - 1),
  and eps_hat is z plus the last convolution, which starts at 0.

  Of `inputs` it takes the label (`LabelEmbedding`). cond may also contain
  'augmented' [B], 1 for augmented images (0 by default). The defaults are the
  CIFAR-10 model with 30,578,179 parameters, without the 2 parameters of gamma.
  """

  # `noise` is the log-SNR (`dj.logsnr_input`).
  noise_input: ClassVar[str] = 'logsnr'
  takes: ClassVar = ('label',)

  channels: Size = 128
  num_layers: Size = 32
  attention: bool = False
  dropout: Rate = 0.1
  gamma_min: float = -13.3
  gamma_max: float = 5.0
  fourier: tuple[Count, Count] = (6, 8)
  num_groups: Size = 32
  norm_eps: Positive = 1e-6
  inputs: Inputs = Inputs()
  initializer: Initialization = 'lecun'
  remat: Free[bool] = False
  remat_policy: RematPolicy = 'nothing'
  dtype: Dtype = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    first, stop = self.fourier
    if not first <= stop <= 24:  # float32 resolves no higher frequencies
      raise ValueError(f'fourier={self.fourier} must be (first, stop) with first <= stop <= 24')
    if not self.gamma_min < self.gamma_max:
      raise ValueError(f'gamma_min={self.gamma_min} is not below gamma_max={self.gamma_max}')

  @nn.compact
  def __call__(self, z: Array, noise: Array, cond: dict | None = None, *, train=False) -> Array:
    cond = cond or {}
    self.inputs.check(cond, 'augmented')
    embedding = self._embed(noise, cond)

    def block(h, name, attention=self.attention):
      width = self.channels
      residual = make_block(ResnetBlock, self, name, features=width, zero_embedding=True)
      h = residual(h, embedding, train)
      return attend(h, f'{name}_attention') if attention else h

    def attend(h, name):
      return make_block(Attention, self, name)(h)

    h = fourier_features(z, *self.fourier)
    h = Conv(self.channels, **self.style, name='conv_in')(h)
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

  def _embed(self, noise, cond):
    gamma = -noise.astype(jnp.float32)
    t = (gamma - self.gamma_min) / (self.gamma_max - self.gamma_min)
    h = sinusoidal(1000.0 * t, self.channels)
    augmented = jnp.asarray(cond.get('augmented', jnp.zeros_like(t)), t.dtype)
    h = jnp.concatenate([h, augmented[:, None]], axis=-1)
    return noise_and_label(h, cond, 4 * self.channels, self.inputs, **self.style)
