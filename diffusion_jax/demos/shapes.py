"""Generated images of coloured shapes, each with a sentence.

An image has one object, 'a small red circle on the left', or two, 'a red circle
above a blue square'. Positions and sizes vary as the words of the sentence
permit. Image i is a function of (seed, split, i).
"""

import dataclasses
import re
from typing import NamedTuple

import numpy as np

from diffusion_jax.data.sources import pictures
from diffusion_jax.data.spec import Facts
from diffusion_jax.data.splits import check_split
from diffusion_jax.data.sums import digest
from diffusion_jax.declared import declares
from diffusion_jax.ranges import ImageShape, Rows

COLOURS = {
  'red': (230, 50, 50),
  'green': (50, 190, 70),
  'blue': (60, 100, 240),
  'yellow': (240, 220, 60),
  'purple': (180, 70, 220),
  'white': (250, 250, 250),
}
GROUND = (64, 64, 64)

# Each tests whether points (x, y) of the square -1..1, y down, are inside.
SHAPES = {
  'circle': lambda x, y: x**2 + y**2 < 1.0,
  'square': lambda x, y: np.maximum(np.abs(x), np.abs(y)) < 1.0,
  'triangle': lambda x, y: (np.abs(x) < (y + 1.0) / 2.0) & (y < 1.0),
  'cross': lambda x, y: (
    (np.maximum(np.abs(x), np.abs(y)) < 1.0) & (np.minimum(np.abs(x), np.abs(y)) < 0.36)
  ),
}

# Half the width of an object, as a fraction of the side of the image.
SIZES = {'small': (0.14, 0.17), 'large': (0.24, 0.27)}

# Centre of a single object relative to the image's, in the same fractions.
PLACES = {
  'on the left': (-0.2, 0.0),
  'on the right': (0.2, 0.0),
  'at the top': (0.0, -0.2),
  'at the bottom': (0.0, 0.2),
  'in the middle': (0.0, 0.0),
}

# Centre of the first of two objects; the second lies opposite.
RELATIONS = {
  'to the left of': (-0.26, 0.0),
  'to the right of': (0.26, 0.0),
  'above': (0.0, -0.26),
  'below': (0.0, 0.26),
}

# These are only in the test split, at least one in each of its images.
HELD_OUT = (('red', 'circle'), ('green', 'square'), ('blue', 'triangle'), ('yellow', 'cross'))

_JITTER = {1: 0.03, 2: 0.015}  # {number of objects: deviation of their centres}
_SAMPLES = 4  # samples per side of a pixel, whose mean is its coverage


class Thing(NamedTuple):
  """Holds the words for an object; size and place may be None."""

  colour: str
  shape: str
  size: str | None = None
  place: str | None = None


class Scene(NamedTuple):
  """Holds one object, or two with the relation of the first to the second."""

  things: tuple[Thing, ...]
  relation: str | None = None


def describe(scene: Scene) -> str:
  """Returns the sentence of a scene: 'a large blue square in the middle'."""
  named = [' '.join(filter(None, ('a', t.size, t.colour, t.shape, t.place))) for t in scene.things]
  return f' {scene.relation} '.join(named)


_THING = re.compile(
  f'a (?:(?P<size>{"|".join(SIZES)}) )?(?P<colour>{"|".join(COLOURS)}) '
  f'(?P<shape>{"|".join(SHAPES)})(?: (?P<place>{"|".join(PLACES)}))?'
)
_RELATION = re.compile(f' ({"|".join(RELATIONS)}) ')


def parse(sentence: str) -> Scene:
  """Returns the scene of a sentence, the inverse of `describe`.

  Size and place may be absent. Raises ValueError for other sentences.
  """
  parts = _RELATION.split(sentence)  # thing, or thing, relation, thing
  matches = [_THING.fullmatch(part) for part in parts[::2]]
  things = tuple(Thing(**match.groupdict()) for match in matches if match)
  if len(parts) > 3 or len(things) < len(matches):
    raise ValueError(
      f'cannot parse {sentence!r}: it must be like '
      "'a small red circle on the left' or 'a red circle above a blue square'"
    )
  return Scene(things, parts[1] if len(parts) > 1 else None)


def draw_scene(rng: np.random.Generator, num_objects: int) -> Scene:
  """Draws a scene of one object, or of one or two for num_objects=2."""

  def word(words):
    return tuple(words)[rng.integers(len(words))]

  if rng.integers(num_objects):
    things = tuple(Thing(word(COLOURS), word(SHAPES)) for _ in range(2))
    return Scene(things, word(RELATIONS))
  return Scene((Thing(word(COLOURS), word(SHAPES), word(SIZES), word(PLACES)),))


def draw_picture(rng: np.random.Generator, scene: Scene, side: int) -> np.ndarray:
  """Draws an image of a scene, uint8 [side, side, 3], with antialiased edges.

  rng draws the exact position and size. Two objects are small; a single one is
  'large' and 'in the middle' by default.
  """
  points = (np.arange(side * _SAMPLES) + 0.5) / (side * _SAMPLES)
  image = np.full((side, side, 3), GROUND, np.float64)
  for thing, sign in zip(scene.things, (1.0, -1.0), strict=False):
    offset = PLACES[thing.place or 'in the middle']
    if scene.relation:
      offset = sign * np.array(RELATIONS[scene.relation])
    jitter = _JITTER[len(scene.things)]
    centre = 0.5 + np.array(offset) + rng.uniform(-jitter, jitter, 2)
    size = 'small' if scene.relation else thing.size or 'large'
    half = rng.uniform(*SIZES[size])
    x, y = (points - centre[0]) / half, (points - centre[1]) / half
    inside = SHAPES[thing.shape](x[None], y[:, None])
    blocks = inside.reshape(side, _SAMPLES, side, _SAMPLES)
    coverage = blocks.mean(axis=(1, 3))[..., None]
    image += coverage * (np.array(COLOURS[thing.colour]) - image)
  return np.rint(image).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class ShapesSource:
  """Draws images with sentences, without labels, when they are read."""

  split: str
  side: int
  size: int
  num_objects: int
  seed: int = 0

  in_memory = True  # Drawing an image takes about 0.1 ms.

  def __len__(self) -> int:
    return self.size

  @property
  def facts(self) -> Facts:
    """Returns the facts of pictures [side, side, 3]."""
    return pictures((self.side, self.side, 3))

  def checksum(self) -> str:
    """Returns a sum of the fields and of the first images, which all others are like."""
    first = self.read(np.arange(min(100, self.size)))
    return digest([repr(self).encode(), *first.values()])

  def read(self, index: np.ndarray) -> dict[str, np.ndarray]:
    """Returns {'x': uint8 [n, H, W, 3], 'text': n sentences}."""
    images, texts = [], []
    for i in index:
      rng, scene = self._scene(i)
      images.append(draw_picture(rng, scene, self.side))
      texts.append(describe(scene))
    return {'x': np.stack(images), 'text': np.array(texts)}

  def _scene(self, i):
    rng = np.random.default_rng((self.seed, self.split == 'test', int(i)))
    while True:
      scene = draw_scene(rng, self.num_objects)
      held_out = any((t.colour, t.shape) in HELD_OUT for t in scene.things)
      if held_out == (self.split == 'test'):
        return rng, scene


@declares(
  what='coloured shapes with sentences ([text](networks.md#from-a-sentence-to-a-picture))',
  needs='nothing',
)
def shapes(
  split: str = 'train',
  image_shape: ImageShape = (16, 16, 3),
  num_pictures: Rows = 50_000,
  num_objects: int = 1,
) -> ShapesSource:
  """Returns images with one object or, for num_objects=2, with one or two.

  'train' has num_pictures images without the combinations of HELD_OUT; 'test'
  has a tenth as many, each with at least one of them. Raises ValueError.
  """
  check_split(split)
  side = image_shape[0]
  if side < 16 or tuple(image_shape) != (side, side, 3):
    raise ValueError(f'image_shape must be (16, 16, 3) or a larger square, got {image_shape}')
  if num_objects not in (1, 2) or num_pictures < 10:
    raise ValueError(
      'num_objects must be 1 or 2 and num_pictures at least 10, got '
      f'{num_objects} and {num_pictures}'
    )
  size = num_pictures if split == 'train' else num_pictures // 10
  return ShapesSource(split, side, size, num_objects)
