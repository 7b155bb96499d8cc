"""Fraction of images of coloured shapes that agree with their sentences.

python -m diffusion_jax.metrics.judges.shapes_judge runs/shapes_text/samples/NAME.npz

The file has images, uint8 [N, H, W, 3], as arr_0 or images, and the sentences
that they should show as texts.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from diffusion_jax.demos.shapes import COLOURS, GROUND, PLACES, RELATIONS, SIZES, Scene, parse
from diffusion_jax.metrics.judges import judging, perceptrons

ASPECTS = ('number', 'colour', 'shape', 'size', 'place')


class Detection(NamedTuple):
  """Holds an object in an image; x and y are fractions of the image's side."""

  colour: str
  shape: str
  size: str
  x: float
  y: float


def detect(image: np.ndarray) -> list[Detection]:
  """Returns the objects of an image, uint8 [H, H, 3], by fixed rules.

  A pixel has the colour whose direction from the ground is nearest, and its
  coverage is the projection onto this direction. Objects are connected pixels
  with a coverage above a half, and their rims. Objects below 1 % of the picture
  are ignored.
  """
  from scipy import ndimage

  names = tuple(COLOURS)
  palette = np.array([COLOURS[name] for name in names], np.float64) - GROUND
  length = np.linalg.norm(palette, axis=1)
  offset = image.astype(np.float64) - GROUND
  along = offset @ (palette / length[:, None]).T  # Cosine times length.
  nearest = along.argmax(axis=-1)
  coverage = np.clip(along.max(axis=-1) / length[nearest], 0.0, 1.0)
  pieces = np.zeros(coverage.shape, np.int32)
  ndimage.label(coverage > 0.5, np.ones((3, 3)), pieces)
  found = []
  for i in range(1, pieces.max() + 1):
    core = pieces == i
    if core.mean() < 0.01:
      continue
    others = (pieces > 0) & ~core
    rim = ndimage.binary_dilation(core, np.ones((3, 3)))
    own = np.where(rim & ~others, coverage, 0.0)
    votes = np.bincount(nearest[core], coverage[core], len(names))
    found.append(_measure(own, names[votes.argmax()]))
  return found


def _measure(coverage, colour):
  # Returns the Detection of an object, by moments and extents of its coverage.
  side = len(coverage)
  area = coverage.sum()
  rows, columns = coverage.sum(axis=1), coverage.sum(axis=0)
  (var_y, skew), (var_x, _) = _moments(rows), _moments(columns)
  width, height = rows.max(), columns.max()  # longest row and column
  box = 12.0 * (var_x * var_y) ** 0.5  # area of the rectangle with these
  if abs(skew) > 0.35:  # It is 0.57 for a triangle, 0 for others.
    shape = 'triangle'
  elif area / (width * height) > 0.92:  # A square has 1, a circle pi / 4.
    shape = 'square'
  else:  # A circle has pi / 3, a cross 0.90.
    shape = 'circle' if area / box > 0.99 else 'cross'
  limit = (SIZES['small'][1] + SIZES['large'][0]) / 2.0
  size = 'small' if max(width, height) < 2.0 * limit * side else 'large'
  x, y = (_centre(marginal) / side for marginal in (columns, rows))
  return Detection(colour, shape, size, x, y)


def _moments(marginal):
  # Returns the variance without a pixel's own variance, and the skewness.
  position = np.arange(len(marginal)) + 0.5
  weights = marginal / marginal.sum()
  offset = position - weights @ position
  variance = weights @ offset**2
  skew = weights @ offset**3 / variance**1.5
  return max(variance - 1.0 / 12.0, 1e-9), skew


def _centre(marginal):
  # Returns the midpoint of the covered interval.
  inside = np.flatnonzero(marginal > 0.5)
  return (inside[0] + inside[-1] + 1) / 2.0


def compare(image: np.ndarray, scene: Scene) -> dict[str, bool]:
  """Returns whether each of ASPECTS of an image fits the scene, and `all`.

  With the wrong number of objects all are False. The place of two objects is
  their relation. Aspects that the scene does not specify are True.
  """
  found, expected = detect(image), scene.things
  if len(found) != len(expected):
    return dict.fromkeys((*ASPECTS, 'all'), False)
  orders = [found, found[::-1]]

  def fits(order):
    return sum(
      (a.colour == b.colour) + (a.shape == b.shape) for a, b in zip(order, expected, strict=True)
    )

  if len(expected) == 2 and fits(orders[0]) == fits(orders[1]):
    orders.sort(key=lambda order: not _related(order, scene.relation))
  order = max(orders, key=fits)
  pairs = list(zip(order, expected, strict=True))
  right = {
    'number': True,
    'colour': all(a.colour == b.colour for a, b in pairs),
    'shape': all(a.shape == b.shape for a, b in pairs),
    'size': all(b.size in (None, a.size) for a, b in pairs),
    'place': _related(order, scene.relation)
    if scene.relation
    else expected[0].place in (None, _place(found[0])),
  }
  return right | {'all': all(right.values())}


def _place(detection):
  def distance(name):
    x, y = PLACES[name]
    dx, dy = detection.x - 0.5 - x, detection.y - 0.5 - y
    return dx**2 + dy**2

  return min(PLACES, key=distance)


def _related(order, relation):
  # The larger distance decides: 'above' is not 'to the left of'.
  dx, dy = order[0].x - order[1].x, order[0].y - order[1].y
  x, y = RELATIONS[relation]
  along, across = (dx * np.sign(x), dy) if x else (dy * np.sign(y), dx)
  return bool(along > abs(across))


def judge(images: np.ndarray, texts: Sequence[str]) -> dict[int, dict[str, float]]:
  """Returns {number of objects: {aspect: fraction right, 'count': images}}.

  images: uint8 [N, H, H, 3]; texts: N sentences (`shapes.parse`). Raises
  ValueError for other arrays or sentences.
  """
  if images.ndim != 4 or images.shape[1] < 16 or images.shape[-1] != 3:
    raise ValueError(f'pictures must be [N, H, H, 3] with H >= 16, got {list(images.shape)}')
  judging.check_count(len(texts), 'texts', images)
  by_number = {}
  for image, text in zip(images, texts, strict=True):
    scene = parse(str(text))
    by_number.setdefault(len(scene.things), []).append(compare(image, scene))
  return {
    number: {name: float(np.mean([v[name] for v in verdicts])) for name in verdicts[0]}
    | {'count': len(verdicts)}
    for number, verdicts in sorted(by_number.items())
  }


def make_features(side: int = 16) -> Callable[[np.ndarray], np.ndarray]:
  """Returns a function: images uint8 [N, side, side, 3] -> features [N, 64].

  The features are the hidden layer of a perceptron that says which of the 24
  coloured shapes are in an image (`perceptrons`). For sides other than 16 it is
  fitted here. Raises ValueError for images of another size.
  """
  network = _perceptron(side)

  def extract(images):
    judging.check_images(images, (side, side, 3), 'pictures')
    flat = images.reshape(len(images), -1).astype(np.float64)
    return network.features(flat / 127.5 - 1.0)

  return extract


@functools.cache  # fitted once in a process
def _perceptron(side):
  if side == 16:
    return perceptrons.load('shapes_16')[0]
  return perceptrons.fit_shapes(side)


def _lines(images, texts):
  lines = []
  for number, right in judge(images, texts).items():
    n, p = right['count'], right['all']
    parts = ', '.join(f'{name} {right[name]:.1%}' for name in ASPECTS)
    what = 'one object' if number == 1 else f'{number} objects'
    error = (p * (1.0 - p) / n) ** 0.5
    lines.append(f'{what}: {p:.1%} +- {error:.1%} of {n} right ({parts})')
  return lines


if __name__ == '__main__':
  judging.main(_lines, 'texts', __doc__)
