"""Builds the images of a split, and the batches of a run."""

import numpy as np

from diffusion_jax.build.make import from_config, make, renamed, words
from diffusion_jax.data import (
  image_folder,
  photos,
  pipeline,
  shapes,
  sources,
  tfds_sources,
)
from diffusion_jax.data.text import to_bytes


def _folder(split, image_shape, num_classes, path='', test_fraction=0.0):
  path = _path(path, 'folder')
  labelled = num_classes > 0
  return image_folder.folder(path, split, image_shape, labelled, test_fraction)


def _npz(split, num_classes, path='', test_fraction=0.0):
  path = _path(path, 'file.npz')
  return sources.npz(path, split, num_classes, test_fraction)


def _path(path, what):
  if not path:
    raise ValueError(f'which {what}? Give --config.data.path={what}')
  return path


def _photos(split, image_shape, paths=(), photo_shrink=1, test_fraction=0.0):
  paths = words(paths)
  return photos.photos(paths, split, image_shape, photo_shrink, test_fraction)


def _tfds(
  split,
  image_shape,
  num_classes,
  data_dir,
  tfds_name='',
  train_split='train',
  test_split='test',
):
  if not tfds_name:
    raise ValueError('which set? Give --config.data.tfds_name=name')
  split = train_split if split == 'train' else test_split
  labelled = num_classes > 0
  return tfds_sources.tfds_images(
    tfds_name, split, image_shape, labelled, data_dir
  )


# The constructors of config.data.name: of the images of a split.
SOURCES = {
  'digits': sources.digits,
  'synthetic': sources.synthetic,
  'shapes': shapes.shapes,
  'cifar10': tfds_sources.cifar10,
  'mnist': tfds_sources.mnist,
  'tfds': _tfds,
  'folder': _folder,
  'photos': renamed(_photos, paths='photos'),
  'npz': _npz,
}


def build_source(config, split='train'):
  """Returns the images of a split."""
  c = config.data
  facts = {
    'split': lambda: split,
    'image_shape': lambda: tuple(c.image_shape),
    'num_classes': lambda: c.num_classes,
    'data_dir': lambda: c.data_dir,
  }
  source = make(SOURCES, c, 'data.name', facts)
  with from_config('data'):
    source = with_texts(config, source)
    if c.num_levels == 2 and not config.conditioning.text:
      source = sources.TwoLevels(source)
    wrong = []
    for field in ('image_shape', 'num_classes', 'num_levels'):
      found, chosen = getattr(source, field), c[field]
      if found != (tuple(chosen) if isinstance(found, tuple) else chosen):
        value = ','.join(map(str, np.atleast_1d(found)))
        wrong.append(f'--config.data.{field}={value} (not {chosen})')
    if wrong:
      raise ValueError(f'{c.name} needs {" ".join(wrong)}')
  return source


def with_texts(config, source):
  """Returns the source with its texts, if the network reads text.

  Raises ValueError for a source that has none, or whose texts do not fit.
  """
  if not config.conditioning.text:
    return source
  if config.data.name == 'folder':
    source = image_folder.captioned(source)
    for text in source.texts(np.arange(len(source))):
      to_bytes(text, text_length(config))
  if not hasattr(source, 'texts'):
    raise ValueError(
      f'{config.data.name} has no texts for conditioning.text: shapes has, and '
      'a folder with a metadata.jsonl'
    )
  if config.data.name == 'shapes' and config.data.random_flip:
    raise ValueError("random_flip would make 'on the left' wrong")
  return source


def text_length(config):
  """Returns the number of tokens of a text; 0 for a network without text."""
  c = config.conditioning
  return c.text_length if c.text else 0


def build_batches(config, source, start_step=0, rows=pipeline.ALL):
  """Yields training batches from start_step on; rows: those of this host."""
  c = config
  stream = pipeline.batches(
    source,
    c.training.batch_size,
    c.seed,
    start_step,
    c.data.random_flip,
    rows,
    c.data.num_threads,
    text_length(config),
  )
  with from_config('data'):  # a damaged file is noticed when it is read
    yield from stream
