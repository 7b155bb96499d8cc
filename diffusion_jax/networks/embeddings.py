"""Embeddings of noise levels and labels, and further inputs of networks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffusion_jax.networks.initializers import initializers
from diffusion_jax.networks.layers import dense
from diffusion_jax.networks.options import (
  Checked,
  Dtype,
  Initialization,
  Sinusoids,
)
from diffusion_jax.ranges import Size, check_value

Array = jax.Array


def sinusoidal(
  noise: Array, features: int, max_period: float = 1e4, kind: Sinusoids = 'ho'
) -> Array:
  """Returns sin and cos of f_i noise, f_i geometric from 1: [B, features].

  'ho' (Ho et al. 2020): [sin, cos], the last f_i is 1 / max_period. 'openai'
  (Nichol & Dhariwal 2021): [cos, sin], f_i = max_period^(-i / (features / 2)),
  so the last f_i is above 1 / max_period. An odd number of features is padded
  with a zero. Always float32.
  """
  check_value('noise_embedding', kind, Sinusoids)
  half = features // 2
  if half < 2:
    raise ValueError(
      f'a sinusoidal embedding needs 4 features or more, not {features}'
    )
  intervals = half - 1 if kind == 'ho' else half
  frequencies = np.exp(-np.log(max_period) * np.arange(half) / intervals)
  frequencies = frequencies.astype(np.float32)
  angles = noise.astype(jnp.float32)[:, None] * frequencies[None]
  waves = [jnp.sin(angles), jnp.cos(angles)]
  if kind == 'openai':
    waves.reverse()
  embedding = jnp.concatenate(waves, axis=-1)
  return jnp.pad(embedding, ((0, 0), (0, features % 2)))


def fourier_features(z: Array, start: int = 6, stop: int = 8) -> Array:
  """Returns z, sin(2 pi 2^k z) and cos(2 pi 2^k z), k = start..stop-1.

  z: [..., C] -> [..., C (1 + 2 (stop - start))], float32 (Kingma et al. 2021,
  appendix C, who have k = 6, 7). Their 256 grey levels are 2 / 256 apart, half
  a period and one; evenly spaced on [-1, 1] they are 2 / 255 apart, 0.502 and
  1.004 periods.
  """
  z = z.astype(jnp.float32)
  waves = [z]
  for wave in (jnp.sin, jnp.cos):
    for k in range(start, stop):
      # The product is exact, and so is its remainder.
      periods = 2.0**k * z
      periods -= jax.lax.stop_gradient(jnp.round(periods))
      waves.append(wave(2.0 * np.pi * periods))
  return jnp.concatenate(waves, axis=-1)


# The gradient of a table's row is a sum of updates in any order on GPUs, one
# after another where labels repeat. A product with one-hot vectors is faster
# for a few rows, and always the same.
MOST_ROWS = 1024


class LabelEmbedding(Checked):
  """Embeds cond['label'] [B] as [B, features].

  With `null_class` one more row stands for the unconditional model
  (classifier-free guidance). It is used where cond['drop'] [B] is True, and if
  cond has no 'label'. Labels outside 0..num_classes-1 give NaN. Rows begin as
  N(0, 1 / features), as N(0, 1) with initializer 'torch', or as N(0, std^2).
  """

  num_classes: Size
  features: Size
  null_class: bool = False
  initializer: Initialization = 'ho'
  dtype: Dtype = jnp.float32
  std: float | None = None

  @nn.compact
  def __call__(self, cond: dict, batch_size: int) -> Array:
    rows = self.num_classes + self.null_class
    table_init = nn.linear.default_embed_init  # Ho et al. have no labels.
    if self.initializer == 'torch':
      table_init = nn.initializers.normal(1.0)
    if self.std is not None:
      table_init = nn.initializers.normal(self.std)
    table = nn.Embed(
      rows,
      self.features,
      dtype=self.dtype,
      embedding_init=table_init,
      name='table',
    )

    def row(label):
      if rows > MOST_ROWS:
        return table(label)
      one_hot = jax.nn.one_hot(label, rows, dtype=self.dtype)
      weights = table.embedding.astype(self.dtype)
      return jnp.dot(one_hot, weights, precision='highest')  # no rounding

    return labelled(self, cond, row, jnp.full(batch_size, self.num_classes))


class LabelLinear(Checked):
  """Maps one-hot(cond['label']) * sqrt(num_classes) linearly to [B, features].

  This is the embedding of Karras et al. 2022. Options are described in
  `LabelEmbedding`. The one-hot vector of the null class is 0, so its embedding
  is the bias.
  """

  num_classes: Size
  features: Size
  null_class: bool = False
  initializer: Initialization = 'ho'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, cond: dict, batch_size: int) -> Array:
    linear = nn.Dense(
      self.features,
      dtype=self.dtype,
      kernel_init=initializers(self.initializer, self.num_classes)[0],
      name='linear',
    )

    def row(label):  # The null class is num_classes, whose one-hot is 0.
      one_hot = jax.nn.one_hot(label, self.num_classes)
      return linear(np.sqrt(self.num_classes) * one_hot)

    return labelled(self, cond, row, jnp.full(batch_size, self.num_classes))


def check_not_null(cond: dict, name: str, what: str, has_null: bool) -> None:
  """Raises ValueError if `name` is missing or hidden without a null row."""
  if not has_null and (cond.get(name) is None or cond.get('drop') is not None):
    raise ValueError(
      f"the network has no null {what}: cond needs '{name}' and must not "
      f"contain 'drop' (train with label dropout to get a null {what})"
    )


def labelled(
  module: nn.Module,
  cond: dict,
  row: Callable[[Array], Array],
  null: Array,
) -> Array:
  """Returns row(cond['label']), or row(null) for hidden and missing labels.

  row: function of labels [B] -> [B, features]. null: [B], the null class.
  module: a module with the fields num_classes and null_class.
  """
  check_not_null(cond, 'label', 'class', module.null_class)
  label, drop = cond.get('label'), cond.get('drop')
  if label is None:
    return row(null)
  known = (label >= 0) & (label < module.num_classes)
  if drop is not None:
    label, known = jnp.where(drop, null, label), known | drop
  return jnp.where(known[:, None], row(label), jnp.nan)


class FourierEmbedding(nn.Module):
  """Computes [sin, cos] of 2 pi f_i noise, [B, features], float32.

  The f_i ~ N(0, scale^2) are parameters that are not trained (Song et al. 2021,
  NCSN++).
  """

  features: int
  scale: float = 16.0

  @nn.compact
  def __call__(self, noise: Array) -> Array:
    frequencies = self.param(
      'frequencies',
      nn.initializers.normal(self.scale),
      (self.features // 2,),
      jnp.float32,
    )
    frequencies = jax.lax.stop_gradient(frequencies)
    angles = noise.astype(jnp.float32)[:, None] * frequencies[None]
    angles *= 2.0 * np.pi
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def noise_layers(h: Array, features: int, **style) -> Array:
  """Returns the embedding of the noise, [B, features]: dense, swish, dense.

  The submodules of the caller are noise_dense_1 and noise_dense_2. Every
  residual block applies the swish after the second.
  """
  for i in range(2):
    h = nn.swish(h) if i else h
    h = dense(h, features, f'noise_dense_{i + 1}', **style)
  return h


def noise_and_label(
  h: Array,
  cond: dict,
  features: int,
  num_classes: int,
  null_class: bool,
  **style,
) -> Array:
  """Returns `noise_layers`, plus the `LabelEmbedding` if there are classes."""
  embedding = noise_layers(h, features, **style)
  if num_classes:
    embedding += LabelEmbedding(
      num_classes, features, null_class, **style, name='label_embedding'
    )(cond, len(h))
  return embedding


# The inputs of flow maps, and the fields of a network that add them.
STEP_INPUTS = {'elapsed': 'elapsed', 'guidance_scale': 'guidance_input'}


def of_step(
  module: nn.Module,
  cond: dict,
  waves: int,
  features: int,
  kind: Sinusoids = 'ho',
) -> Array | float:
  """Returns the sum of the embeddings of cond['elapsed'] and 'guidance_scale'.

  Each is sinusoids of `waves` features, dense, swish, dense: [B, features], to
  be added to the embedding of the noise (MeanFlow, Geng et al. 2025). The last
  layer begins at 0, so a new network ignores these inputs. The fields `elapsed`
  and `guidance_input` of module select them; the sum is 0 without both.
  """
  total, zeros = 0.0, nn.initializers.zeros
  for name, field in STEP_INPUTS.items():
    if not getattr(module, field):
      continue
    h = sinusoidal(cond[name], waves, kind=kind)
    h = dense(h, features, f'{name}_dense_1', dtype=module.dtype)
    last = nn.Dense(
      features,
      dtype=module.dtype,
      kernel_init=zeros,
      name=f'{name}_dense_2',
    )
    total += last(nn.swish(h))
  return total


def with_inputs(module: nn.Module, x: Array, cond: dict) -> Array:
  """Appends the estimate and the image that the fields of module select."""
  if module.self_conditioning:
    x = with_estimate(x, cond)
  if module.image_channels:
    x = with_image(x, cond, module.image_channels)
  return x


def with_estimate(x: Array, cond: dict) -> Array:
  """Appends cond['x0'], zeros by default, to the channels: [B, H, W, 2C].

  cond['x0'] is an earlier estimate of x_0, for self-conditioning (Analog Bits,
  Chen et al. 2022).
  """
  return jnp.concatenate([x, cond.get('x0', jnp.zeros_like(x))], axis=-1)


def with_image(x: Array, cond: dict, channels: int) -> Array:
  """Appends cond['image'] to the channels: [B, H, W, C + channels].

  The image is 0 where cond['drop'] [B] is True, and if cond has no 'image'
  (Palette, Saharia et al. 2022).
  """
  shape = (*x.shape[:-1], channels)
  image = cond.get('image', jnp.zeros(shape, x.dtype))
  if image.shape != shape:
    raise ValueError(
      f"cond['image'] has shape {list(image.shape)}, but the network needs "
      f'{list(shape)}'
    )
  if cond.get('drop') is not None:
    drop = cond['drop'].reshape(-1, *[1] * (x.ndim - 1))
    image = jnp.where(drop, 0.0, image)
  return jnp.concatenate([x, image.astype(x.dtype)], axis=-1)


# Conditions, and the fields of a network that allow them.
CONDITIONS = STEP_INPUTS | {
  'label': 'num_classes',
  'text': 'text_width',
  'text_mask': 'text_width',
  'image': 'image_channels',
  'x0': 'self_conditioning',
  'augment': 'augment_dim',
}


def check_given(module: nn.Module, cond: dict, *others: str) -> None:
  """Raises ValueError for unknown conditions and for missing `STEP_INPUTS`.

  The fields of module select the known conditions (`CONDITIONS`), and others
  names further ones. 'drop' is known with labels, texts and images.
  """
  known = {c for c, field in CONDITIONS.items() if getattr(module, field, 0)}
  if known & {'label', 'text', 'image'}:
    known.add('drop')
  for name in STEP_INPUTS:
    if name in known and name not in cond:
      raise ValueError(
        f"the network needs cond['{name}'] [B], as it was trained with it"
      )
  unknown = set(cond) - known - {*others}
  if unknown:
    raise ValueError(f'the network has no condition {sorted(unknown)}')
