"""Batch i is a pure function of (source, seed, i).

The data position of a run is its step: nothing about data enters a checkpoint,
and a restarted run sees exactly the batches it would have seen. A host of
several reads its rows of the global batch, which does not depend on how many
hosts there are.
"""

import functools
import itertools
import sys
from collections.abc import Iterator
from typing import cast

import numpy as np

from diffusion_jax.data.images import scale
from diffusion_jax.data.sources import Source, TextSource
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
  """Batch number `step`: {'image': float32 [B, H, W, C] in [-1, 1], 'label'}.

  Each epoch is a permutation of its own; a batch may run over into the next.
  random_flip mirrors each image with probability 1/2. Labels, int32 [B], only
  where the source has them. With `rows`, those rows of it: only they are read.
  With text_length 'text' and 'text_mask', [B, text_length], of a `TextSource`.
  """
  place = (step * batch_size + np.arange(batch_size))[rows]
  epoch, within = np.divmod(place, len(source))
  index = np.empty(len(place), np.int64)
  for e in np.unique(epoch):
    order = _permutation(len(source), seed, int(e))
    index[epoch == e] = order[within[epoch == e]]
  images, labels = source.read(index)
  if random_flip:
    flip = np.random.default_rng((seed, 1, step)).random(batch_size)[rows] < 0.5
    images = np.where(flip[:, None, None, None], images[:, :, ::-1], images)
  batch = {'image': scale(images, source.num_levels)}
  if labels is not None:
    batch['label'] = labels
  if text_length:
    texts = cast(TextSource, source).texts(index)
    batch['text'], batch['text_mask'] = encode(texts, text_length)
  return batch


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
  """batch_at for start_step, start_step + 1, ... without end.

  A source on disk is read ahead by num_threads threads, a batch each.
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


@functools.lru_cache(maxsize=3)  # two epochs of training, one of the test split
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
  return np.random.default_rng((seed, 0, epoch)).permutation(size)
