"""Small classifiers whose hidden layers are features, with stored weights.

python -m diffusion_jax.metrics.judges.perceptrons

fits them again and writes them into the folder weights/ next to this file. A
fit differs between machines, so figures are computed with the stored weights,
whose checksum is in the protocol.
"""

import functools
import hashlib
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from diffusion_jax.data import small_sets, sources
from diffusion_jax.demos.shapes import COLOURS, SHAPES, parse, shapes

FOLDER = Path(__file__).parent / 'weights'


class JudgePerceptron(NamedTuple):
  """Holds the two layers of a classifier of flattened images [N, D].

  kernel: [D, 64]; bias: [64]; last: [64, K]; shift: [K]. Pixels of digits are
  in 0..1, pixels of shapes in -1..1.
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
def load(name: str) -> tuple[JudgePerceptron, str]:
  """Returns a stored perceptron and the SHA-256 of its file.

  name: a key of FITTED.
  """
  content = _path(name).read_bytes()
  arrays = safetensors.numpy.load(content)
  network = JudgePerceptron(**{k: x.astype(np.float64) for k, x in arrays.items()})
  return network, hashlib.sha256(content).hexdigest()


def save(name: str, network: JudgePerceptron) -> None:
  """Writes a perceptron in float32 to the file that `load` reads."""
  arrays = {k: x.astype(np.float32) for k, x in network._asdict().items()}
  FOLDER.mkdir(exist_ok=True)
  safetensors.numpy.save_file(arrays, _path(name))


def fit_digits(two_levels: bool = False) -> JudgePerceptron:
  """Fits the class of the 8x8 digits of the train split.

  two_levels: with pixels of 0 and 1 instead of 17 grey levels.
  """
  train = small_sets.digits('train')
  if two_levels:
    images = sources.Binarized(train, 'threshold').read(np.arange(len(train)))['x']
    return _fit(images, train.label, 500)
  return _fit(train.x / 16.0, train.label, 500)


def fit_shapes(side: int = 16) -> JudgePerceptron:
  """Fits which of the 24 coloured shapes are in a picture [side, side, 3].

  The 4,000 pictures have one or two objects; half of them come from the test
  split, because each split lacks objects of the other.
  """
  pictures, present = [], []
  for split in ('train', 'test'):
    source = shapes(split, (side, side, 3), 20_000, num_objects=2)
    arrays = source.read(np.arange(2000))
    pictures.append(arrays['x'] / 127.5 - 1.0)
    present.extend(_objects(text) for text in arrays['text'])
  return _fit(np.concatenate(pictures), np.array(present), 20)


FITTED = {
  'digits': fit_digits,
  'two_levels': functools.partial(fit_digits, two_levels=True),
  'shapes_16': fit_shapes,
}


def _fit(images, targets, max_iter):
  from sklearn.neural_network import MLPClassifier

  network = MLPClassifier((64,), random_state=0, max_iter=max_iter)
  with warnings.catch_warnings(action='ignore'):  # not converged
    network.fit(images.reshape(len(images), -1), targets)
  (kernel, last), (bias, shift) = network.coefs_, network.intercepts_
  return JudgePerceptron(kernel, bias, last, shift)


def _objects(text):
  # Returns for each coloured shape whether a sentence names it.
  named = {(thing.colour, thing.shape) for thing in parse(text).things}
  return [(colour, shape) in named for colour in COLOURS for shape in SHAPES]


def _path(name):
  return FOLDER / f'{name}.safetensors'


if __name__ == '__main__':
  for name, fit in FITTED.items():
    save(name, fit())
    print(f'{_path(name)}: SHA-256 {load(name)[1]}')
