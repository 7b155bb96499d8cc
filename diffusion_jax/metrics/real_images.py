"""Metrics of a model on real images, a batch at a time, kept in files.

A batch whose file exists is not computed again, so that an interrupted
evaluation continues.
"""

import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from diffusion_jax.aliases import Params
from diffusion_jax.metrics.metric import Arrays, ExampleArrays
from diffusion_jax.runtime import processes
from diffusion_jax.runtime.per_example import join_parts, per_example, write_parts
from diffusion_jax.runtime.streams import stream

# index [n] -> (examples as the source has them, [n, ...], cond)
Read = Callable[[np.ndarray], tuple[np.ndarray, dict[str, np.ndarray]]]


def arrays_of(
  measure: ExampleArrays,
  name: str,
  params: Params,
  read: Read,
  count: int,
  folder: Path,
  mesh: Mesh,
  *,
  encode: Callable[[np.ndarray], np.ndarray],
  seed: int,
  size: int,
  condition: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Arrays | None:
  """Computes a metric's arrays of images 0..count - 1, a file for each batch.

  Arrays [n, T] are summed over the images of a batch, to [1, T]. The result for
  an image depends on seed, name and its index, not on its batch. encode:
  examples -> x0, `ArraySpec.encode`. condition: (keys, x0) -> cond['image'], for
  networks that need it. Files in the folder are kept. Returns the arrays of all
  batches joined in the first process, None in others. Raises ValueError for NaN
  before it is written.
  """
  own = jax.random.fold_in(stream(seed, 'metrics'), zlib.crc32(name.encode()))
  roots = stream(seed, 'evaluation_images'), own

  def function(params, keys, inputs):
    (image_keys, keys), (x0, cond) = keys, inputs
    if condition is not None:  # the bits are given this condition
      cond = cond | {'image': condition(image_keys, x0)}
    return measure(params, keys, x0, cond)

  compute = per_example(function, mesh, roots, min(size, count), what=name)

  def start(index):
    pictures, cond = read(index)
    fetch = compute.start(params, index, (encode(pictures), cond))

    def finish():
      arrays = {n: x if x.ndim == 1 else x.sum(axis=0, keepdims=True) for n, x in fetch().items()}
      if any(np.isnan(values).any() for values in arrays.values()):
        hint = ': try a larger tolerance, or t_min' if name == 'ode' else ''
        raise ValueError(f'{name} is nan on images {index[0]}..{index[-1]}{hint}')
      return arrays

    return finish

  paths = write_parts(start, count, size, folder, name)
  return join_parts(paths) if processes.is_first() else None
