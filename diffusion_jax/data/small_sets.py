"""Sets that need no file: handwritten digits, discs, a table, points of a plane."""

import functools
from importlib import metadata

import numpy as np

from diffusion_jax.data.sources import ArraySource
from diffusion_jax.data.splits import check_split, random_part
from diffusion_jax.declared import declares
from diffusion_jax.ranges import Count, ImageShape, Rate, Rows, Several


@functools.cache  # the file is text
def _parsed(name, dtype, delimiter=None):
  # The file is read as sklearn.datasets reads it, whose import takes longer.
  package = metadata.distribution('scikit-learn')
  path = package.locate_file(f'sklearn/datasets/data/{name}.csv.gz')
  return np.loadtxt(str(path), dtype, delimiter=delimiter)


@declares(
  what=(
    '1,797 handwritten digits, 8×8, 17 grey levels (scikit-learn), with '
    '`data.quarter_turns=1` turned'
  ),
  needs='nothing',
)
def digits(split: str = 'train', quarter_turns: Count = 0) -> ArraySource:
  """Returns the 8x8 handwritten digits of scikit-learn, with 17 grey levels.

  They are real images (UCI, Alpaydin & Kaynak 1998) with a fixed split: 1,437
  in 'train', 360 in 'test'. Nothing is downloaded. quarter_turns: all digits
  are turned by 90 degrees so often, anticlockwise.
  """
  check_split(split)
  table = _parsed('digits', np.uint8, ',')
  pixels, labels = table[:, :-1], table[:, -1]
  order = np.random.default_rng(0).permutation(len(pixels))
  index = order[:360] if split == 'test' else order[360:]
  images = pixels[index].reshape(-1, 8, 8, 1).astype(np.uint8)
  images = np.ascontiguousarray(np.rot90(images, quarter_turns, (1, 2)))
  return ArraySource(images, labels[index].astype(np.int32), 10, 17)


@declares(
  what=(
    'one number of 442 patients given ten (scikit-learn), a '
    '[table](evaluation.md#a-number-given-features)'
  ),
  needs='nothing',
)
def diabetes(split: str = 'train', test_fraction: Rate = 0.1) -> ArraySource:
  """Returns the diabetes table of scikit-learn: a number given ten features.

  x [n, 1] says how far the disease of a patient progressed in a year, and
  `context` [n, 10] what was measured before (Efron et al. 2004), in their own
  units. The test split is a fixed random test_fraction of 442 patients.
  """
  check_split(split)
  index = random_part(442, split, test_fraction, 'diabetes')
  x, context = (_parsed(f'diabetes_{n}', np.float64)[index] for n in ('target', 'data_raw'))
  return ArraySource(x[:, None], context=context)


@declares(
  what='windows of 4 electrodes of an electroencephalogram, 800 points of time (matplotlib)',
  needs='nothing',
)
def eeg(split: str = 'train', length: Several = 32) -> ArraySource:
  """Returns windows [N, length, 4] of the electroencephalogram that matplotlib ships.

  A window begins at each of 800 points of time, in the first 600 of them for 'train' and in the
  last 200 for 'test', which share none. ValueError for a window longer than a split.
  """
  check_split(split)
  path = metadata.distribution('matplotlib').locate_file('matplotlib/mpl-data/sample_data/eeg.dat')
  points = np.fromfile(str(path), np.float64).reshape(800, 4)
  points = points[:600] if split == 'train' else points[600:]
  if length > len(points):
    raise ValueError(f'length={length} is above the {len(points)} points of the {split} split')
  windows = np.lib.stride_tricks.sliding_window_view(points, length, axis=0)
  return ArraySource(np.ascontiguousarray(windows.swapaxes(1, 2)))


@declares(what='coloured discs in images of any shape', needs='nothing')
def synthetic(
  split: str = 'train',
  image_shape: ImageShape = (32, 32, 3),
  num_classes: Count = 10,
  num_images: Rows = 256,
) -> ArraySource:
  """Returns generated images of discs, to try a program without data.

  The class is the hue of the disc; position, size and background are random.
  'train' and 'test' have different images.
  """
  rng = _of_split(split)
  height, width, channels = image_shape
  labels = np.arange(num_images, dtype=np.int32) % max(num_classes, 1)
  centre = rng.uniform(0.3, 0.7, (num_images, 2, 1, 1))
  radius = rng.uniform(0.15, 0.3, (num_images, 1, 1))
  y = (np.arange(height)[:, None] + 0.5) / height - centre[:, 0]
  x = (np.arange(width)[None] + 0.5) / width - centre[:, 1]
  disc = (y**2 + x**2 < radius**2)[..., None]
  phase = labels[:, None] / max(num_classes, 1) + np.arange(channels) / 3.0
  colour = 0.5 + 0.5 * np.cos(2.0 * np.pi * phase)[:, None, None, :]
  ground = rng.uniform(0.2, 0.6, (num_images, 1, 1, 1))
  images = np.rint(255.0 * np.where(disc, colour, ground)).astype(np.uint8)
  return ArraySource(images, labels if num_classes else None, num_classes)


@declares(what='points of a plane', needs='nothing')
def eight_gaussians(split: str = 'train', num_examples: Rows = 10_000) -> ArraySource:
  """Returns points of eight Gaussians on a circle, [N, 2] (Tong et al. 2023).

  Its radius is 5, their variance 0.1^(1/2), as in torchcfm.
  """
  rng = _of_split(split)
  angle = rng.integers(8, size=num_examples) * np.pi / 4.0
  centre = 5.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
  return ArraySource(rng.normal(centre, 0.1**0.25).astype(np.float32))


@declares(what='points of a plane', needs='nothing')
def moons(split: str = 'train', num_examples: Rows = 10_000) -> ArraySource:
  """Returns points of two half circles, [N, 2] (Tong et al. 2023).

  They are 3 (moons + u (1, 1)) - 1 with u ~ U(0, 0.2), as in torchcfm.
  """
  rng = _of_split(split)
  angle, sign = rng.uniform(0.0, np.pi, num_examples), rng.choice([-1.0, 1.0], num_examples)
  arc = sign[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
  centre = np.where(sign[:, None] > 0.0, [[0.0, 0.0]], [[1.0, 0.5]])
  shift = rng.uniform(0.0, 0.2, (num_examples, 1))
  return ArraySource((3.0 * (centre + arc + shift) - 1.0).astype(np.float32))


def _of_split(split):
  check_split(split)
  return np.random.default_rng(0 if split == 'train' else 1)
