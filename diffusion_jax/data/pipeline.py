"""Batches of images: batch i is a pure function of (source, seed, i).

The step of a run is its position in the data: checkpoints store nothing about
the data, and a restarted run continues with the same batches. Each of several
hosts reads its rows of the global batch, which is the same for any number of
hosts.
"""

import functools
import itertools
import sys
from collections.abc import Iterator

import numpy as np

from diffusion_jax.data.images import scale
from diffusion_jax.data.sources import Source, check_images, texts_of
from diffusion_jax.data.text import encode

ALL = slice(None)


def batch_at(
  source: Source,
  batch_size: int,
  seed: int,
  step: int,
  random_flip: bool = False,
  rows: slice = ALL,
  text_length: int = 0,
) -> dict[str, np.ndarray]:
  """Returns batch `step`: {'image': float32 [B, H, W, C] in [-1, 1], 'label'}.

  Each epoch has its own permutation, which an `OrderedSource` draws itself, and
  its own images of a `RedrawnSource`; a batch may extend into the next epoch.
  random_flip mirrors each image with probability 1/2. 'label', int32 [B], is
  present if the source has labels. `rows` selects the rows that are read. With
  text_length, a `TextSource` also gives 'text' and 'text_mask', [B,
  text_length].
  """
  place = (step * batch_size + np.arange(batch_size))[rows]
  epoch, within = np.divmod(place, len(source))
  index = np.empty(len(place), np.int64)
  draw = getattr(source, 'order', None)
  for e in np.unique(epoch):
    order = _permutation(len(source), seed, int(e), draw)
    index[epoch == e] = order[within[epoch == e]]
  redrawn = getattr(source, 'redrawn', None)
  drawn = redrawn(seed, epoch) if redrawn else source
  images, cond = examples(drawn, index, text_length)
  if random_flip:
    flip = np.random.default_rng((seed, 1, step)).random(batch_size)[rows] < 0.5
    images = mirrored(images, flip)
  return {'image': scale(images, source.num_levels)} | cond


def examples(
  source: Source, index: np.ndarray, text_length: int = 0
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Returns (images uint8 [n, H, W, C], {'label', 'text', 'text_mask'}).

  The entries are [n, ...], and absent without labels and for text_length 0.
  Raises ValueError for images of another type, such as float32.
  """
  images, labels = source.read(index)
  check_images(images)
  cond = {} if labels is None else {'label': labels}
  if text_length:
    texts = texts_of(source, index)
    cond['text'], cond['text_mask'] = encode(texts, text_length)
  return images, cond


def mirrored(images: np.ndarray, flip: np.ndarray) -> np.ndarray:
  """Returns images [B, H, W, C], mirrored in width where flip [B] is True."""
  images = images.copy()  # The array may belong to the source.
  # `take` copies pixels several times as fast as a negative step does.
  columns = np.arange(images.shape[2])[::-1]
  images[flip] = np.take(images[flip], columns, axis=2)
  return images


def batches(
  source: Source,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  random_flip: bool = False,
  rows: slice = ALL,
  num_threads: int = 8,
  text_length: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields `batch_at` for start_step, start_step + 1, ... without end.

  If the source is on disk, num_threads threads read ahead, one batch each.
  """

  def read(step):
    return batch_at(
      source, batch_size, seed, step, random_flip, rows, text_length
    )

  if source.in_memory:
    yield from map(read, itertools.count(start_step))
    return
  import grain

  ahead = grain.ReadOptions(
    num_threads=num_threads, prefetch_buffer_size=num_threads
  )
  steps = grain.MapDataset.range(start_step, sys.maxsize)
  stream = iter(steps.map(read).to_iter_dataset(ahead))
  try:
    yield from stream
  finally:
    stream.close()


# Two epochs of training and one of the test split are needed at once.
@functools.lru_cache(maxsize=3)
def _permutation(size, seed: int, epoch: int, draw) -> np.ndarray:
  rng = np.random.default_rng((seed, 0, epoch))
  return draw(rng) if draw else rng.permutation(size)
