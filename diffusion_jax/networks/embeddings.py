"""Embeddings of noise levels and labels, and further inputs of networks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffusion_jax.networks.inputs import STEP_INPUTS, Inputs, check_not_null
from diffusion_jax.networks.layers import Dense, dense, initializers
from diffusion_jax.networks.options import Checked, Dtype, Initialization, Sinusoids
from diffusion_jax.ranges import Size, check_value

Array = jax.Array


def sinusoidal(
  noise: Array, features: int, max_period: float = 1e4, kind: Sinusoids = 'ho'
) -> Array:
  """Returns sin and cos of f_i noise, f_i geometric from 1: [B] becomes [B, features].

  'ho' (Ho et al. 2020): [sin, cos], the last f_i is 1 / max_period. 'openai'
  (Nichol & Dhariwal 2021): [cos, sin], f_i = max_period^(-i / (features / 2)),
  so the last f_i is above 1 / max_period. An odd number of features is padded
  with a zero. Always float32. noise: [B], or one for each element, [B, T].
  """
  half = features // 2
  if half < 2:
    raise ValueError(f'a sinusoidal embedding needs 4 features or more, not {features}')
  if kind == 'ho':
    intervals, waves = half - 1, (jnp.sin, jnp.cos)
  else:
    check_value('noise_embedding', kind, Sinusoids)
    intervals, waves = half, (jnp.cos, jnp.sin)
  frequencies = np.exp(-np.log(max_period) * np.arange(half) / intervals)
  frequencies = frequencies.astype(np.float32)
  angles = noise.astype(jnp.float32)[..., None] * frequencies.reshape(*[1] * noise.ndim, -1)
  embedding = jnp.concatenate([wave(angles) for wave in waves], axis=-1)
  return jnp.pad(embedding, (*[(0, 0)] * noise.ndim, (0, features % 2)))


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

  There are labels.num_classes rows. With labels.null_class one more stands for
  the unconditional model (classifier-free guidance). It is used where
  cond['drop'] [B] is True, and if cond has no 'label'. Labels outside
  0..num_classes-1 give NaN. Rows begin as N(0, 1 / features), as N(0, 1) with
  initializer 'torch', or as N(0, std^2).
  """

  labels: Inputs
  features: Size
  initializer: Initialization = 'ho'
  dtype: Dtype = jnp.float32
  std: float | None = None

  @nn.compact
  def __call__(self, cond: dict, batch_size: int) -> Array:
    rows = self.labels.num_classes + self.labels.null_class
    table_init = nn.linear.default_embed_init  # Ho et al. have no labels.
    if self.initializer == 'torch':
      table_init = nn.initializers.normal(1.0)
    if self.std is not None:
      table_init = nn.initializers.normal(self.std)
    table = nn.Embed(rows, self.features, embedding_init=table_init, name='table')

    def row(label):
      if rows > MOST_ROWS:
        return table(label).astype(self.dtype)
      one_hot = jax.nn.one_hot(label, rows, dtype=self.dtype)
      weights = table.embedding.astype(self.dtype)
      return jnp.dot(one_hot, weights, precision='highest')  # no rounding

    return labelled(self.labels, cond, row, batch_size)


class LabelLinear(Checked):
  """Maps one-hot(cond['label']) * sqrt(num_classes) linearly to [B, features].

  This is the embedding of Karras et al. 2022. Options are described in
  `LabelEmbedding`. The one-hot vector of the null class is 0, so its embedding
  is the bias.
  """

  labels: Inputs
  features: Size
  initializer: Initialization = 'ho'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, cond: dict, batch_size: int) -> Array:
    classes = self.labels.num_classes
    linear = Dense(
      self.features,
      dtype=self.dtype,
      kernel_init=initializers(self.initializer, classes)[0],
      name='linear',
    )

    def row(label):  # The null class is num_classes, whose one-hot is 0.
      return linear(np.sqrt(classes) * jax.nn.one_hot(label, classes))

    return labelled(self.labels, cond, row, batch_size)


def labelled(labels: Inputs, cond: dict, row: Callable[[Array], Array], batch_size: int) -> Array:
  """Returns row(cond['label']), where hidden or missing labels are num_classes.

  row: function of labels [B] -> [B, features].
  """
  check_not_null(cond, 'label', 'class', labels.null_class)
  label, drop = cond.get('label'), cond.get('drop')
  null = jnp.full(batch_size, labels.num_classes)
  if label is None:
    return row(null)
  known = (label >= 0) & (label < labels.num_classes)
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
      'frequencies', nn.initializers.normal(self.scale), (self.features // 2,), jnp.float32
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


def noise_and_label(h: Array, cond: dict, features: int, inputs: Inputs, **style) -> Array:
  """Returns `noise_layers`, plus the `LabelEmbedding` if there are classes."""
  embedding = noise_layers(h, features, **style)
  if inputs.num_classes:
    embed = LabelEmbedding(inputs, features, **style, name='label_embedding')
    embedding += embed(cond, h.shape[0])
  return embedding


def of_step(
  inputs: Inputs,
  cond: dict,
  waves: int,
  features: int,
  kind: Sinusoids = 'ho',
  dtype: Dtype = jnp.float32,
) -> Array | float:
  """Returns the sum of the embeddings of cond['elapsed'] and 'guidance_scale'.

  Each is sinusoids of `waves` features, dense, swish, dense: [B, features], to
  be added to the embedding of the noise (MeanFlow, Geng et al. 2025). The last
  layer begins at 0, so a new network ignores these inputs. The sum is 0 if
  `inputs` have neither.
  """
  total, zeros = 0.0, nn.initializers.zeros
  for name in STEP_INPUTS:
    if name not in inputs.names:
      continue
    h = sinusoidal(cond[name], waves, kind=kind)
    h = dense(h, features, f'{name}_dense_1', dtype=dtype)
    last = Dense(features, dtype=dtype, kernel_init=zeros, name=f'{name}_dense_2')
    total += last(nn.swish(h))
  return total


def with_inputs(inputs: Inputs, x: Array, cond: dict, context: Array | None = None) -> Array:
  """Appends cond['x0'] and cond['image'] to the channels: [B, H, W, C + ...].

  'x0' is an earlier estimate of x_0, for self-conditioning (Analog Bits, Chen
  et al. 2022). The image is 0 where cond['drop'] [B] is True (Palette, Saharia
  et al. 2022). Both are 0 if they are not given. context: further channels.
  """
  if inputs.self_conditioning:
    x = jnp.concatenate([x, cond.get('x0', jnp.zeros_like(x))], axis=-1)
  if inputs.image_channels:
    x = jnp.concatenate([x, _image(inputs, x, cond)], axis=-1)
  if context is not None:
    x = jnp.concatenate([x, context.astype(x.dtype)], axis=-1)
  return x


def _image(inputs, x, cond):
  # Returns the image, 0 where it is hidden.
  shape = (*x.shape[:-1], inputs.image_channels)
  image = cond.get('image', jnp.zeros(shape, x.dtype))
  if image.shape != shape:
    raise ValueError(
      f"cond['image'] has shape {list(image.shape)}, but the network needs {list(shape)}"
    )
  if cond.get('drop') is not None:
    drop = cond['drop'].reshape(-1, *[1] * (x.ndim - 1))
    image = jnp.where(drop, 0.0, image)
  return image.astype(x.dtype)
