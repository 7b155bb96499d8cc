"""Columns that repeat their values in one of two sets, as whole numbers do.

Classifiers, neighbours, kernels and levels of calibration tell these values
from continuous numbers of the same distribution.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec

import numpy as np

from diffusion_jax.metrics.metric import Arrays, SampleMetric

P = ParamSpec('P')
_ROWS = 2000  # rows of a set in which repeated values are looked for
_EQUAL = 5, 0.01  # rows with a value that is repeated: least number and share
_NAMED = 3  # columns in a note


def repeats(x: np.ndarray) -> np.ndarray:
  """Returns the share of rows of x [N, D] whose value 5 rows and 1 % have, [D]."""
  least = max(_EQUAL[0], round(_EQUAL[1] * len(x)))

  def share(column):
    _, counts = np.unique(column, return_counts=True)
    return counts[counts >= least].sum() / len(column)

  return np.apply_along_axis(share, 0, x)


def described(samples: np.ndarray, reference: np.ndarray, names: np.ndarray) -> str:
  """Returns which columns repeat in one set [N, D] only; '' for none.

  More than a tenth of its rows repeat values, and less than a tenth as many of
  the other's. names: of the columns; [0] for their numbers.
  """
  sets = {'reference': reference, 'samples': samples}
  count, rng = min(_ROWS, *map(len, sets.values())), np.random.default_rng(0)
  shares = {n: repeats(x[rng.choice(len(x), count, replace=False)]) for n, x in sets.items()}
  low, high = np.sort([*shares.values()], axis=0)
  (told,) = np.nonzero((high > 0.1) & (low < 0.1 * high))
  notes = []
  for i in told[:_NAMED]:
    name, which = names[i] if len(names) == len(high) else i, max(sets, key=lambda n: shares[n][i])
    values = len(np.unique(sets[which][:, i]))
    plural = 's' * (values > 1)
    notes.append(f'column {name} has {values:,} different value{plural} in the {which}')
  if len(told) > _NAMED:
    notes.append(f'{len(told) - _NAMED:,} more')
  return '; '.join(notes)


def named(constructor: Callable[P, SampleMetric]) -> Callable[P, SampleMetric]:
  """Makes the notes of a metric name the columns of `described`.

  Of values, draws and the truth, or features that the reference has `names` for, as those
  of values have; channels of arrays with more axes.
  """

  @functools.wraps(constructor)
  def make(*args, **kwargs):
    metric = constructor(*args, **kwargs)

    def compute(samples, reference):
      scores, note = metric.compute(samples, reference), _note(metric, samples, reference)
      return [x._replace(note='; '.join(filter(None, (x.note, note)))) for x in scores]

    return metric._replace(compute=compute)

  return make


def _note(metric: SampleMetric, samples: Arrays, reference: Arrays) -> str:
  one = next((name for name in ('values', 'features') if name in metric.needs), 'draws')
  other = 'truth' if one == 'draws' else one
  if one not in samples or other not in reference or one == 'features' and 'names' not in reference:
    return ''
  x, y = np.asarray(samples[one]), np.asarray(reference[other])
  x = x.reshape(-1, *y.shape[1:])
  columns = y.shape[-1] if y.ndim > 1 else 1
  names = reference.get('names', np.array([]))
  return described(x.reshape(-1, columns), y.reshape(-1, columns), names)
