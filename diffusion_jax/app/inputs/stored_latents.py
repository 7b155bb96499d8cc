"""Latents that --mode=encode has written, as the examples of a training.

latents.json of their folder says what they depend on. The array x.npy, of other
splits test_x.npy and validation_x.npy, is [N, h, k, w, 2c]: mean and standard
deviation of q(z | x), before the scale, of each image and, with k = 2, of the
mirrored one. So `pipeline.mirrored` swaps the two.
"""

from pathlib import Path

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import folder
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.app.inputs import datasets
from diffusion_jax.data import npz, reads
from diffusion_jax.data.sources import ArraySource, Source, order_of
from diffusion_jax.data.spec import Facts
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.files import read_summed

RECORD = 'latents.json'


def examples_of(
  config: Node, facts: Facts, images: Source, split: str = 'train'
) -> tuple[Source, Facts]:
  """Returns (source, facts) of the latents of images that config.latent.path has.

  Raises UserError if these are latents of other images.
  """
  path = config.at('latent.path')
  mirrored = {'mirrored': True} if config.training.random_flip else {}
  check_record(path, {split: contents(config, facts, images)} | mirrored)
  prefix, count = prefix_of(split), len(images)
  with from_config('latent.path'):
    names = [f'{prefix}{name}' for name in ('x', 'label', 'context')]
    arrays = npz.read(path, {*names} & {*npz.names_of(path)})
    x, label, context = map(arrays.get, names)
    if x is None or {*map(len, arrays.values())} != {count}:
      raise ValueError(f'{path} must have {prefix}x and others with {count} rows: write it again')
    latents = ArraySource(x, label, facts.num_classes, context=context, order=order_of(images))
  return latents, facts._replace(x=latents.facts.x)


def prefix_of(split: str) -> str:
  """Returns what the names of a split's arrays begin with."""
  return '' if split == 'train' else f'{split}_'


def contents(config: Node, facts: Facts, images: Source) -> Json:
  """Returns the facts of the images of a split, in JSON's types."""
  return folder.stored_form(config, datasets.with_contents(facts, images))['facts']


def check_record(path: str | Path, now: Json, whole: bool = False) -> None:
  """Raises UserError unless a folder has latents whose record has what is in `now`.

  whole: and unless what was read while they were made is still the same (`reads`).
  """
  try:
    record = read_summed(Path(path) / RECORD)
  except (FileNotFoundError, NotADirectoryError) as error:
    raise UserError(
      f'config.latent.path: {path} has no {RECORD}: --mode=encode writes latents into a new folder'
    ) from error
  if whole:
    now = now | {'opened': reads.now(record.get('opened'))}
  if changed := folder.differences({name: record.get(name) for name in now}, now):
    raise UserError(
      f'config.latent.path: {path} has other latents: {changed}. The same command with '
      '--mode=encode and another latent.path writes these'
    )
