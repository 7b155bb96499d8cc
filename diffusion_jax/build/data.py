"""config -> images of a split, and the batches of a run."""

import numpy as np

from diffusion_jax.data import (
  image_folder,
  photos,
  pipeline,
  shapes,
  sources,
  tfds_sources,
)
from diffusion_jax.data.text import to_bytes
from diffusion_jax.build.make import choose, from_config, words


def _path(c, what):
  if not c.path:
    raise ValueError(f'which {what}? Give --config.data.path={what}')
  return c.path


def _catalogue(c, split):
  if not c.tfds_name:
    raise ValueError('which set? Give --config.data.tfds_name=name')
  return tfds_sources.tfds_images(
    c.tfds_name,
    c.train_split if split == 'train' else c.test_split,
    tuple(c.image_shape),
    c.num_classes > 0,
    c.data_dir,
  )


SOURCES = {
  'digits': lambda c, split: sources.digits(split),
  'synthetic': lambda c, split: sources.synthetic(
    split, tuple(c.image_shape), c.num_classes
  ),
  'shapes': lambda c, split: shapes.shapes(
    split, tuple(c.image_shape), c.num_pictures, c.num_objects
  ),
  'cifar10': lambda c, split: tfds_sources.cifar10(split, c.data_dir),
  'mnist': lambda c, split: tfds_sources.mnist(split, c.data_dir),
  'tfds': _catalogue,
  'folder': lambda c, split: image_folder.folder(
    _path(c, 'folder'),
    split,
    tuple(c.image_shape),
    c.num_classes > 0,
    c.test_fraction,
  ),
  'photos': lambda c, split: photos.photos(
    words(c.photos),
    split,
    tuple(c.image_shape),
    c.photo_shrink,
    c.test_fraction,
  ),
  'npz': lambda c, split: sources.npz(
    _path(c, 'file.npz'), split, c.num_classes, c.test_fraction
  ),
}


def build_source(config, split='train'):
  """config.data -> the images of a split."""
  c = config.data
  build = choose(SOURCES, 'data', 'name', c.name)
  with from_config('data'):
    source = with_texts(config, build(c, split))
    if c.num_levels == 2 and not config.conditioning.text:
      source = sources.TwoLevels(source)
    wrong = []
    for field in ('image_shape', 'num_classes', 'num_levels'):
      found, said = getattr(source, field), c[field]
      if found != (tuple(said) if isinstance(found, tuple) else said):
        value = ','.join(map(str, np.atleast_1d(found)))
        wrong.append(f'--config.data.{field}={value} (not {said})')
    if wrong:
      raise ValueError(f'{c.name} needs {" ".join(wrong)}')
  return source


def with_texts(config, source):
  """The source with its texts, if the config asks for them; or ValueError."""
  if not config.conditioning.text:
    return source
  if config.data.name == 'folder':
    source = image_folder.captioned(source)
    for text in source.texts(range(len(source))):
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
  """Tokens of a text; 0 without."""
  c = config.conditioning
  return c.text_length if c.text else 0


def build_batches(config, source, start_step=0, rows=pipeline.ALL):
  """Training batches from start_step on, without end; rows: of this host."""
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
