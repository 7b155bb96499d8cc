"""Scores of samples by several metrics, each in its feature space."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.metrics import features
from diffusion_jax.metrics.features import Extractor
from diffusion_jax.metrics.metric import Arrays, SampleMetric, Score


class Scored(NamedTuple):
  """A metric of samples in a feature space, None if it needs none.

  suffix: of the names of its scores, such as _dinov2.
  """

  name: str
  metric: SampleMetric
  space: str | None = None
  suffix: str = ''


class Space(NamedTuple):
  """An extractor, and its features of real data with their protocol.

  held_out: the protocol of the reference's `held_out`, {} without them.
  """

  extractor: Extractor
  reference: Arrays
  protocol: Json
  held_out: Json

  def of(self, batches: Iterable[np.ndarray]) -> Arrays:
    """Returns the features of batches of samples."""
    return features.join(features.each(self.extractor, batches))


class References(NamedTuple):
  """What samples are compared to: examples as files have them, and by space."""

  values: Arrays
  spaces: dict[str, Space]


def is_of_pairs(each: Scored) -> bool:
  """Returns whether a metric needs several draws for each held-out pair."""
  return not {'draws', 'log_q'}.isdisjoint(each.metric.needs)


def score(
  metrics: list[Scored],
  references: References,
  samples: Arrays,
  extracted: Mapping,
) -> list[Score]:
  """Returns the scores of samples.

  samples: images, labels and so on; extracted: the features of the images, by
  the name of their space. Raises ValueError for what a metric refuses.
  """
  scores = []
  for each in metrics:
    arrays, reference = {**samples, **extracted.get(each.space, {})}, references.values
    if each.space:
      reference = {**reference, **references.spaces[each.space].reference}
      if each.space != 'values':  # Hidden units have no names.
        reference.pop('names', None)
    values = compute(each, arrays, reference)
    scores += [x._replace(name=f'{x.name}{each.suffix}') for x in values]
  return scores


def compute(each: Scored, samples: Arrays, reference: Arrays) -> list[Score]:
  """Returns what a metric computes; ValueError for what it refuses or lacks.

  It gets only those arrays of the samples that it needs, so that its scores do not depend on
  the other metrics.
  """
  samples = {name: samples[name] for name in each.metric.needs if name in samples}
  try:
    return each.metric.compute(samples, reference)
  except KeyError as error:
    raise ValueError(
      f'{each.name} reads the array {error}; the samples have '
      f'{", ".join(samples) or "none"}, and the reference '
      f'{", ".join(reference) or "none"}: name it in `needs` of the metric'
    ) from error


def has_floor(each: Scored) -> bool:
  """Returns whether a metric compares only features, as `floor` computes."""
  return each.metric.needs == ('features',)


def floor(metrics: list[Scored], references: References, count: int) -> list[Score]:
  """Returns the scores of `count` held-out real images in place of samples.

  They are of the metrics that compare features with the reference's. The
  images are drawn with a fixed key: the first ones may differ from the rest, as
  MNIST's first test images do.
  """
  compared = [x for x in metrics if has_floor(x)]
  real: dict[str | None, Arrays] = {}
  for name in {x.space for x in compared}:
    space = references.spaces[name or '']
    held_out = space.reference['held_out']
    chosen = np.random.default_rng(0).permutation(len(held_out))[:count]
    real[name] = {'features': held_out[chosen]}
  return score(compared, references, {}, real)


def size_of_floor(references: References, count: int) -> int:
  """Returns how many held-out real images `floor` scores: fewer than `count` if there are fewer."""
  held_out = (space.reference.get('held_out') for space in references.spaces.values())
  return min(count, *(len(x) for x in held_out if x is not None))
