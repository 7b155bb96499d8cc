"""Numbers and labels -> vectors."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

Array = jax.Array


def sinusoidal(noise: Array, features: int, max_period: float = 1e4) -> Array:
  """[sin(f_i noise), cos(f_i noise)], f_i from 1 to 1 / max_period: [B, F].

  Frequencies are geometric with F/2 - 1 intervals, as in Ho et al. 2020. An odd
  number of features is padded with a zero. Always float32.
  """
  half = features // 2
  if half < 2:
    raise ValueError(f'a sinusoidal embedding needs 4 or more, got {features}')
  frequencies = np.exp(-np.log(max_period) * np.arange(half) / (half - 1))
  angles = noise.astype(jnp.float32)[:, None] * frequencies[None]
  embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
  return jnp.pad(embedding, ((0, 0), (0, features % 2)))


class LabelEmbedding(nn.Module):
  """cond['label'] [B] -> [B, features], for classifier-free guidance too.

  With `null_class` there is one more row, used where cond['drop'] [B] is True
  and where no label is given: the unconditional model. Labels outside
  0..num_classes-1 give NaN, so a wrong label cannot pass for another class.
  """

  num_classes: int
  features: int
  null_class: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, cond: dict, batch_size: int) -> Array:
    rows = self.num_classes + self.null_class
    table = nn.Embed(rows, self.features, dtype=self.dtype, name='table')
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
