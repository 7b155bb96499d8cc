"""Accuracy of a classifier on generated digits, and their diversity.

python -m diffusion_jax.metrics.judges.digits_judge runs/digits/samples/NAME.npz

The file has images, uint8 [N, 8, 8, 1], as arr_0 or images, and their classes
as labels.
"""

import functools
from collections.abc import Callable

import numpy as np

from diffusion_jax.data import small_sets
from diffusion_jax.metrics.judges import judging, perceptrons


def judge(images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Returns the fraction of the images that an SVM classifies as their label.

  images: uint8 [N, 8, 8, 1] with 0..255, as `--mode=sample` writes them;
  labels: [N]. Returns the SVM's `accuracy` (see `make_judge`), its standard
  error `error`, and `real`, its accuracy on the real test split. Raises
  ValueError for other shapes.
  """
  check(images)
  judging.check_count(len(labels), 'labels', images)
  predict = make_judge()
  accuracy = float(np.mean(predict(images) == labels))
  return {
    'accuracy': accuracy,
    'error': (accuracy * (1.0 - accuracy) / len(images)) ** 0.5,
    'real': float(np.mean(predict(real('test')) == real_labels('test'))),
  }


@functools.cache  # fitted once in a process
def make_judge() -> Callable[[np.ndarray], np.ndarray]:
  """Returns a function: images uint8 [N, 8, 8, 1], 0..255 -> classes [N].

  It is an SVM, SVC(gamma=0.001), fitted on the pixels 0..16 of the real train
  split.
  """
  from sklearn.svm import SVC

  train = small_sets.digits('train')
  # scikit-learn's annotation has only the default, a string.
  svm = SVC(gamma=0.001)  # pyright: ignore[reportArgumentType]
  svm.fit(_pixels(train.x), train.label)
  return lambda images: svm.predict(_levels(images, 16))


def check(images: np.ndarray) -> None:
  """Raises ValueError unless the images are [N, 8, 8, 1]."""
  judging.check_images(images, (8, 8, 1), 'digits')


def diversity(images: np.ndarray, labels: np.ndarray) -> float:
  """Returns the mean distance between two images of one class, over all pairs.

  images: uint8 [N, H, W, C]; labels: [N]. The distance is Euclidean, of pixels
  scaled to [-1, 1]. It is NaN if no class has two images.
  """
  from scipy.spatial.distance import pdist, squareform

  apart = squareform(pdist(_pixels(images) / 127.5))
  pairs = np.triu(labels[:, None] == labels, 1)
  return float(apart[pairs].mean()) if pairs.any() else float('nan')


def real(split: str) -> np.ndarray:
  """Returns the real digits of a split, uint8 [N, 8, 8, 1] with 0..255."""
  source = small_sets.digits(split)
  values = source.facts.x
  return values.decode(values.encode(source.x))


def real_labels(split: str) -> np.ndarray:
  """Returns the labels of the real digits of a split, int32 [N]."""
  labels = small_sets.digits(split).label
  assert labels is not None
  return labels


def make_features() -> Callable[[np.ndarray], np.ndarray]:
  """Returns a function: images -> features of `make_classifier`."""
  classify = make_classifier()
  return lambda images: classify(images)['features']


def make_classifier(two_levels: bool = False) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
  """Returns a function: images uint8 [N, 8, 8, 1] -> {features, logits}.

  features [N, 64] are the hidden layer and logits [N, 10] the output of a
  perceptron that classifies the real train split (`perceptrons`), with 17 grey
  levels or with pixels of 0 and 255.
  """
  name, highest = ('two_levels', 1) if two_levels else ('digits', 16)
  network, _ = perceptrons.load(name)

  def classify(images):
    check(images)
    features = network.features(_levels(images, highest) / highest)
    return {'features': features, 'logits': network.logits(features)}

  return classify


def _levels(images, highest):
  return _pixels(np.rint(images * (highest / 255.0)))


def _pixels(images):
  return np.asarray(images, np.float64).reshape(len(images), -1)


def _lines(images, labels):
  result = judge(images, labels)
  of_real = diversity(real('test'), real_labels('test'))
  return [
    f'{len(images)} samples: {result["accuracy"]:.1%} +- {result["error"]:.1%} '
    f'classified as requested (real test digits: {result["real"]:.1%})',
    f'{diversity(images, labels):.2f} between two samples of a class (real '
    f'test digits: {of_real:.2f})',
  ]


if __name__ == '__main__':
  judging.main(_lines, 'labels', __doc__)
