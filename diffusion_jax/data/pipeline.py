"""Batch i is a pure function of (source, seed, i).

The data position of a run is its step: nothing about data enters a checkpoint,
and a restarted run sees exactly the batches it would have seen.
"""

import functools
from collections.abc import Iterator

import numpy as np

from diffusion_jax.data.images import scale
from diffusion_jax.data.sources import ArraySource


def batch_at(
  source: ArraySource,
  batch_size: int,
  seed: int,
  step: int,
  random_flip: bool = False,
) -> dict[str, np.ndarray]:
  """Batch number `step`: {'image': float32 [B, H, W, C] in [-1, 1], 'label'}.

  Each epoch is a permutation of its own; a batch may run over into the next.
  random_flip mirrors each image with probability 1/2. Labels, int32 [B], only
  where the source has them.
  """
  place = step * batch_size + np.arange(batch_size)
  epoch, within = np.divmod(place, len(source))
  index = np.empty(batch_size, np.int64)
  for e in np.unique(epoch):
    order = _permutation(len(source), seed, int(e))
    index[epoch == e] = order[within[epoch == e]]
  images = source.images[index]
  if random_flip:
    flip = np.random.default_rng((seed, 1, step)).random(batch_size) < 0.5
    images = np.where(flip[:, None, None, None], images[:, :, ::-1], images)
  batch = {'image': scale(images, source.num_levels)}
  if source.labels is not None:
    batch['label'] = source.labels[index]
  return batch


def batches(
  source: ArraySource,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  random_flip: bool = False,
) -> Iterator[dict[str, np.ndarray]]:
  """batch_at for start_step, start_step + 1, ... without end."""
  step = start_step
  while True:
    yield batch_at(source, batch_size, seed, step, random_flip)
    step += 1


@functools.lru_cache(maxsize=2)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
  return np.random.default_rng((seed, 0, epoch)).permutation(size)
