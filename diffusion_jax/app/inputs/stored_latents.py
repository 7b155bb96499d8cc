"""Latents that --mode=encode has written, as the examples of a training.

latents.json of their folder says what they depend on. The array x.npy, of the
test split test_x.npy, is [N, h, k, w, 2c]: mean and standard deviation of
q(z | x), before the scale, of each image and, with k = 2, of the mirrored one.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import folder, trust
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.inputs import datasets
from diffusion_jax.data import npz
from diffusion_jax.data.sources import ArraySource, Facts, OrderedSource, RedrawnSource, Source
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.files import read_json

RECORD = 'latents.json'


@dataclasses.dataclass(frozen=True, eq=False)
class StoredLatents(ArraySource):
  """Holds stored latents; `pipeline.mirrored` swaps those of the two images.

  order: of the images, see `OrderedSource`.
  """

  order: Callable[[np.random.Generator], np.ndarray] | None = None


def examples_of(
  config: Node, facts: Facts, images: Source, split: str = 'train'
) -> tuple[Source, Facts]:
  """Returns (source, facts) of what a training reads: images, or their latents.

  Raises UserError if latent.path has latents of other images.
  """
  path = config.at('latent.path')
  if not path:
    return images, facts
  trust.check_paths('latent.path', path)
  mirrored = {'mirrored': True} if config.training.random_flip else {}
  check_record(path, {split: contents(facts, images)} | mirrored)
  prefix = 'test_' if split == 'test' else ''
  with from_config('latent.path'):
    names = [n for n in ('x', 'label', 'context') if f'{prefix}{n}' in npz.names_of(path)]
    arrays = npz.read(path, [f'{prefix}{n}' for n in names]).values()
    if {*map(len, arrays)} != {len(images)}:
      raise ValueError(f'{path} has not {len(images)} rows in each array: write it again')
    order = images.order if isinstance(images, OrderedSource) else None
    arrays = dict(zip(names, arrays, strict=True))
    latents = StoredLatents(**arrays, num_classes=facts.num_classes, order=order)
  return latents, facts._replace(x=latents.facts.x)


def contents(facts: Facts, images: Source) -> Json:
  """Returns the facts of the images of a split, in JSON's types.

  Raises UserError for images that are drawn anew in each epoch.
  """
  if isinstance(images, RedrawnSource):
    raise UserError(
      'config.latent.path: data=binarized draws its images anew in each epoch, so that their '
      'latents cannot be stored: leave it out'
    )
  return json.loads(json.dumps(datasets.with_contents(facts, images).as_json()))


def check_record(path: str | Path, now: Json) -> None:
  """Raises UserError unless a folder has latents, which depend on `now`."""
  try:
    record = read_json(Path(path) / RECORD)
  except (FileNotFoundError, NotADirectoryError) as error:
    raise UserError(
      f'config.latent.path: {path} has no latents: the same command with --mode=encode writes them'
    ) from error
  if changed := folder.differences({name: record.get(name) for name in now}, now):
    raise UserError(
      f'config.latent.path: {path} has other latents: {changed}. The same command with '
      '--mode=encode and another latent.path writes these'
    )
