"""What samples are made of: labels, texts, images that the network is told."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from diffusion_jax.core.keys import fold_in_each, stream
from diffusion_jax.data import images
from diffusion_jax.data.sources import NoTestSplit
from diffusion_jax.data.text import encode
from diffusion_jax.errors import UserError
from diffusion_jax import build


def choose_labels(config):
  """Labels of the images to sample, int32 [N]: those asked for, in turn."""
  if not asks_for_labels(config):
    if config.sampling.labels:
      raise UserError(
        'config.sampling.labels is set, but the network of this run knows no '
        'labels (conditioning.labels), and no sampling.classifier does'
      )
    return None
  classes = config.data.num_classes
  wanted = config.sampling.labels or range(classes)
  for label in wanted:
    if not (isinstance(label, int) and 0 <= label < classes):
      raise UserError(
        f'config.sampling.labels: {label!r} is out of range, the classes are '
        f'0..{classes - 1}'
      )
  labels = np.resize(np.array(wanted, np.int32), config.sampling.num_samples)
  return labels


def choose_texts(config, n):
  """What n images should show: the prompts in turn, or texts of real images.

  Those are of the test split, or of the training split where that is all there
  is. None if the network reads none.
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
    source = unseen_source(config)
    with build.from_config('data'):
      return source.texts(np.arange(n) % len(source))
  prompts = [part.strip() for part in prompt.split('|')]
  return [prompts[i % len(prompts)] for i in range(n)]


def unseen_source(config):
  """The test split, or the training split where that is all there is."""
  try:
    return build.build_source(config, 'test')
  except UserError as error:
    if not isinstance(error.__cause__, NoTestSplit):
      raise
    return build.build_source(config, 'train')


def encode_texts(config, texts):
  """N texts -> cond, {'text': [N, L], 'text_mask': [N, L]}; None for None."""
  if texts is None:
    return None
  with build.from_config('sampling.prompt'):
    tokens, mask = encode(texts, build.text_length(config))
  return {'text': tokens, 'text_mask': mask}


class Told(NamedTuple):
  """Images of the test split, and what a network is told of them, [N, ...].

  originals and given: uint8 [N, H, W, C], given being what can be shown of
  image, cond['image']; labels: of the images, if the network is told of them.
  """

  originals: np.ndarray
  given: np.ndarray
  image: np.ndarray
  labels: np.ndarray | None


def choose_images(config):
  """The first test images as conditions of the samples; None without such."""
  make = build.build_image_condition(config)
  if make is None:
    return None
  if config.sampling.labels:
    raise UserError(
      'config.sampling.labels is set, but the samples of this run continue '
      'test images (conditioning.image), whose labels they have'
    )
  source = build.build_source(config, 'test')
  index = np.arange(config.sampling.num_samples)
  with build.from_config('data'):
    pictures, labels = source.read(index % len(source))
  x0 = images.scale(pictures, source.num_levels)
  keys = fold_in_each(stream(config.sampling.seed, 'sampling_images'), index)
  image = np.asarray(jax.jit(make)(keys, x0))
  labels = labels if config.conditioning.labels else None
  as_shown = functools.partial(
    images.to_uint8, num_levels=config.data.num_levels
  )
  return Told(as_shown(x0), as_shown(shown(config, image)), image, labels)


def shown(config, image):
  """The picture in cond['image'], [N, H, W, C]; unknown pixels are grey."""
  shape = *image.shape[:-1], config.data.image_shape[-1]
  return np.broadcast_to(image[..., : shape[-1]], shape)


def asks_for_labels(config):
  """Whether images of a class are made, by the network or a classifier."""
  return config.conditioning.labels or bool(config.sampling.classifier)
