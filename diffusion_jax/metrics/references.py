"""Features of real images and of samples, kept in files between evaluations."""

import contextlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from diffusion_jax.aliases import Json
from diffusion_jax.data import image_sets, sums
from diffusion_jax.data.image_sets import ImageSet
from diffusion_jax.data.sources import Source, content_sum, in_batches
from diffusion_jax.metrics import features, fid
from diffusion_jax.metrics.features import Extractor
from diffusion_jax.metrics.metric import EXTRACTED, Arrays
from diffusion_jax.paths import cache_folder
from diffusion_jax.runtime.files import write_npz

# Images whose features are kept, for metrics by neighbours and kernels; the
# statistics are over all images.
LIMIT = 50_000


def load(
  source: Source, about: Mapping[str, object], extractor: Extractor, batch_size: int = 64
) -> tuple[Arrays, Json]:
  """Returns the features and statistics of a source, and their protocol.

  They come from the cache if they are in it. about: identifies the source;
  the protocol adds its size, its `content_sum`, the preprocessing and the
  weights, and its hash is the name of the file.
  """
  protocol = describe(source, about, extractor)
  path = folder() / f'{sums.of_json(protocol)}.npz'
  arrays = load_or_compute(path, protocol, lambda: compute(source, extractor, batch_size))
  return arrays, protocol


def extract(
  extractor: Extractor, samples: ImageSet, path: Path, about: Mapping[str, object], batch_size: int
) -> Arrays:
  """Returns the features of samples, from the file `path` if it has them.

  about: the facts that the images depend on, as read from JSON.
  """
  protocol = {**extractor.identity, 'samples': about}
  title = extractor.identity['features']
  return load_or_compute(
    path, protocol, lambda: features.of_images(extractor, samples, batch_size, title)
  )


def load_or_compute(path: Path, protocol: Json, compute: Callable[[], Arrays]) -> Arrays:
  """Returns the arrays of a file with this protocol, or else of compute().

  The file is then written; a warning says that it cannot be.
  """
  with contextlib.suppress(OSError, ValueError):  # missing or damaged
    found = image_sets.read(path, EXTRACTED)
    if found.protocol == protocol:
      return found.arrays
  arrays = compute()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_npz(path, {**arrays, 'protocol': json.dumps(protocol)})
  except OSError as error:
    warnings.warn(f'features are not kept: {error}', stacklevel=2)
  return arrays


def describe(source: Source, about: Mapping[str, object], extractor: Extractor) -> Json:
  """Returns the facts that the features of a source depend on."""
  return {**about, 'images': len(source), 'checksum': content_sum(source), **extractor.identity}


def as_written(source: Source, x: np.ndarray) -> np.ndarray:
  """Returns a source's examples as files of samples have them."""
  values = source.facts.x
  return values.decode(values.encode(x)) if values.levels else x


def compute(source: Source, extractor: Extractor, batch_size: int) -> dict[str, np.ndarray]:
  """Returns the features of LIMIT images, and the statistics of all images."""
  chosen = np.zeros(len(source), bool)
  chosen[kept_rows(len(source))] = True
  moments = dict.fromkeys(fid.STATISTICS, fid.Moments())
  kept, start = [], 0
  with tqdm(total=len(source), desc='reference', unit='image', disable=None) as bar:
    read = in_batches(source, batch_size)
    batches = (as_written(source, x) for x in read)
    for extracted in features.each(extractor, batches, bar.update):
      count = len(extracted['features'])
      for name in moments.keys() & extracted.keys():
        moments[name] = fid.add(moments[name], extracted[name])
      kept.append(extracted['features'][chosen[start : start + count]])
      start += count
  statistics = {n: fid.statistics(x) for n, x in moments.items() if x.count}
  return {'features': np.concatenate(kept), **fid.as_arrays(statistics)}


def classes(source: Source, extractor: Extractor, batch_size: int) -> np.ndarray:
  """Returns a judge's class of each of the images whose features `compute` returns, [M]."""
  batches = (as_written(source, x) for x in in_batches(source, batch_size))
  found = features.join(features.each(extractor, batches))
  return found['predicted'][kept_rows(len(source))]


def kept_rows(size: int) -> np.ndarray:
  """Returns the rows of a source of this size whose features `compute` returns, ascending."""
  return np.sort(np.random.default_rng(0).permutation(size)[:LIMIT])


def folder() -> Path:
  """Returns the folder of the cache, $XDG_CACHE_HOME/diffusion_jax/features."""
  return cache_folder() / 'features'
