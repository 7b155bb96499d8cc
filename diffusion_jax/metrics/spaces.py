"""Metrics by name, and the features that they are computed in."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from diffusion_jax.aliases import Json
from diffusion_jax.data import npz
from diffusion_jax.data.image_sets import ImageSet
from diffusion_jax.metrics import features, table
from diffusion_jax.metrics.features import Extractor
from diffusion_jax.metrics.metric import EXTRACTED, Arrays, Metric, Score
from diffusion_jax.runtime.files import parse_json, write_npz


class Named(NamedTuple):
  """A metric, its name, and the name of the features it is computed in.

  features: '' for a metric that needs none.
  """

  name: str
  features: str
  metric: Metric

  def score_name(self, score: str) -> str:
    """Returns the name of a score with the features, such as kid_digits."""
    in_features = EXTRACTED.intersection(self.metric.needs) - {'predicted'}
    return table.score_name(score, self.features if in_features else '')


class Space(NamedTuple):
  """An extractor, and its features of real images with their protocol."""

  extractor: Extractor
  reference: Arrays
  protocol: Json


def score(
  named: list[Named],
  spaces: Mapping[str, Space],
  samples: Arrays,
  extracted: Mapping[str, Arrays],
) -> list[Score]:
  """Returns the scores of samples, named with their features.

  samples: images, labels and so on; extracted: the features of the images, by
  the name of their space. Raises `Missing`.
  """
  scores = []
  for each in named:
    arrays, reference = dict(samples), {}
    if each.features:
      arrays |= extracted[each.features]
      reference = spaces[each.features].reference
    for found in each.metric.compute(arrays, reference):
      scores.append(found._replace(name=each.score_name(found.name)))
  return scores


def extract(
  extractor: Extractor,
  images: ImageSet,
  path: Path,
  about: Mapping[str, object],
  batch_size: int,
) -> Arrays:
  """Returns the features of images, from the file `path` if it has them.

  about: the facts that the images depend on, as read from JSON.
  """
  identity = extractor.identity
  protocol = {**identity, 'samples': about}
  with contextlib.suppress(OSError, ValueError):  # computed again
    kept = npz.read(path, npz.names_of(path))
    if parse_json(str(kept.pop('protocol', ''))) == protocol:
      return kept
  count, title = images.shape[0], identity['features']
  with tqdm(total=count, desc=title, unit='image', disable=None) as bar:
    batches = images.batches(batch_size)
    arrays = features.join(features.each(extractor, batches, bar.update))
  write_npz(path, {**arrays, 'protocol': json.dumps(protocol)})
  return arrays
