"""Metrics of samples and of models: named scores, and how to compute them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from diffusion_jax.aliases import Json, Params
from diffusion_jax.data.sources import Source
from diffusion_jax.data.spec import Facts
from diffusion_jax.metrics.estimates import Estimate, Missing

Array = jax.Array
# The arrays of a set of images by name, [N, ...] each.
Arrays = Mapping[str, np.ndarray]
# (params, keys [B], x0 [B, ...], cond) -> arrays [B, ...], a traced function.
ExampleArrays = Callable[[Params, Array, Array, dict], dict[str, Array]]
_Measured = TypeVar('_Measured')


class Score(NamedTuple):
  """A number by its name; note explains its error, or warns."""

  name: str
  estimate: Estimate
  note: str = ''


class ImageModel(Protocol):
  """A model of images; facts has their levels."""

  @property
  def facts(self) -> Facts:
    """The facts of the images."""
    ...


class SampleMetric(NamedTuple):
  """A way to score images against real ones.

  scores: {name of each score: whether more is better}. needs: names of the
  arrays that `compute` reads. Samples have any of NEEDS, `images`, uint8 [N, H,
  W, C], and further arrays of their file, such as `texts`. A reference has of
  these `features`, `spatial`, `values` and `images`, if `needs` has them, and
  `held_out`, the features of further real images; no labels. compute: (arrays
  of the samples, arrays of the reference) -> scores; raises `Missing`.
  features: names of the spaces that it is computed in, of
  `features.EXTRACTORS`; () for any. by_statistics: of the reference it needs
  only mean and covariance. of_training: the reference must be the training examples.
  report: (these arrays, folder) draws figures.
  """

  scores: Mapping[str, bool]
  needs: tuple[str, ...]
  compute: Callable[[Arrays, Arrays], list[Score]]
  features: tuple[str, ...] = ()
  by_statistics: bool = False
  of_training: bool = False
  report: Callable[[Arrays, Arrays, Path], None] | None = None


class ModelMetric(NamedTuple, Generic[_Measured]):
  """A way to score a model by real images.

  measure: model -> `PerExample`. compute: its arrays -> scores: arrays [B] of
  all images, and arrays [B, T] summed over the images of each batch. report:
  (these arrays, folder) -> further numbers; it may print and draw. fit: (model,
  training examples) -> further parameters that `measure` reads. calls: (model,
  training examples if the metric has `fit`) -> calls of the network for each image,
  0 if they are not known. reads: attributes of the model that config.sampling
  decides, and that `measure` reads.
  """

  measure: Callable[[_Measured], ExampleArrays]
  compute: Callable[[Arrays], list[Score]]
  report: Callable[[Arrays, Path], Json] | None = None
  fit: Callable[[_Measured, Source], Params] | None = None
  calls: Callable[[_Measured, Source | None], int] = lambda model, train: 0
  reads: tuple[str, ...] = ()


# The arrays that feature extractors make.
EXTRACTED = frozenset(('features', 'spatial', 'logits', 'predicted'))

# The arrays that metrics need, in words for the user.
NEEDS = {
  'features': 'images of the {}',
  'spatial': 'spatial features of the {}, as inception has',
  'logits': 'logits of a classifier, as inception and digits have',
  'predicted': 'a classifier of these classes, as digits has',
  'labels': 'labels of the {}',
  'held_out': 'held-out images, 1 or more',
  'values': 'the {} as numbers',
  'draws': 'draws for each of the held-out pairs',
  'truth': 'what is drawn of the held-out pairs',
  'context': 'the condition of the held-out pairs',
  'log_q': "the model's log density of draws and truth",
  'manifold': 'angles, directions or rotations',
  'law_mean': 'data whose moments are known, as gaussian_process',
  'law_cov': 'data whose moments are known, as gaussian_process',
}


def missing(metric: str, name: str, which: str = 'samples') -> Missing:
  """Returns the error of a metric that needs an array, by its name."""
  hint = NEEDS.get(name, f'{name} of the {{}}').format(which)
  return Missing(f'{metric} needs {hint}')


def numbers_of(valid: Array, x0: Array) -> Array:
  """Returns how many numbers of x0 [B, T, ...] are valid, float [B]; valid: bool [B, T]."""
  return jnp.sum(valid, axis=1) * float(x0.size // valid.size)


def take(metric: str, arrays: Arrays, name: str, which: str = 'samples') -> np.ndarray:
  """Returns an array of a set; raises `Missing` if it is not there."""
  if name not in arrays:
    raise missing(metric, name, which)
  return arrays[name]


def same_precision(*arrays: ArrayLike) -> list[np.ndarray]:
  """Returns the arrays in float64, rounded to the coarsest of their floats.

  Numbers that differ only by their types, such as 0.1, are then equal.
  """
  made = [np.asarray(array) for array in arrays]
  floats = [x.dtype for x in made if x.dtype.kind == 'f']
  least = min(floats, key=lambda x: x.itemsize, default=np.dtype(np.float64))
  return [x.astype(least).astype(np.float64) for x in made]


def take_features(
  metric: str, samples: Arrays, reference: Arrays, counts: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the features of both sets; raises `Missing` for fewer images.

  counts: the least numbers of images of the samples and of the reference.
  """
  x = take(metric, samples, 'features')
  y = take(metric, reference, 'features', 'reference')
  check_counts(metric, samples=(len(x), counts[0]), reference=(len(y), counts[1]))
  return x, y


def check_counts(metric: str, **sets: tuple[int, int]) -> None:
  """Raises `Missing` if a set has fewer images than a metric needs.

  sets: {name of the set: (number of its images, least number)}.
  """
  few = {n: pair for n, pair in sets.items() if pair[0] < pair[1]}
  if few:
    needed = ' and '.join(f'{few[name][1]} of the {name}' for name in few)
    present = ' and '.join(str(few[name][0]) for name in few)
    raise Missing(f'{metric} needs {needed.replace(" of", " images of", 1)}: there are {present}')


def sizes(x: np.ndarray, y: np.ndarray) -> str:
  """Returns the numbers of images of both sets, for a note."""
  return f'{len(x):,} against {len(y):,}'


def table(scores: list[Score]) -> str:
  """Returns lines of name, value, error and note, in columns."""
  lines = []
  width = max([17, *(len(row.name) + 1 for row in scores)])
  for name, (value, error), note in scores:
    shown = '' if np.isnan(error) else f'+- {error:.3g}'
    lines.append(f'{name:{width}}{value:11.5g}  {shown:11}  {note}'.rstrip())
  return '\n'.join(lines)


def as_json(scores: list[Score]) -> Json:
  """Returns {name: {value, error (None if it is unknown), note}}."""
  return {
    name: {'value': float(value), 'error': None if np.isnan(error) else float(error), 'note': note}
    for name, (value, error), note in scores
  }
