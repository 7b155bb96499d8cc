"""Compares samples with a reference, both from files of any project.

python -m diffusion_jax.evaluation.compare samples.npz reference.npz \
  --features=digits

SAMPLES and REFERENCE are npz files or folders of images (`image_sets`).
--features=NAME: of `features.EXTRACTORS`; not needed for files of features
--weights=PATH: the file of weights of inception or dinov2, or its folder
--metrics=NAME,...: of `scores.MEASURES`; all that the sets allow by default,
  and a line for each that they do not
--held_out=SET: test images, to see whether samples copy the reference
--sheet=FILE.png: the samples closest to the reference, beside their neighbours
--json=FILE: the table with its protocol
--statistics=FILE.npz: the statistics of the reference, to be used instead of it
--bootstrap=10: draws for the error of Frechet distances; 0: none
--batch_size=64: images at a time
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from diffusion_jax.data.images import write_png
from diffusion_jax.evaluation import (
  estimates,
  features,
  fid,
  image_sets,
  scores,
)
from diffusion_jax.evaluation.image_sets import ImageSet
from diffusion_jax.evaluation.memorisation import pair_sheet
from diffusion_jax.evaluation.neighbours import nearest

OPTIONS = {
  'features': '',
  'weights': '',
  'metrics': '',
  'held_out': '',
  'sheet': '',
  'json': '',
  'statistics': '',
  'bootstrap': '10',
  'batch_size': '64',
}


def parse(argv: list[str]) -> tuple[list[str], dict[str, str]]:
  """Returns (paths, options) of a command line; raises ValueError."""
  paths, options = [], dict(OPTIONS)
  for argument in argv:
    if not argument.startswith('--'):
      paths.append(argument)
      continue
    name, sign, value = argument[2:].partition('=')
    if not sign or name not in OPTIONS:
      raise ValueError(
        f'{argument} is no option: give --NAME=VALUE, with one of '
        f'{", ".join(OPTIONS)}'
      )
    options[name] = value
  if len(paths) != 2:
    raise ValueError(
      'usage: python -m diffusion_jax.evaluation.compare SAMPLES REFERENCE '
      '--features=NAME'
    )
  for name, least in (('bootstrap', 0), ('batch_size', 1)):
    if not options[name].isdecimal() or int(options[name]) < least:
      raise ValueError(f'--{name}={options[name]}: give a number from {least}')
  return paths, options


def compare(
  samples: ImageSet,
  reference: ImageSet,
  extractor: features.Extractor | None = None,
  held_out: ImageSet | None = None,
  metrics: tuple[str, ...] = (),
  num_draws: int = 10,
  batch_size: int = 64,
) -> tuple[list[scores.Score], list[str], dict[str, scores.Described]]:
  """Returns (scores, reasons, descriptions) of two sets.

  metrics: names of `scores.MEASURES`; () is all of them. reasons: a sentence
  for each metric that the sets do not allow. descriptions: what is known of
  each set, by its name. Raises ValueError for sets that cannot be compared.
  """
  sets = {'samples': samples, 'reference': reference}
  if held_out is not None:
    sets['held_out'] = held_out
  for other in list(sets.values())[1:]:
    image_sets.check_same_size(samples, other)
  known = {
    name: describe(found, extractor, batch_size) for name, found in sets.items()
  }
  if 'features' in known['samples'].found:
    check_dimension(reference, known['samples'].found['features'].shape[1])
  test = known['held_out'].found.get('features') if held_out else None
  setting = scores.Setting(held_out=test, num_draws=num_draws)
  rows, reasons = [], []
  for name in metrics or scores.MEASURES:
    try:
      rows += scores.score(name, known['samples'], known['reference'], setting)
    except estimates.Missing as error:
      reasons.append(str(error))
  return rows, reasons, known


def describe(
  found: ImageSet, extractor: features.Extractor | None, batch_size: int
) -> scores.Described:
  """Computes the features of a set, or reads those that it has."""
  described: dict[str, np.ndarray] = {}
  if 'features' in found.arrays:
    described['features'] = found.arrays['features']
  elif found.shape[0]:
    if extractor is None:
      raise ValueError(
        f'{found.name} has images: choose --features, one of '
        f'{", ".join(features.EXTRACTORS)}'
      )
    with tqdm(
      total=found.shape[0], desc=found.name, unit='image', disable=None
    ) as bar:
      batches = found.batches(batch_size)
      described = features.join(features.each(extractor, batches, bar.update))
  if extractor is not None:
    check_protocol(found, extractor)
  return scores.Described(
    described,
    found.arrays.get('labels'),
    image_sets.statistics(found),
    image_sets.statistics(found, '_s'),
  )


def check_dimension(found: ImageSet, dimension: int) -> None:
  """Raises ValueError if mu of a file is not of so many features."""
  known = image_sets.statistics(found)
  if known is not None and len(known.mean) != dimension:
    raise ValueError(
      f'mu of {found.name} has {len(known.mean)} numbers, and the samples have '
      f'{dimension} features: it was made with others'
    )


def check_protocol(found: ImageSet, extractor: features.Extractor) -> None:
  """Raises ValueError if a file's statistics were made in another way."""
  for field, value in extractor.identity.items():
    made = found.protocol.get(field, value)
    if made != value:
      raise ValueError(
        f'{found.name} was made with {field} {made!r}, not {value!r}: the '
        'two cannot be compared'
      )


def protocol(
  samples: ImageSet,
  reference: ImageSet,
  extractor: features.Extractor | None,
) -> dict[str, Any]:
  """Returns what the figures depend on, as JSON has it."""
  identity = (
    {'features': 'of the files'} if extractor is None else (extractor.identity)
  )
  return {
    'samples': samples.name,
    'num_samples': samples.shape[0],
    'reference': reference.name,
    'num_reference': reference.shape[0],
    **identity,
  }


def main(argv: list[str]) -> None:
  """Prints the table of a command line, and writes the files it names.

  Raises ValueError for a mistake, and at the end for a metric that --metrics
  names and the sets do not allow.
  """
  paths, options = parse(argv)
  samples, reference = map(image_sets.read, paths)
  held_out = options['held_out'] and image_sets.read(options['held_out'])
  extractor = None
  if options['features']:
    extractor = features.make(
      options['features'], options['weights'], int(options['batch_size'])
    )
  metrics = tuple(filter(None, options['metrics'].split(',')))
  for name in metrics:
    if name not in scores.MEASURES:
      raise ValueError(
        f'--metrics: {name} is not one of {", ".join(scores.MEASURES)}'
      )
  rows, reasons, known = compare(
    samples,
    reference,
    extractor,
    held_out or None,
    metrics,
    int(options['bootstrap']),
    int(options['batch_size']),
  )
  if rows:
    print(scores.table(rows))
  for reason in reasons if not metrics else ():
    print(f'not computed: {reason}')
  made = protocol(samples, reference, extractor)
  print(', '.join(f'{name} {value}' for name, value in made.items()))
  if options['json']:
    content = {'protocol': made, 'metrics': scores.as_json(rows)}
    Path(options['json']).write_text(json.dumps(content, indent=2) + '\n')
  if options['statistics']:
    save_statistics(options['statistics'], known['reference'], made)
  if options['sheet']:
    write_sheet(options['sheet'], samples, reference, known)
  if metrics and reasons:  # They were asked for by name.
    raise ValueError('; '.join(reasons))


def save_statistics(path, reference, made):
  """Writes the statistics of the reference, and how they were made."""
  parts = {
    suffix: fid.statistics(reference.found[name])
    for suffix, name in (('', 'features'), ('_s', 'spatial'))
    if name in reference.found
  }
  if not parts:
    raise ValueError('--statistics needs images of the reference')
  del made['samples'], made['num_samples']
  image_sets.write_statistics(path, parts, made)


def write_sheet(path, samples, reference, known):
  """Writes the samples next to the reference beside their neighbours there."""
  if not samples.shape[0] or not reference.shape[0]:
    raise ValueError('--sheet needs images of both sets')
  x, y = (known[name].found['features'] for name in ('samples', 'reference'))
  distance, index = nearest(x, y)
  order = np.argsort(distance, kind='stable')[:40]
  write_png(
    path,
    pair_sheet(
      image_sets.take(samples, order), image_sets.take(reference, index[order])
    ),
  )


if __name__ == '__main__':
  try:
    main(sys.argv[1:])
  except (OSError, ValueError) as problem:
    print(f'error: {problem}', file=sys.stderr)
    sys.exit(2)
