"""Numbers and labels -> vectors."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffusion_jax.networks.layers import INITIALIZERS, check_name

Array = jax.Array


SINUSOIDS = ('ho', 'openai')


def sinusoidal(
  noise: Array, features: int, max_period: float = 1e4, kind: str = 'ho'
) -> Array:
  """Sines and cosines of f_i noise, f_i geometric from 1: [B, features].

  'ho' (Ho et al. 2020): [sin, cos], the last f_i is 1 / max_period. 'openai'
  (Nichol & Dhariwal 2021): [cos, sin], f_i = max_period^(-i / (features / 2)),
  which stops one short of it. An odd number of features is padded with a zero.
  Always float32. ValueError for fewer than 4 features.
  """
  check_name('noise_embedding', kind, SINUSOIDS)
  half = features // 2
  if half < 2:
    raise ValueError(f'a sinusoidal embedding needs 4 or more, got {features}')
  intervals = half - 1 if kind == 'ho' else half
  frequencies = np.exp(-np.log(max_period) * np.arange(half) / intervals)
  angles = noise.astype(jnp.float32)[:, None] * frequencies[None]
  waves = [jnp.sin(angles), jnp.cos(angles)]
  if kind == 'openai':
    waves.reverse()
  embedding = jnp.concatenate(waves, axis=-1)
  return jnp.pad(embedding, ((0, 0), (0, features % 2)))


def fourier_features(z: Array, start: int = 6, stop: int = 8) -> Array:
  """z, sin(2 pi 2^k z) and cos(2 pi 2^k z), k = start..stop-1, on the channels.

  z: [..., C] -> [..., C (1 + 2 (stop - start))], float32 (Kingma et al. 2021,
  appendix C, who have k = 6, 7 for 256 grey levels: a period of two levels and
  of one).
  """
  z = z.astype(jnp.float32)
  waves = [z]
  for wave in (jnp.sin, jnp.cos):
    for k in range(start, stop):
      periods = 2.0**k * z  # exact, and so is what is left of the last one
      periods -= jax.lax.stop_gradient(jnp.round(periods))
      waves.append(wave(2.0 * np.pi * periods))
  return jnp.concatenate(waves, axis=-1)


class LabelEmbedding(nn.Module):
  """cond['label'] [B] -> [B, features], for classifier-free guidance too.

  With `null_class` there is one more row, used where cond['drop'] [B] is True
  and where no label is given: the unconditional model. Labels outside
  0..num_classes-1 give NaN, so a wrong label cannot pass for another class.
  Rows begin as N(0, 1 / features), or N(0, 1) with initializer 'torch'.
  """

  num_classes: int
  features: int
  null_class: bool = False
  initializer: str = 'ho'
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, cond: dict, batch_size: int) -> Array:
    rows = self.num_classes + self.null_class
    check_name('initializer', self.initializer, INITIALIZERS)
    table_init = nn.linear.default_embed_init  # Ho et al. have no labels
    if self.initializer == 'torch':
      table_init = nn.initializers.normal(1.0)
    table = nn.Embed(
      rows,
      self.features,
      dtype=self.dtype,
      embedding_init=table_init,
      name='table',
    )
    label, drop = cond.get('label'), cond.get('drop')
    if not self.null_class and (label is None or drop is not None):
      raise ValueError(
        "this network has no null class: cond needs 'label' and cannot have "
        "'drop' (train with label dropout to have one)"
      )
    if label is None:
      return table(jnp.full((batch_size,), self.num_classes))
    embedding = table(label)
    known = (label >= 0) & (label < self.num_classes)
    embedding = jnp.where(known[:, None], embedding, jnp.nan)
    if drop is None:
      return embedding
    null = table(jnp.full((batch_size,), self.num_classes))
    return jnp.where(drop[:, None], null, embedding)
