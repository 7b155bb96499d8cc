"""The images of a run: their sources, and the facts that models need."""

from collections.abc import Callable, Iterator

import numpy as np

from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.tree import Node
from diffusion_jax.data import (
  array_record,
  huggingface,
  image_folder,
  pipeline,
  tfds_sources,
  webdataset,
)
from diffusion_jax.data.columns import ColumnSource
from diffusion_jax.data.sources import Facts, Source
from diffusion_jax.data.splits import NoTestSplit
from diffusion_jax.data.text import to_bytes
from diffusion_jax.errors import UserError

# The facts of sets that must be downloaded.
KNOWN: dict[Callable, Facts] = {
  tfds_sources.cifar10: Facts((32, 32, 3), 10, 256),
  tfds_sources.mnist: Facts((28, 28, 1), 10, 256),
}
# Sets whose config states the facts.
STATED = (
  tfds_sources.tfds,
  huggingface.huggingface,
  webdataset.webdataset,
  array_record.array_record,
)


def facts_of(config: Node) -> Facts:
  """Returns the facts that a run has stored, or else the facts of its data.

  The data are not read if the config states the facts.
  """
  if 'facts' in config:
    return config.facts.make()
  section = config.data
  if section is not None and section.constructor in KNOWN:
    return KNOWN[section.constructor]
  if section is not None and section.constructor in STATED:
    return Facts(tuple(section.image_shape), section.num_classes, 256)
  source = source_of(config)
  return Facts(source.image_shape, source.num_classes, source.num_levels)


def source_of(config: Node, split: str = 'train') -> Source:
  """Returns the images of a split, a `Source`.

  Raises UserError if the config has no data, or the network reads texts and the
  data have no texts.
  """
  if config.data is None:
    raise UserError(
      'this config has no data set: give --config.data=digits, for instance'
    )
  source = config.data.make({'split': split})
  if ':' in config.data.name:  # The user's own is checked before it is used.
    with from_config('data'):
      pipeline.examples(source, np.arange(1))
  run = config.get('facts')
  if run is not None and source.image_shape != tuple(run.image_shape):
    raise UserError(
      f'config.data={config.data.name}: images are {source.image_shape}, and '
      f'{tuple(run.image_shape)} in this run'
    )
  text = config.conditioning.text if 'conditioning' in config else None
  if text is None:
    return source
  with from_config('data'):
    return _with_texts(source, text.length, config.training.random_flip)


def _with_texts(source, length, random_flip):
  if isinstance(source, image_folder.FileSource):
    source = image_folder.captioned(source)
    for text in source.texts(np.arange(len(source))):
      to_bytes(text, length)
  elif isinstance(source, ColumnSource):
    to_bytes(source.texts(np.arange(1))[0], length)
  if not hasattr(source, 'texts'):
    raise ValueError(
      'these images have no texts for conditioning.text: data=shapes has, '
      'data=folder with a metadata.jsonl, and huggingface, webdataset and '
      'array_record with data.text_column'
    )
  if random_flip:
    raise ValueError(
      "training.random_flip would make texts such as 'on the left' wrong"
    )
  return source


def unseen(config: Node) -> Source:
  """Returns the test split, or the training split of data without one."""
  try:
    return source_of(config, 'test')
  except UserError as error:
    if not isinstance(error.__cause__, NoTestSplit):
      raise
    return source_of(config)


def text_length(config: Node) -> int:
  """Returns the number of tokens of a text; 0 if the network reads no text."""
  text = config.conditioning.text if 'conditioning' in config else None
  return text.length if text else 0


def batches(
  config: Node, source: Source, start: int, rows: slice = pipeline.ALL
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the training batches from step `start` on; rows: of this process."""
  c = config.training
  stream = pipeline.batches(
    source,
    c.batch_size,
    config.seed,
    start,
    c.random_flip,
    rows,
    c.num_threads,
    text_length(config),
  )
  with from_config('data'):  # a damaged file is noticed when it is read
    yield from stream
