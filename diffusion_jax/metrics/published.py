"""Published statistics of real images, which samples are compared to.

ADM, EDM, pytorch-fid and clean-fid publish npz files with mu and sigma of
Inception's features; ADM's also have mu_s and sigma_s, of spatial features, and
images.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.data import image_sets, sums
from diffusion_jax.data.code_sums import of_package
from diffusion_jax.data.image_sets import ImageSet
from diffusion_jax.metrics import fid, references
from diffusion_jax.metrics.features import Extractor
from diffusion_jax.metrics.metric import Arrays, SampleMetric
from diffusion_jax.runtime import start_up
from diffusion_jax.runtime.files import sha256

# What the name of a file says of the features in it, by a pattern of whole words.
ORIGINS = {
  '^virtual_(imagenet|lsun)': 'Inception 2015-12-05 on images resized as here (ADM)',
  '_legacy_(tensorflow|tf)_': 'Inception 2015-12-05 on images resized as here (clean-fid)',
  '_legacy_py(torch)?_': (
    'Inception 2015-12-05 on images resized by PyTorch, not as here (clean-fid)'
  ),
  '_clean_(train|test|val|custom)': (
    'Inception 2015-12-05 on images resized by PIL, not as here (clean-fid)'
  ),
  '': 'a network that neither the file nor its name says',
}
# Networks in names, and not the sets VGGFace, VGGSound and Clipart.
_NETWORKS = re.compile(
  r'(?<![a-z0-9])(clip|dinov2|swav|vgg|resnet)(?=\d*(bn)?(?![a-z0-9]))'
  r'(?!.?(face|sound|art)[a-z]*\d*(?![a-z0-9]))'
)
UNITS = 'raw', 'standardised'  # the units of mu and sigma, which a file's protocol names


def read(
  path: str | Path,
  extractor: Extractor,
  metrics: Mapping[str, SampleMetric],
  shape: Sequence[int],
) -> tuple[ImageSet, Json, set[str]]:
  """Returns a file of statistics, its facts, and the features that it lacks.

  These come from its images, of a shape. metrics: of the features, by name.
  Raises ValueError or OSError for a file without mu and sigma, for another
  network's, and for images that are needed and not there.
  """
  images = image_sets.read(path)
  check_sizes(images)
  images = in_units(images, extractor)
  stored = {kind for kind in fid.STATISTICS if fid.given(images.arrays, kind)}
  if 'features' not in stored:
    raise ValueError(f'{path} has no mu and sigma: evaluation.reference takes a file of images')
  count, *size = images.shape
  if count and size != list(shape):
    raise ValueError(f'{path} has images {size}, and the run has images {list(shape)}')
  lacks: set[str] = set()
  for name, metric in metrics.items():
    needs = {*metric.needs} & {*fid.STATISTICS} - (stored if metric.by_statistics else set())
    if needs and not count:
      raise ValueError(f'{name} needs images, and {path} has only {", ".join(images.arrays)}')
    lacks |= needs
  digest = sha256(path)
  origin = f'{Path(path).name} (sha256 {digest}), statistics of {origin_of(images)}'
  return images, {'sha256': digest, 'origin': origin, **extractor.identity}, lacks


def origin_of(images: ImageSet) -> str:
  """Returns what a file, or else its name, says of the network of mu and sigma."""
  if 'features' in images.protocol:
    return f'{images.protocol["features"]} ({images.protocol.get("preprocessing")})'
  name = Path(images.name).name.lower()
  if 'mu_s' in images.arrays:
    name = f'virtual_imagenet_{name}'  # Only ADM publishes spatial features.
  return next(text for pattern, text in ORIGINS.items() if re.search(pattern, name))


def arrays_of(
  images: ImageSet, facts: Json, extractor: Extractor, lacks: Collection[str], batch_size: int
) -> Arrays:
  """Returns the statistics of a file, with features of its images if it lacks some."""
  names = {name for pair in fid.STATISTICS.values() for name in pair}
  arrays = {name: x for name, x in images.arrays.items() if name in names}
  if not lacks:
    return arrays
  facts = facts | {'code': of_package(), 'versions': start_up.versions()}
  path = references.folder() / f'{sums.of_json(facts)}.npz'
  return {**references.extract(extractor, images, path, facts, batch_size), **arrays}


def check_sizes(images: ImageSet, features: Arrays | None = None) -> None:
  """Raises ValueError unless the statistics of a file are of these features.

  None: of any features.
  """
  for kind, (name, _) in fid.STATISTICS.items():
    try:
      statistics = fid.given(images.arrays, kind)
    except ValueError as error:
      raise ValueError(f'{images.name}: {error}') from error
    if statistics is None or features is None or kind not in features:
      continue
    if len(statistics.mean) != features[kind].shape[1]:
      raise ValueError(
        f'{name} of {images.name} has {len(statistics.mean)} numbers, and the samples '
        f'have {features[kind].shape[1]} features: give statistics of the same features'
      )


def in_units(images: ImageSet, extractor: Extractor) -> ImageSet:
  """Returns the set, with mu and sigma in the units of the features.

  Raises ValueError for another network's, by the file or its name, and if a
  file does not say which of UNITS the values have.
  """
  check_network(images, extractor)
  standard, units = extractor.standard, images.protocol.get('preprocessing')
  found = standard and fid.given(images.arrays)
  if standard is None or found is None or units not in (None, 'raw'):
    return images
  if units is None:
    raise ValueError(
      f'{images.name} does not say the units of mu and sigma: add protocol='
      '\'{"preprocessing": "raw"}\' to the file, or "standardised" for (x - mean) / std'
    )
  centre, scale = (np.resize(x, len(found.mean)) for x in standard)
  here = fid.Statistics((found.mean - centre) / scale, found.covariance / np.outer(scale, scale))
  return images._replace(arrays={**images.arrays, **fid.as_arrays({'features': here})})


def check_protocol(images: ImageSet, protocol: Json, units: Collection[str] = ()) -> None:
  """Raises ValueError if a file was made with another protocol.

  units: further values of `preprocessing` that a file may have.
  """
  for field in {'features', 'preprocessing', 'weights'} & images.protocol.keys() & protocol.keys():
    theirs, ours = images.protocol[field], protocol[field]
    if theirs != ours and theirs not in units:
      raise ValueError(
        f'{images.name} was made with {field} {theirs!r}, and the other set with '
        f'{ours!r}: they cannot be compared'
      )


def check_network(images: ImageSet, extractor: Extractor) -> None:
  """Raises ValueError if a file's content or name says that another network made it."""
  check_protocol(images, extractor.identity, UNITS if extractor.standard else ())
  name, title = Path(images.name).name.lower(), extractor.identity['features']
  network = _NETWORKS.search(name)
  if network and 'mu' in images.arrays and network[1] not in title.lower():
    raise ValueError(
      f'{images.name} is of {network[1]} by its name, and the samples have features of '
      f'{title}: give statistics of the same network, or rename the file'
    )
