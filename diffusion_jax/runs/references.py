"""Features of real images, kept in a cache between evaluations."""

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
from tqdm import tqdm

from diffusion_jax import build
from diffusion_jax.data import images, sources
from diffusion_jax.metrics import features, fid, image_sets
from diffusion_jax.metrics.features import Extractor
from diffusion_jax.metrics.scores import Described
from diffusion_jax.runs import run_folder, user_cache
from diffusion_jax.training import checksums

# Images whose features are kept, for measures by neighbours and kernels; the
# statistics are those of all images.
LIMIT = 50_000


def load(config, extractor: Extractor, split: str) -> tuple[Described, dict]:
  """Returns the features of a split with their protocol, from the cache or new.

  The protocol is what they depend on: data, split, preprocessing and weights;
  its hash is the name of the file.
  """
  source = build.build_source(config, split)
  protocol = describe(config, source, split, extractor)
  path = folder() / f'{digest(protocol)}.npz'
  found = _read(path, protocol)
  if found is None:
    found = compute(config, source, extractor)
    _write(path, found, protocol)
  return found, protocol


def describe(config, source, split, extractor) -> dict:
  """Returns what features of a split depend on, with a checksum of images."""
  index = np.linspace(0, len(source) - 1, min(64, len(source))).astype(int)
  with build.from_config('data'):
    some = source.read(index)[0]
  data = run_folder.plain(config)['data']
  free = 'data_dir', 'num_threads', 'random_flip', 'num_classes'
  return {
    'data': {n: x for n, x in data.items() if n not in free and x is not None},
    'split': split,
    'images': len(source),
    'checksum': checksums.of_arrays(some),
    **extractor.identity,
  }


def compute(config, source, extractor) -> Described:
  """Computes the features of all images, and keeps those of LIMIT of them."""
  size = config.evaluation.batch_size
  order = np.random.default_rng(0).permutation(len(source))
  chosen = np.zeros(len(source), bool)
  chosen[order[:LIMIT]] = True
  moments = {'features': fid.Moments(), 'spatial': fid.Moments()}
  kept, start = [], 0
  with tqdm(
    total=len(source), desc='reference', unit='image', disable=None
  ) as bar:
    batches = real_images(config, source, size)
    for found in features.each(extractor, batches, bar.update):
      count = len(found['features'])
      for name in moments.keys() & found.keys():
        moments[name] = fid.add(moments[name], found[name])
      kept.append({
        name: x[chosen[start : start + count]]
        for name, x in found.items()
        if name == 'features'
      })  # fmt: skip
      start += count
  spatial = moments['spatial']
  return Described(
    features.join(kept),
    statistics=fid.statistics(moments['features']),
    spatial=fid.statistics(spatial) if spatial.count else None,
  )


def real_images(config, source, size):
  """Yields the images of a source in batches, uint8 with levels 0..255."""
  levels = config.data.num_levels
  for start in range(0, len(source), size):
    index = np.arange(start, min(start + size, len(source)))
    with build.from_config('data'):
      pictures = source.read(index)[0]
    yield images.to_uint8(images.scale(pictures, levels), levels)


def folder() -> Path:
  """Returns the folder of the cache, $XDG_CACHE_HOME/diffusion_jax/features."""
  return user_cache.folder() / 'features'


def digest(protocol: dict) -> str:
  """Returns the name that a protocol has in the cache."""
  text = json.dumps(protocol, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:24]


def _read(path, protocol):
  # Returns the content of a file of the cache; None for a damaged one.
  try:
    found = image_sets.read(path)
  except (OSError, ValueError, *sources.UNREADABLE):
    return None
  if found.protocol != protocol:
    return None
  return Described(
    {'features': found.arrays['features']},
    statistics=image_sets.statistics(found),
    spatial=image_sets.statistics(found, '_s'),
  )


def _write(path, found, protocol):
  parts = {'': found.statistics}
  if found.spatial is not None:
    parts['_s'] = found.spatial
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    image_sets.write_statistics(path, parts, protocol, **found.found)
  except OSError as error:
    warnings.warn(f'features are not kept: {error}', stacklevel=2)
