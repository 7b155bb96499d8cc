"""Scores of samples by several metrics, each in its feature space."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.core.arguments import kind_of
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.metrics import features
from diffusion_jax.metrics.estimates import Estimate
from diffusion_jax.metrics.features import Extractor
from diffusion_jax.metrics.metric import Arrays, SampleMetric, Score

JUDGED = 'predicted', 'labels'  # what `accuracy` compares


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
  """What samples are compared to: examples as files have them, and by space.

  labels: of the held-out examples in each space, [M]; None without labels.
  """

  values: Arrays
  spaces: dict[str, Space]
  labels: np.ndarray | None = None


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
    scores = each.metric.compute(samples, reference)
  except KeyError as error:
    raise ValueError(
      f'{each.name} reads the array {error}; the samples have '
      f'{", ".join(samples) or "none"}, and the reference '
      f'{", ".join(reference) or "none"}: name it in `needs` of the metric'
    ) from error
  check_scores(each.name, scores)
  return scores


def check_scores(name: str, scores: object) -> None:
  """Raises ValueError unless a metric has computed a list of `Score`s."""
  is_list = isinstance(scores, list | tuple)
  others = [x for x in scores if not _is_score(x)] if is_list else [scores]
  if others:
    raise ValueError(
      f'{name}: compute(samples, reference) must return a list of Score(name, Estimate(value, '
      f'error)), as estimates.mean makes them, not {"one of " * is_list}{kind_of(others[0])}'
    )


def _is_score(value):
  return isinstance(value, Score) and isinstance(value.estimate, Estimate)


def check_own(name: str, metric: object, spec: ArraySpec) -> None:
  """Raises ValueError if a metric of a user's own does not compute scores, where a trial can say.

  It is tried on four black images of class 0, unless it needs more, or refuses them.
  """
  images = np.zeros((4, *spec.shape), np.uint8 if spec.levels else np.float32)
  arrays = {'images': images, 'values': images, 'labels': np.zeros(4, np.int32)}
  if not isinstance(metric, SampleMetric) or not {*metric.needs} <= {*arrays}:
    return
  try:
    scores = metric.compute({n: arrays[n] for n in metric.needs}, arrays)
  except Exception:  # Black images may have no score.
    return
  check_scores(name, scores)


def has_floor(each: Scored) -> bool:
  """Returns whether a metric compares only features, or a judge's classes with labels."""
  return each.metric.needs in (('features',), JUDGED)


def beside(references: References, labels_of: Callable[[int], np.ndarray] | None) -> References:
  """Returns references whose held-out examples are like samples, of any number of them.

  Their order is random, with a fixed key: the first ones may differ from the rest, as
  MNIST's first test images do. labels_of: (n) -> the labels of the first n samples, which the
  first n held-out examples then have, too; None: of samples without labels.
  """
  spaces = {}
  for name, space in references.spaces.items():
    if 'held_out' in space.reference:
      held_out = space.reference['held_out']
      rows = np.random.default_rng(0).permutation(len(held_out))
      if labels_of is not None and references.labels is not None:
        rows = rows[rows_with(references.labels[rows], labels_of(len(rows)))]
        if not len(rows):
          raise ValueError('no held-out example has a class of the samples')
      own = {'held_out': held_out[rows]}
      if 'judged' in space.reference and references.labels is not None:
        own |= {'judged': space.reference['judged'][rows], 'labels': references.labels[rows]}
      space = space._replace(reference={**space.reference, **own})
    spaces[name] = space
  return references._replace(spaces=spaces)


def rows_with(labels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """Returns the rows of examples that have the wanted labels, each row once, in this order.

  labels: of the examples, [M]; wanted: [n]. Where a class has no row left its labels are
  left out; the rows end before the share of these is larger than a random sample of as many
  examples lacks on average.
  """

  def numbered(x):  # (label, how many of them are before) as one number
    order = np.argsort(x, kind='stable')
    first = np.searchsorted(x[order], x[order])
    found = np.empty(len(x), np.int64)
    found[order] = np.arange(len(x)) - first
    return found * (1 + max(labels.max(), wanted.max())) + x

  have, want = numbered(labels), numbered(wanted)
  order = np.argsort(have)
  place = np.minimum(np.searchsorted(have[order], want), len(have) - 1)
  rows = order[place]
  is_served = have[rows] == want
  n = np.arange(1, len(want) + 1)
  # E max(0, p - p') of a normal p' with the variance p (1 - p) / n, summed over the classes.
  share = np.bincount(wanted) / len(wanted)
  by_chance = np.sqrt(share * (1.0 - share)).sum() / np.sqrt(2.0 * np.pi * n)
  count = 1 + np.flatnonzero(np.cumsum(~is_served) <= n * by_chance).max(initial=-1)
  return rows[:count][is_served[:count]]


def floor(metrics: list[Scored], references: References, count: int) -> list[Score]:
  """Returns the scores of `count` held-out real images in place of samples.

  They are of the metrics that compare features with the reference's, and of a judge's classes
  with their labels, which `accuracy` has. references: as `beside` returns them.
  """
  compared, real = [], {}
  for each in filter(has_floor, metrics):
    arrays = references.spaces[each.space or ''].reference
    found = {'features': arrays['held_out'][:count]}
    if each.metric.needs == JUDGED:
      if 'labels' not in arrays:
        continue
      found |= {'predicted': arrays['judged'][:count], 'labels': arrays['labels'][:count]}
    compared.append(each)
    real[each.space] = real.get(each.space, {}) | found
  return score(compared, references, {}, real)


def size_of_floor(references: References, count: int) -> int:
  """Returns how many held-out real images `floor` scores: fewer than `count` if there are fewer."""
  held_out = (space.reference.get('held_out') for space in references.spaces.values())
  return min(count, *(len(x) for x in held_out if x is not None))
