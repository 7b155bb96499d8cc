"""Batches of examples: batch i is a pure function of (source, seed, i).

The step of a run is its position in the data: checkpoints store nothing about
the data, and a restarted run continues with the same batches. Each of several
hosts reads its rows of the global batch, which is the same for any number of
hosts.
"""

import contextlib
import functools
import itertools
import sys
from collections.abc import Iterator

import numpy as np

from diffusion_jax.data.sources import Source, check_examples, order_of, redrawn
from diffusion_jax.data.spec import Facts, valid_of
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
  facts: Facts | None = None,
) -> dict[str, np.ndarray]:
  """Returns batch `step`: {'x': float32 [B, ...], 'label', 'context', 'text', 'valid'}.

  Each epoch has its own permutation, which a source with an order draws itself,
  and its own examples of a source that is redrawn; a batch may extend into the
  next epoch. facts encode x, levels to [-1, 1], and the context; None: the source's.
  random_flip mirrors each picture with probability 1/2. `rows` selects the rows
  that are read. See `examples` for the other entries.
  """
  place = (step * batch_size + np.arange(batch_size))[rows]
  epoch, within = np.divmod(place, len(source))
  index = np.empty(len(place), np.int64)
  draw = order_of(source)
  for e in np.unique(epoch):
    order = _permutation(len(source), seed, int(e), draw)
    index[epoch == e] = order[within[epoch == e]]
  x, cond = examples(redrawn(source, seed, epoch), index, text_length, facts)
  if random_flip:
    flip = np.random.default_rng((seed, 1, step)).random(batch_size)[rows] < 0.5
    x = mirrored(x, flip)
  return {'x': (facts or source.facts).x.encode(x)} | cond


def examples(
  source: Source, index: np.ndarray, text_length: int = 0, facts: Facts | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Returns (x as the source has it, {'label', 'context', 'text', 'valid'}).

  The entries are [n, ...]; a source may lack them. facts encode the context. 'valid' [n, T]
  is False at what pads examples with lengths, where x is 0.
  Texts become 'text' and 'text_mask', [n, text_length], and are left out for 0.
  Raises ValueError for arrays that do not fit the source's facts.
  """
  arrays = check_examples(source.read(index), source.facts)
  cond = {n: arrays[n] for n in ('label', 'context') if n in arrays}
  if source.facts.lengths:
    cond['valid'] = valid_of(arrays['length'], arrays['x'].shape[1])
  context = (facts or source.facts).context
  if context is not None and 'context' in cond:
    cond['context'] = context.encode(cond['context'])
  if text_length:
    cond['text'], cond['text_mask'] = encode([*arrays['text']], text_length)
  return arrays['x'], cond


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
  facts: Facts | None = None,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields `batch_at` for start_step, start_step + 1, ... without end.

  If the source is on disk, num_threads threads read ahead, one batch each.
  """

  def read(step):
    return batch_at(
      source,
      batch_size,
      seed,
      step,
      random_flip=random_flip,
      rows=rows,
      text_length=text_length,
      facts=facts,
    )

  if source.in_memory:
    yield from map(read, itertools.count(start_step))
    return
  import grain

  ahead = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads)
  steps = grain.MapDataset.range(start_step, sys.maxsize)
  stream = iter(steps.map(read).to_iter_dataset(ahead))
  with contextlib.closing(stream):
    yield from stream


# Two epochs of training and one of the test split are needed at once.
@functools.lru_cache(maxsize=3)
def _permutation(size, seed: int, epoch: int, draw) -> np.ndarray:
  rng = np.random.default_rng((seed, 0, epoch))
  return draw(rng) if draw else rng.permutation(size)
