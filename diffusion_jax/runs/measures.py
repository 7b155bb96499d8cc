"""Measures of generated images: their names, and what they are measured in."""

from typing import NamedTuple

from diffusion_jax import build
from diffusion_jax.build.make import choose
from diffusion_jax.metrics import features, scores

# What others call measures in the features of Inception.
_KNOWN = {'fid': ('fd', 'inception'), 'sfid': ('sfd', 'inception')}
_SHOWN = {
  f'{measure}_{name}': short for short, (measure, name) in _KNOWN.items()
}
_NO_FEATURES = ('accuracy',)


class Measure(NamedTuple):
  """Holds a measure of `scores.MEASURES` and the name of its features."""

  name: str
  features: str


def find(metric: str, default: str) -> Measure | None:
  """Returns the measure that evaluation.metrics names, None for others.

  `fid`; `kid`, in the features `default`; `fd_dinov2`, in those of DINOv2.
  """
  if metric in _KNOWN:
    return Measure(*_KNOWN[metric])
  name, _, own = metric.partition('_')
  if name not in scores.MEASURES or own and own not in features.EXTRACTORS:
    return None
  return Measure(name, own or default)


def names() -> tuple[str, ...]:
  """Returns the names of all measures, without those of their features."""
  return (*_KNOWN, *scores.MEASURES)


def chosen(config) -> list[Measure]:
  """Returns the measures among config.evaluation.metrics."""
  c = config.evaluation
  choose(tuple(features.EXTRACTORS), 'evaluation', 'features', c.features)
  found = [find(metric, c.features) for metric in build.words(c.metrics)]
  return [measure for measure in found if measure is not None]


def row_name(row: str, chosen: str) -> str:
  """Returns the name of a score in these features: fid, precision_dinov2."""
  if row in _NO_FEATURES:
    return row
  name = f'{row}_{chosen}'
  return _SHOWN.get(name, name)


# The scores of measures that have several, or one of another name.
_ROWS = {
  'pr': ('precision', 'recall'),
  'dc': ('density', 'coverage'),
  'memorisation': ('closer', 'copied', 'nearest', 'nearest_held_out'),
}
_HIGHER_IS_BETTER = (
  'is',
  'precision',
  'recall',
  'density',
  'coverage',
  'accuracy',
)


def signs(config) -> dict[str, float]:
  """Returns, for each score that will be measured, 1, or -1 if more is better.

  The names are those of `row_name`.
  """
  return {
    row_name(row, own): -1.0 if row in _HIGHER_IS_BETTER else 1.0
    for measure, own in chosen(config)
    for row in _ROWS.get(measure, (measure,))
  }


def make_extractor(config, name: str) -> features.Extractor:
  """Returns the extractor of a name, with the config's weights."""
  c = config.evaluation
  with build.from_config('evaluation'):
    return features.make(name, c.weights, c.batch_size)
