"""The measures of a set of samples against a reference, by name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.evaluation import estimates, fid
from diffusion_jax.evaluation.estimates import Estimate, Missing, check_counts
from diffusion_jax.evaluation.inception_score import inception_score
from diffusion_jax.evaluation.manifolds import (
  density_coverage,
  precision_recall,
)
from diffusion_jax.evaluation.memorisation import memorisation
from diffusion_jax.evaluation.mmd import cmmd, kernel_distance


class Described(NamedTuple):
  """Holds what is known of a set of images; what is missing is None.

  found: {features, spatial, logits, predicted}, arrays [N, ...]; statistics and
  spatial: those of a reference that has no images, or more of them.
  """

  found: dict[str, np.ndarray]
  labels: np.ndarray | None = None
  statistics: fid.Statistics | None = None
  spatial: fid.Statistics | None = None


class Score(NamedTuple):
  """Holds one line of a table; note says what the error is, or warns."""

  name: str
  estimate: Estimate
  note: str = ''


class Setting(NamedTuple):
  """Holds the numbers that measures depend on.

  held_out: features [M, D] of test images, for memorisation, or None.
  """

  held_out: np.ndarray | None = None
  num_draws: int = 10  # of the bootstrap of Frechet distances
  num_subsets: int = 100  # of the kernel distance
  subset_size: int = 1000
  num_splits: int = 10  # of the Inception score


def score(
  measure: str, samples: Described, reference: Described, setting: Setting
) -> list[Score]:
  """Returns the lines of a measure in MEASURES.

  Raises ValueError, as `Missing` where the sets do not have what it needs.
  """
  return MEASURES[measure](samples, reference, setting)


def _need(what, value, hint):
  if value is None:
    raise Missing(f'{what} needs {hint}')
  return value


# What measures need of the extractor, besides features, and where it is.
NEEDS = {
  'is': ('logits', 'logits of a classifier, as inception and digits have'),
  'sfd': ('spatial', 'spatial features, as inception has'),
  'accuracy': ('predicted', 'a classifier of these classes, as digits has'),
}


def _found(what, samples):
  name, hint = NEEDS[what]
  return _need(what, samples.found.get(name), hint)


def _features(what, samples, reference, least=1, least_of_reference=1):
  x = _need(what, samples.found.get('features'), 'images of the samples')
  y = _need(what, reference.found.get('features'), 'images of the reference')
  check_counts(
    what, samples=(len(x), least), reference=(len(y), least_of_reference)
  )
  return x, y


def _frechet(name, key, what):
  def compute(samples, reference, setting):
    given, y = (
      known.statistics if key == 'features' else known.spatial
      for known in (samples, reference)
    )
    x = samples.found.get(key)
    if x is None:
      given = _need(name, given, f'{what} of the samples')
    if y is None:
      own = reference.found.get(key)
      own = _need(name, own, f'{what} of the reference')
      check_counts(name, reference=(len(own), 2))
      y = fid.statistics(own)
    if x is None:
      return [Score(name, Estimate(fid.frechet_distance(given, y)))]
    check_counts(name, samples=(len(x), 2))
    found = fid.frechet_distance_and_error(x, y, setting.num_draws)
    note = f'{len(x):,} samples'
    if len(x) <= x.shape[1]:
      note += (
        f', no more than the {x.shape[1]:,} features: the covariance is '
        'singular, and the distance far too large'
      )
    return [Score(name, found, note)]

  return compute


def _inception_score(samples, reference, setting):
  logits = _found('is', samples)
  check_counts('is', samples=(len(logits), setting.num_splits))
  found = inception_score(logits, setting.num_splits)
  note = f'deviation over {setting.num_splits} splits'
  return [Score('is', found, note)]


def _kernel(samples, reference, setting):
  x, y = _features('kid', samples, reference, 2, 2)
  size = min(setting.subset_size, len(x), len(y))
  found = kernel_distance(x, y, setting.num_subsets, size)
  note = f'deviation over {setting.num_subsets} subsets of {size}'
  return [Score('kid', found, note)]


def _precision_recall(samples, reference, setting):
  k = 3
  x, y = _features('pr', samples, reference, k + 1, k + 1)
  found = precision_recall(x, y, k)
  note = f'k = {k}, {_sizes(x, y)}'
  return [Score(name, e, note) for name, e in found._asdict().items()]


def _density_coverage(samples, reference, setting):
  k = 5
  x, y = _features('dc', samples, reference, 1, k + 1)
  found = density_coverage(x, y, k)
  note = f'k = {k}, {_sizes(x, y)}'
  return [Score(name, e, note) for name, e in found._asdict().items()]


def _cmmd(samples, reference, setting):
  x, y = _features('cmmd', samples, reference)
  return [Score('cmmd', cmmd(x, y), f'sigma 10, {_sizes(x, y)}')]


def _accuracy(samples, reference, setting):
  labels = _need('accuracy', samples.labels, 'labels of the samples')
  predicted = _found('accuracy', samples)
  if len(labels) != len(predicted):
    raise ValueError(f'{len(labels)} labels of {len(predicted)} samples')
  return [Score('accuracy', estimates.mean(predicted == labels))]


def _memorisation(samples, reference, setting):
  x, y = _features('memorisation', samples, reference)
  test = _need('memorisation', setting.held_out, 'held-out images, 1 or more')
  found = memorisation(x, y, test)
  near, usual = np.median(found.samples), np.median(found.test)
  held_out = f'{len(found.test):,} held-out images'
  if found.overlap:
    held_out += f' ({found.overlap:,} more are in the reference)'
  closer = f'to the reference than {held_out}: 0.5 without copies'
  copied = f'closer than 1 % of {held_out}: {found.expected:.3g} without copies'
  return [
    Score('closer', found.closer, closer),
    Score('copied', found.copied, copied),
    Score('nearest', Estimate(float(near)), 'median distance of the samples'),
    Score('nearest_held_out', Estimate(float(usual)), 'of held-out images'),
  ]


def _sizes(x, y):
  return f'{len(x):,} against {len(y):,}'


Measure = Callable[[Described, Described, Setting], list[Score]]
MEASURES: dict[str, Measure] = {
  'fd': _frechet('fd', 'features', 'images'),
  'sfd': _frechet('sfd', 'spatial', 'spatial features'),
  'kid': _kernel,
  'is': _inception_score,
  'pr': _precision_recall,
  'dc': _density_coverage,
  'cmmd': _cmmd,
  'accuracy': _accuracy,
  'memorisation': _memorisation,
}


def table(scores: list[Score]) -> str:
  """Returns lines of name, value, error and note, in columns."""
  lines = []
  width = max([17, *(len(row.name) + 1 for row in scores)])
  for name, (value, error), note in scores:
    shown = '' if np.isnan(error) else f'+- {error:.3g}'
    lines.append(f'{name:{width}}{value:11.5g}  {shown:11}  {note}'.rstrip())
  return '\n'.join(lines)


def as_json(scores: list[Score]) -> dict[str, Any]:
  """Returns {name: {value, error (None where it is not known), note}}."""
  return {
    name: {
      'value': value,
      'error': None if np.isnan(error) else error,
      'note': note,
    }
    for name, (value, error), note in scores
  }
