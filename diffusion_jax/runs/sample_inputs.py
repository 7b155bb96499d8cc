"""Chooses what samples are conditioned on: labels, texts, images."""

import functools
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax import build
from diffusion_jax.core.keys import stream
from diffusion_jax.data import images
from diffusion_jax.data.sources import NoTestSplit
from diffusion_jax.data.text import encode
from diffusion_jax.errors import UserError
from diffusion_jax.runs.per_image import per_image


class ImageConditions(NamedTuple):
  """Holds images of the test split, and conditions made of them, [N, ...].

  originals: uint8 [N, H, W, C]; shown: of the same shape, what can be shown of
  `image`, which is cond['image']; labels: of the images, if the network takes
  them.
  """

  originals: np.ndarray
  shown: np.ndarray
  image: np.ndarray
  labels: np.ndarray | None


class Inputs(NamedTuple):
  """Holds cond, arrays [N, ...] by name, the N texts or None, and images."""

  cond: dict[str, np.ndarray]
  texts: list[str] | None
  images: ImageConditions | None


def choose(config, n):
  """Chooses what the first n samples are conditioned on."""
  pictures = choose_images(config, n)
  labels = choose_labels(config, n) if pictures is None else pictures.labels
  texts = choose_texts(config, n)
  cond = {
    'label': labels,
    'image': None if pictures is None else pictures.image,
    **(encode_texts(config, texts) or {}),
  }
  cond = {name: x for name, x in cond.items() if x is not None}
  return Inputs(cond, texts, pictures)


def choose_labels(config, n):
  """Returns int32 [n]: the labels of config.sampling, or all, in turn."""
  if not takes_labels(config):
    if config.sampling.labels:
      raise UserError(
        'config.sampling.labels is set, but the network of this run takes no '
        'labels (conditioning.labels), and no sampling.classifier does'
      )
    return None
  classes = config.data.num_classes
  labels = config.sampling.labels or range(classes)
  for label in labels:
    if not (isinstance(label, int) and 0 <= label < classes):
      raise UserError(
        f'config.sampling.labels: {label!r} is out of range, the classes are '
        f'0..{classes - 1}'
      )
  return np.resize(np.array(labels, np.int32), n)


def choose_texts(config, n):
  """Returns n texts: the prompts in turn, or those of real images.

  Those are of the test split, or of the training split where there is no other.
  None for a network that reads no text.
  """
  prompt = config.sampling.prompt
  if not config.conditioning.text:
    if prompt is not None:
      raise UserError(
        'config.sampling.prompt is set, but the network of this run reads no '
        'text (conditioning.text)'
      )
    return None
  if prompt is None:
    source: Any = unseen_source(config)
    with build.from_config('data'):
      return source.texts(np.arange(n) % len(source))
  prompts = [part.strip() for part in prompt.split('|')]
  return [prompts[i % len(prompts)] for i in range(n)]


def unseen_source(config):
  """Returns the test split, or the training split where there is no other."""
  try:
    return build.build_source(config, 'test')
  except UserError as error:
    if not isinstance(error.__cause__, NoTestSplit):
      raise
    return build.build_source(config, 'train')


def encode_texts(config, texts):
  """Encodes N texts, {'text': [N, L], 'text_mask': [N, L]}; None for None."""
  if texts is None:
    return None
  with build.from_config('sampling.prompt'):
    tokens, mask = encode(texts, build.text_length(config))
  return {'text': tokens, 'text_mask': mask}


def choose_images(config, n):
  """Returns n conditions made of test images; None without such conditions."""
  make = build.build_image_condition(config)
  if make is None:
    return None
  if config.sampling.labels:
    raise UserError(
      'config.sampling.labels is set, but the samples of this run continue '
      'test images (conditioning.image), whose labels they have'
    )
  source = build.build_source(config, 'test')
  index = np.arange(n)
  with build.from_config('data'):
    pictures, labels = source.read(index % len(source))
  x0 = images.scale(pictures, source.num_levels)
  root = stream(config.sampling.seed, 'sampling_images')
  compute = per_image(
    lambda _, keys, x0: make(keys, x0), build.build_mesh(config), root
  )
  image = compute((), index, x0)
  labels = labels if config.conditioning.labels else None
  as_shown = functools.partial(
    images.to_uint8, num_levels=config.data.num_levels
  )
  visible = as_shown(as_picture(config, image))
  return ImageConditions(as_shown(x0), visible, image, labels)


def as_picture(config, image):
  """Returns the picture in cond['image'], [N, H, W, C], unknown pixels grey."""
  shape = *image.shape[:-1], config.data.image_shape[-1]
  return np.broadcast_to(image[..., : shape[-1]], shape)


def takes_labels(config):
  """Returns whether the network or a classifier is conditioned on labels."""
  return config.conditioning.labels or bool(config.sampling.classifier)
