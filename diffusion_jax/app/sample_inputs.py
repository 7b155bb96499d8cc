"""What samples are conditioned on: labels, texts, images."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from diffusion_jax.app import images
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.model import Model
from diffusion_jax.core.keys import abstract_key, stream
from diffusion_jax.data.text import encode
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.per_image import per_image

Shapes = dict[str, tuple[tuple[int, ...], DTypeLike]]  # (shape, dtype)


class ImageConditions(NamedTuple):
  """Images of the test split, and conditions made of them, [N, ...].

  originals: uint8 [N, H, W, C]; image: cond['image']; shown: `image` as a
  picture, in the shape of the originals; labels: the labels of the images, if
  the network takes labels.
  """

  originals: np.ndarray
  shown: np.ndarray
  image: np.ndarray
  labels: np.ndarray | None


class Inputs(NamedTuple):
  """What N samples are conditioned on: cond, arrays [N, ...], texts, images."""

  cond: dict[str, np.ndarray]
  texts: list[str] | None
  images: ImageConditions | None

  def stored(self) -> dict[str, np.ndarray]:
    """Returns the arrays [N, ...] that are stored with the samples."""
    arrays = {}
    if 'label' in self.cond:
      arrays['labels'] = self.cond['label']
    if self.images is not None:
      arrays['conditions'] = self.images.shown
      arrays['originals'] = self.images.originals
    if self.texts:
      arrays['texts'] = np.array(self.texts)
    return arrays


def stored_names(model: Model) -> set[str]:
  """Returns the names of the arrays that samples of a model are stored with."""
  names = {'labels'} if takes_labels(model) else set()
  if images.text_length(model.config):
    names.add('texts')
  if model.conditioning.image is not None:
    names |= {'conditions', 'originals'}
  return names


def choose(model: Model, n: int, mesh: Mesh) -> Inputs:
  """Chooses what the first n samples are conditioned on."""
  pictures = choose_images(model, n, mesh)
  labels = choose_labels(model, n) if pictures is None else pictures.labels
  texts = choose_texts(model, n)
  cond = {
    'label': labels,
    'image': None if pictures is None else pictures.image,
    **encode_texts(model, texts),
  }
  cond = {name: x for name, x in cond.items() if x is not None}
  return Inputs(cond, texts, pictures)


def choose_labels(model: Model, n: int) -> np.ndarray | None:
  """Returns int32 [n]: the labels of config.sampling, or all, in turn."""
  labels = model.config.sampling.labels
  if not labels and not takes_labels(model):
    return None
  labels = labels or range(model.facts.num_classes)
  return repeat_labels(model, labels, n, 'sampling.labels')


def repeat_labels(
  model: Model, labels: Sequence[int], n: int, path: str
) -> np.ndarray:
  """Returns labels in turn, int32 [n]; path: the field they come from."""
  classes = model.facts.num_classes
  if not takes_labels(model):
    raise UserError(
      f'config.{path}: the network of this run takes no labels '
      '(conditioning.labels), and there is no sampling.classifier'
    )
  for label in labels:
    if label >= classes:
      raise UserError(
        f'config.{path}={label} is out of range, the classes are '
        f'0..{classes - 1}'
      )
  return np.resize(np.array(labels, np.int32), n)


def choose_texts(model: Model, n: int) -> list[str] | None:
  """Returns n texts: the prompts in turn, or the texts of real images.

  The real images are `images.unseen`. Returns None if the network reads no
  text.
  """
  prompt = model.config.sampling.prompt
  if not images.text_length(model.config):
    if prompt is not None:
      raise UserError(
        'config.sampling.prompt: the network of this run reads no text '
        '(conditioning.text)'
      )
    return None
  if prompt is None:
    source = images.unseen(model.config)
    with from_config('data'):
      return source.read(np.arange(n) % len(source))['text'].tolist()
  prompts = [part.strip() for part in prompt.split('|')]
  return [prompts[i % len(prompts)] for i in range(n)]


def encode_texts(
  model: Model, texts: list[str] | None
) -> dict[str, np.ndarray]:
  """Encodes N texts as {'text': [N, L], 'text_mask': [N, L]}; {} for None."""
  if texts is None:
    return {}
  with from_config('sampling.prompt'):
    tokens, mask = encode(texts, images.text_length(model.config))
  return {'text': tokens, 'text_mask': mask}


def choose_images(model: Model, n: int, mesh: Mesh) -> ImageConditions | None:
  """Returns n conditions made from test images, or None."""
  config, facts = model.config, model.facts
  condition = model.conditioning.image
  if condition is None:
    return None
  if config.sampling.labels:
    raise UserError(
      'config.sampling.labels: the samples of this run continue test images '
      '(conditioning.image), and have the labels of these'
    )
  source = images.source_of(config, 'test')
  index = np.arange(n)
  with from_config('data'):
    arrays = source.read(index % len(source))
  x0 = facts.x.encode(arrays['x'])
  root = stream(config.sampling.seed, 'sampling_images')
  compute = per_image(
    lambda _, keys, x0: condition(keys, x0), mesh, root, what='the conditions'
  )
  image = compute((), index, x0)
  labels = arrays.get('label') if model.conditioning.labels else None
  # The picture in cond['image'], unknown pixels grey.
  channels = facts.x.shape[-1]
  visible = np.broadcast_to(
    image[..., :channels], (*image.shape[:-1], channels)
  )
  return ImageConditions(
    facts.x.decode(x0), facts.x.decode(visible), image, labels
  )


def shapes(model: Model, size: int) -> Shapes:
  """Returns (shape, dtype) of each array that `size` images depend on."""
  arrays = text_shapes(model.config, size)
  if takes_labels(model):
    arrays['label'] = (size,), jnp.int32
  if model.conditioning.image is not None:
    x0 = jax.ShapeDtypeStruct((size, *model.facts.x.shape), jnp.float32)
    keys = jax.eval_shape(
      lambda key: jax.random.split(key, size), abstract_key()
    )
    image = jax.eval_shape(model.conditioning.image, keys, x0)
    arrays['image'] = image.shape, image.dtype
  return arrays


def text_shapes(config: Node, size: int) -> Shapes:
  """Returns (shape, dtype) of tokens and masks; {} without texts."""
  length = images.text_length(config)
  if not length:
    return {}
  shape = size, length
  return {'text': (shape, jnp.int32), 'text_mask': (shape, jnp.bool_)}


def takes_labels(model: Model) -> bool:
  """Returns whether the network or a classifier is conditioned on labels."""
  classifier = model.config.sampling.get('classifier')
  return model.conditioning.labels or classifier is not None
