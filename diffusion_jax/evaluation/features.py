"""Features of images, in which sets are compared, and what identifies them.

A function of features takes images, uint8 [N, H, W, C], and returns a dict:
`features` [N, D], and where it has them `spatial` [N, S] (for sFID), `logits`
[N, K] (for the Inception score) and `predicted` [N], its class of each image.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.evaluation import digits

FeatureFn = Callable[[np.ndarray], dict[str, np.ndarray]]


class Extractor(NamedTuple):
  """Holds a function of features with what its figures depend on.

  identity: {'features': name, 'weights': hash or seed, 'preprocessing': text};
  statistics of two sets compare only if theirs are equal.
  """

  extract: FeatureFn
  identity: dict[str, str]


def make(name: str, weights: str = '') -> Extractor:
  """Returns the extractor of a name in EXTRACTORS; weights: a file, or ''.

  Raises ValueError for other names, and where the file is missing.
  """
  if name not in EXTRACTORS:
    raise ValueError(
      f'features {name!r} are not one of {", ".join(EXTRACTORS)}'
    )
  return EXTRACTORS[name](weights)


def each(
  extractor: Extractor,
  batches: Iterable[np.ndarray],
  size: int,
  progress: Callable[[int], Any] = lambda count: None,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the features of each batch of images, on the host.

  A batch of fewer than `size` images is filled up, so that a network is
  compiled once. The next batch is read while one is computed; progress is
  given the number of images that are done.
  """
  for batch in ahead(iter(batches)):
    whole = batch[np.arange(max(size, len(batch))) % len(batch)]
    found = extractor.extract(whole)
    yield {name: np.asarray(x)[: len(batch)] for name, x in found.items()}
    progress(len(batch))


def join(parts: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Returns the features of all batches in one array for each name."""
  found: dict[str, list] = {}
  for part in parts:
    for name, values in part.items():
      found.setdefault(name, []).append(values)
  return {name: np.concatenate(values) for name, values in found.items()}


def ahead(batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
  """Yields the same, reading the next batch in a thread meanwhile."""
  with ThreadPoolExecutor(1) as reader:
    following = reader.submit(next, batches, None)
    while (batch := following.result()) is not None:
      following = reader.submit(next, batches, None)
      yield batch


def _pixels(weights):
  def extract(pictures):
    flat = pictures.reshape(len(pictures), -1)
    return {'features': flat.astype(np.float32) / 255.0}

  return Extractor(extract, _identity('pixels', 'none', 'levels / 255'))


def _digits(weights):
  network, judge = digits.make_classifier(), digits.make_judge()

  def extract(pictures):
    return network(pictures) | {'predicted': judge(pictures)}

  text = 'the hidden layer of a perceptron, fitted on the train split, seed 0'
  return Extractor(extract, _identity('digits', text, '8x8, 17 levels'))


def _identity(name, weights, preprocessing):
  return {
    'features': name,
    'weights': weights,
    'preprocessing': preprocessing,
  }


EXTRACTORS = {'pixels': _pixels, 'digits': _digits}
