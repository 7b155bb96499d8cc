"""Compares samples with a reference, both from files of any project.

python -m diffusion_jax.metrics.compare samples.npz reference.npz \
  --features=digits
"""

import argparse
import importlib
import inspect
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.data import image_sets
from diffusion_jax.data.drawings import write_png
from diffusion_jax.data.image_sets import ImageSet
from diffusion_jax.metrics import features, fid, metric, published, table
from diffusion_jax.metrics.estimates import Missing
from diffusion_jax.metrics.memorisation import pair_sheet
from diffusion_jax.metrics.metric import Arrays, SampleMetric, Score
from diffusion_jax.metrics.neighbours import nearest
from diffusion_jax.metrics.vectors import standard_of
from diffusion_jax.ranges import Count, FlagText, Misfit, Size, check_choice, convert
from diffusion_jax.runtime.files import write_json, write_npz

_METRICS = {**table.OF_FILES, **table.OF_VALUES}


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> NoReturn:
    raise ValueError(message)


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """Returns the options of a command line; raises ValueError."""
  names = ', '.join(features.EXTRACTORS)
  parser = _Parser(
    'python -m diffusion_jax.metrics.compare',
    description=(__doc__ or '').partition('\n')[0],
    allow_abbrev=False,
  )
  add = parser.add_argument
  add('samples', help='an npz file or a folder of images')
  add('reference', help='the same, of real images')
  add('--features', default='', help=f'one of {names}; not for features')
  add('--weights', default='', help='of inception, dinov2, classifier')
  add(
    '--metrics',
    default='',
    metavar='NAME,...',
    help=f'of {", ".join(_METRICS)}, module:attribute; default: all of features',
  )
  add('--held_out', help='test images, to see whether samples copy the others')
  add('--sheet', metavar='PNG', help='the samples closest to the reference')
  add('--json', help='the table with its protocol')
  add('--statistics', metavar='NPZ', help='statistics of the reference')
  add(
    '--bootstrap',
    type=_typed(Count),
    default=10,
    help='draws for the error of Frechet distances; 0 for no error',
  )
  add('--batch_size', type=_typed(Size), default=64, help='images at a time')
  return parser.parse_args(argv)


def _typed(kind):
  def typed(text):
    try:
      return convert(FlagText(text), kind)
    except Misfit as error:
      raise argparse.ArgumentTypeError(f'give {error.expected}') from None

  return typed


def make(name: str, num_draws: int) -> SampleMetric:
  """Returns a metric of the table, or of 'module:attribute', by its name.

  num_draws: of the bootstrap, for the metrics that have one. A module is
  imported, which runs its code. Raises ValueError.
  """
  module, sign, attribute = name.partition(':')
  if sign:
    try:
      constructor = getattr(importlib.import_module(module), attribute)
    except (AttributeError, ImportError) as error:
      raise ValueError(f'metric {name} cannot be imported: {error}') from error
  else:
    check_choice('metric', name, _METRICS)
    constructor = _METRICS[name]
  takes_draws = 'num_draws' in inspect.signature(constructor).parameters
  return constructor(num_draws=num_draws) if takes_draws else constructor()


def compare(
  samples: ImageSet,
  reference: ImageSet,
  metrics: Mapping[str, SampleMetric],
  extractor: features.Extractor | None = None,
  held_out: ImageSet | None = None,
  batch_size: int = 64,
) -> tuple[list[Score], list[str], Mapping[str, Arrays]]:
  """Returns (scores, reasons, arrays) of two sets.

  reasons: a sentence for each metric that the sets do not allow. arrays: the
  arrays of each set, by its name. Raises ValueError for sets that cannot be
  compared.
  """
  sets = {'samples': samples, 'reference': reference}
  if held_out is not None:
    sets['held_out'] = held_out
  for other in list(sets.values())[1:]:
    image_sets.check_same_size(samples, other)
    published.check_protocol(other, samples.protocol)
  needs = {need for made in metrics.values() for need in made.needs}
  arrays = {name: describe(images, needs, extractor, batch_size) for name, images in sets.items()}
  if 'features' in arrays['samples']:
    published.check_sizes(reference, arrays['samples'])
  real = dict(arrays['reference'])
  if 'features' in arrays.get('held_out', {}):
    real['held_out'] = arrays['held_out']['features']
  scores, reasons = [], []
  for made in metrics.values():
    try:
      scores += made.compute(arrays['samples'], real)
    except Missing as error:
      reasons.append(str(error))
  return scores, reasons, arrays


def describe(
  images: ImageSet, needs: Collection[str], extractor: features.Extractor | None, batch_size: int
) -> dict[str, np.ndarray]:
  """Returns the arrays of a set, with features unless the file has them."""
  published.check_sizes(images)
  if extractor is not None:
    images = published.in_units(images, extractor)
  arrays, count = dict(images.arrays), images.shape[0]
  for name in {'images', 'values'} & {*needs} if count else ():
    arrays[name] = np.concatenate(list(images.batches(batch_size)))
  if not count or 'features' in arrays or not metric.EXTRACTED & {*needs}:
    return arrays
  if extractor is None:
    raise ValueError(
      f'{images.name} has images: choose --features, one of {", ".join(features.EXTRACTORS)}'
    )
  return arrays | features.of_images(extractor, images, batch_size, images.name)


def protocol(samples: ImageSet, reference: ImageSet, extractor: features.Extractor | None) -> Json:
  """Returns the facts that the figures depend on, for a JSON file."""
  identity = {'features': 'of the files'}
  if extractor is not None:
    identity = extractor.identity
  return {
    'samples': samples.name,
    'num_samples': samples.shape[0],
    'reference': reference.name,
    'num_reference': reference.shape[0],
    **identity,
  }


def main(argv: Sequence[str]) -> None:
  """Prints the table of a command line, and writes the files it names.

  Raises ValueError for wrong arguments, and at the end for a metric that
  --metrics names and the sets do not allow.
  """
  options = parse(argv)
  named = list(filter(None, options.metrics.split(',')))
  metrics = {name: make(name, options.bootstrap) for name in named or table.OF_FILES}
  more = {need for made in metrics.values() for need in made.needs} | {'label'}
  samples, reference = (
    image_sets.read(path, more) for path in (options.samples, options.reference)
  )
  held_out = image_sets.read(options.held_out) if options.held_out else None
  extractor = None
  if options.features:
    standard = None
    if options.features == 'values' and reference.shape[0]:
      batches = reference.batches(options.batch_size)
      standard = standard_of(np.concatenate(list(batches)))
    extractor = features.make(options.features, options.weights, options.batch_size, standard)
  scores, reasons, arrays = compare(
    samples, reference, metrics, extractor, held_out, options.batch_size
  )
  if scores:
    print(metric.table(scores))
  for reason in () if named else reasons:
    print(f'not computed: {reason}')
  if have_other_classes(samples.arrays, reference.arrays):
    print('note: the class frequencies of the samples differ from those in the reference')
  about = protocol(samples, reference, extractor)
  print(', '.join(f'{name} {value}' for name, value in about.items()))
  if options.json:
    content = {'protocol': about, 'metrics': metric.as_json(scores)}
    write_json(Path(options.json), content)
  if options.statistics:
    save_statistics(options.statistics, reference, arrays['reference'], about)
  if options.sheet:
    write_sheet(options.sheet, samples, reference, arrays)
  if named and reasons:
    raise ValueError('; '.join(reasons))


def have_other_classes(*sets: Arrays) -> bool:
  """Returns whether two sets have labels, whose frequencies differ by more than by chance."""
  given = [np.asarray(x.get('labels', x.get('label', ()))) for x in sets]
  labels = [x for x in given if x.ndim == 1 and x.dtype.kind in 'iu' and len(x)]
  if len(labels) < 2:
    return False
  classes, first = np.unique(np.concatenate(labels), return_inverse=True)
  parts = np.split(first, [len(labels[0])])
  shares = np.array([np.bincount(x, minlength=len(classes)) / len(x) for x in parts])
  inverse = sum(1.0 / len(x) for x in labels)
  mean = np.bincount(first) / len(first)
  return bool((np.abs(shares[0] - shares[1]) > 4.5 * np.sqrt(mean * inverse) + inverse).any())


def save_statistics(path: str, reference: ImageSet, arrays: Arrays, about: Json) -> None:
  """Writes the statistics of the reference, and how they were made."""
  kinds = [kind for kind in fid.STATISTICS if kind in arrays]
  if not kinds:
    raise ValueError('--statistics needs images of the reference')
  parts = {kind: fid.statistics(arrays[kind]) for kind in kinds}
  kept = {n: x for n, x in about.items() if n not in ('samples', 'num_samples')}
  write_npz(Path(path), {**fid.as_arrays(parts), 'protocol': json.dumps(kept)})


def write_sheet(
  path: str, samples: ImageSet, reference: ImageSet, arrays: Mapping[str, Arrays]
) -> None:
  """Draws the samples nearest to the reference, next to their neighbours."""
  if not samples.shape[0] or not reference.shape[0]:
    raise ValueError('--sheet needs images of both sets')
  x, y = (arrays[name]['features'] for name in ('samples', 'reference'))
  distance, index = nearest(x, y)
  order = np.argsort(distance, kind='stable')[:40]
  left = image_sets.take(samples, order)
  right = image_sets.take(reference, index[order])
  write_png(path, pair_sheet(left, right))


if __name__ == '__main__':
  try:
    main(sys.argv[1:])
  except (OSError, ValueError) as problem:
    print(f'error: {problem}', file=sys.stderr)
    sys.exit(2)
