"""Small classifiers, whose hidden layers are features; their weights are kept.

python -m diffusion_jax.demos.perceptrons

fits them again, and writes them into the folder weights/ beside this file. A
fit is not the same on every machine, so figures are compared with those of the
files, whose checksum is in the protocol.
"""

import functools
import hashlib
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from diffusion_jax.data import sources
from diffusion_jax.demos.shapes import COLOURS, SHAPES, parse, shapes

FOLDER = Path(__file__).parent / 'weights'


class Perceptron(NamedTuple):
  """Holds the two layers of a classifier of images as vectors [N, D].

  kernel: [D, 64]; bias: [64]; last: [64, K]; shift: [K]. Digits have levels of
  0..1, and shapes of -1..1.
  """

  kernel: np.ndarray
  bias: np.ndarray
  last: np.ndarray
  shift: np.ndarray

  def features(self, x: np.ndarray) -> np.ndarray:
    """Returns the hidden layer [N, 64], float64."""
    return np.maximum(np.asarray(x, np.float64) @ self.kernel + self.bias, 0.0)

  def logits(self, features: np.ndarray) -> np.ndarray:
    """Returns the output [N, K], float64, of a hidden layer."""
    return features @ self.last + self.shift


@functools.cache
def load(name: str) -> tuple[Perceptron, str]:
  """Returns a kept perceptron, of FITTED, and the SHA-256 of its file."""
  content = _path(name).read_bytes()
  arrays = safetensors.numpy.load(content)
  found = Perceptron(**{k: x.astype(np.float64) for k, x in arrays.items()})
  return found, hashlib.sha256(content).hexdigest()


def save(name: str, found: Perceptron) -> None:
  """Writes a perceptron, in float32, where `load` finds it."""
  arrays = {k: x.astype(np.float32) for k, x in found._asdict().items()}
  FOLDER.mkdir(exist_ok=True)
  safetensors.numpy.save_file(arrays, _path(name))


def fit_digits() -> Perceptron:
  """Fits the class of the 8x8 digits of the train split."""
  train = sources.digits('train')
  return _fit(train.images / 16.0, train.labels, 500)


def fit_two_levels() -> Perceptron:
  """Fits the class of the same digits, with pixels that are black or white."""
  digits = sources.digits('train')
  images, labels = sources.TwoLevels(digits).read(np.arange(len(digits)))
  return _fit(images, labels, 500)


def fit_shapes(side: int = 16) -> Perceptron:
  """Fits which of the 24 coloured shapes are in a picture [side, side, 3].

  The 4,000 pictures have one or two objects; half of them are of the test
  split, as each split lacks objects that the other has.
  """
  pictures, present = [], []
  for split in ('train', 'test'):
    source = shapes(split, (side, side, 3), 20_000, num_objects=2)
    index = np.arange(2000)
    pictures.append(source.read(index)[0] / 127.5 - 1.0)
    present.extend(_objects(text) for text in source.texts(index))
  return _fit(np.concatenate(pictures), np.array(present), 20)


FITTED = {
  'digits': fit_digits,
  'two_levels': fit_two_levels,
  'shapes_16': fit_shapes,
}


def _fit(images, targets, max_iter):
  from sklearn.neural_network import MLPClassifier

  network = MLPClassifier((64,), random_state=0, max_iter=max_iter)
  with warnings.catch_warnings(action='ignore'):  # of few iterations
    network.fit(images.reshape(len(images), -1), targets)
  (kernel, last), (bias, shift) = network.coefs_, network.intercepts_
  return Perceptron(kernel, bias, last, shift)


def _objects(text):
  # Which coloured shapes a sentence names, 0 or 1 for each.
  named = {(thing.colour, thing.shape) for thing in parse(text).things}
  return [(colour, shape) in named for colour in COLOURS for shape in SHAPES]


def _path(name):
  return FOLDER / f'{name}.safetensors'


if __name__ == '__main__':
  for name, fit in FITTED.items():
    save(name, fit())
    print(f'{_path(name)}: SHA-256 {load(name)[1]}')
