"""Features of images, for comparing sets, and the identity of the features.

A function of features takes images, uint8 [N, H, W, C], and returns a dict:
`features` [N, D], and where it has them `spatial` [N, S] (for sFID), `logits`
[N, K] (for the Inception score) and `predicted` [N], its class of each image.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from diffusion_jax.data import sums
from diffusion_jax.data.image_sets import ImageSet
from diffusion_jax.data.spec import Facts
from diffusion_jax.metrics.judges import digits_judge, perceptrons, shapes_judge
from diffusion_jax.metrics.vectors import Standard
from diffusion_jax.ranges import check_choice

HIDDEN = 'the hidden layer of a perceptron'

FeatureFn = Callable[[np.ndarray], dict[str, np.ndarray]]
StreamFn = Callable[[Iterable[np.ndarray]], Iterator[dict[str, np.ndarray]]]


class Extractor(NamedTuple):
  """A function that computes features, and its identity.

  identity: {'features': title, 'preprocessing': text, 'weights': hash}; only
  sets with equal identities compare. stream: computes the features of many
  batches; a device computes one while the host uses the one before. standard:
  what standardises values. facts: of the images that a classifier of the user's knows.
  """

  extract: FeatureFn
  identity: dict[str, str]
  stream: StreamFn | None = None
  standard: Standard | None = None
  facts: Facts | None = None


def make(
  name: str, weights: str = '', batch_size: int = 64, standard: Standard | None = None
) -> Extractor:
  """Returns the extractor of a name in EXTRACTORS.

  weights: the file of a published network, or its folder (`interop.features.
  load_features`); batch_size: of such a network; standard: the reference's
  statistics, for `values`. Raises ValueError for other names, and if the file
  or the statistics are missing.
  """
  check_choice('features', name, EXTRACTORS)
  if name != 'values':
    return EXTRACTORS[name](weights, batch_size)
  if standard is None:
    raise ValueError('features values need the statistics of the reference')
  return of_values(standard)


def each(
  extractor: Extractor,
  batches: Iterable[np.ndarray],
  progress: Callable[[int], object] = lambda count: None,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the features of each batch of images, on the host.

  The next batch is read while one is computed; progress gets the number of
  images of each finished batch.
  """
  stream = extractor.stream or (lambda batches: map(extractor.extract, batches))
  for found in stream(ahead(iter(batches))):
    yield found
    progress(len(found['features']))


def of_images(
  extractor: Extractor, images: ImageSet, batch_size: int, title: str
) -> dict[str, np.ndarray]:
  """Returns the features of a set of images, with a progress bar."""
  count = images.shape[0]
  with tqdm(total=count, desc=title, unit='image', disable=None) as bar:
    return join(each(extractor, images.batches(batch_size), bar.update))


def join(parts: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Returns the features of all batches in one array for each name."""
  parts = list(parts)
  return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def ahead(batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
  """Yields the same batches; a thread reads the next one while the caller uses one."""
  with ThreadPoolExecutor(1) as reader:
    following = reader.submit(next, batches, None)
    while (batch := following.result()) is not None:
      following = reader.submit(next, batches, None)
      yield batch


def _pixels(weights, batch_size):
  def extract(pictures):
    return {'features': pictures.reshape(len(pictures), -1).astype(np.float32) / 255.0}

  return Extractor(extract, _identity('pixels', 'levels / 255', 'none'))


def of_values(standard: Standard) -> Extractor:
  """Makes the extractor of real numbers [N, ..., C], flat and standardised.

  standard: `standard_of(reference values)`. Its identity has the checksum of
  the statistics, so that features by other ones do not compare.
  """
  return Extractor(
    lambda values: {'features': standard.features(values)},
    _identity('values', f'standardised by {sums.digest(standard)}', 'none'),
    standard=standard,
  )


def _digits(name, levels):
  def load(weights, batch_size):
    network = digits_judge.make_classifier(two_levels=levels == 2)
    judge = digits_judge.make_judge() if levels > 2 else None

    def extract(pictures):
      found = network(pictures)
      classes = judge(pictures) if judge else found['logits'].argmax(axis=1)
      return found | {'predicted': classes}

    _, digest = perceptrons.load(name)
    return Extractor(extract, _identity(HIDDEN, f'8x8, {levels} levels', digest))

  return load


def _shapes(weights, batch_size):
  def extract(pictures):
    return {'features': shapes_judge.make_features(pictures.shape[1])(pictures)}

  _, digest = perceptrons.load('shapes_16')
  text = f'{digest}, of sides other than 16 fitted to 4,000 pictures'
  return Extractor(extract, _identity(HIDDEN, 'levels / 127.5 - 1', text))


def _published(name):
  def load(weights, batch_size):
    from diffusion_jax.interop.features import load_features

    found = load_features(name, weights or None, batch_size)
    return Extractor(found, found.protocol, found.stream)

  return load


def _classifier(weights, batch_size):
  from diffusion_jax.interop import stablehlo

  found = stablehlo.load_features(weights)
  return Extractor(found, found.protocol, found.stream, facts=found.facts)


def _identity(title, preprocessing, weights):
  return {'features': title, 'preprocessing': preprocessing, 'weights': weights}


# The arrays of each extractor, which are known without its weights.
ARRAYS = {
  'inception': ('features', 'spatial', 'logits'),
  **dict.fromkeys(('dinov2', 'shapes', 'pixels', 'values'), ('features',)),
  **dict.fromkeys(('digits', 'two_levels', 'classifier'), ('features', 'logits', 'predicted')),
}
# {(data set, number of its levels): the judge of its pictures}
JUDGES = {('digits', 17): 'digits', ('digits', 2): 'two_levels', ('shapes', 256): 'shapes'}
EXTRACTORS = {
  'inception': _published('inception'),
  'dinov2': _published('dinov2'),
  'digits': _digits('digits', 17),
  'two_levels': _digits('two_levels', 2),
  'classifier': _classifier,
  'shapes': _shapes,
  'pixels': _pixels,
  'values': of_values,
}
