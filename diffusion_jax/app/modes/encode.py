"""Implements --mode=encode: stores the latents of all images, once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from diffusion_jax.aliases import Json, Params
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.inputs.stored_latents import RECORD, check_record, contents, prefix_of
from diffusion_jax.app.kinds.latent.model import StoredAutoencoder
from diffusion_jax.app.kinds.model import make_mesh
from diffusion_jax.app.run import provenance
from diffusion_jax.atomic_files import draft, draft_folder
from diffusion_jax.data import sums
from diffusion_jax.data.sources import Source, check_examples
from diffusion_jax.data.splits import NoTestSplit
from diffusion_jax.errors import UserError
from diffusion_jax.paths import expanded
from diffusion_jax.runtime import run_folder
from diffusion_jax.runtime.files import make_folder, write_summed
from diffusion_jax.runtime.per_example import Arrays, join_parts, per_example, write_parts
from diffusion_jax.runtime.run_folder import RunFolder


def main(config: Node, workdir: RunFolder) -> None:
  """Writes the folder latent.path; see `inputs.stored_latents`.

  It has both splits and, with training.random_flip, the mirrored images too;
  training.batch_size images are encoded at a time. <latent.path>-<hash>.parts
  keeps the batches until all are there.
  """
  if not config.at('latent.path'):
    needs = ' needs a config that diffuses latents, as configs/digits_latent.py'
    needs *= config.at('latent') is None
    raise UserError(f'--mode=encode{needs}: set its config.latent.path to the folder to write')
  with from_config('latent.path'):
    path = Path(expanded(config.latent.path, written=True))
  config = datasets.of_run(config, workdir)
  facts, splits = datasets.facts_of(config), splits_of(config)
  autoencoder = StoredAutoencoder(config, workdir, facts)
  params = autoencoder.weights().params
  record = {'autoencoder': autoencoder.identity(), 'mirrored': config.training.random_flip}
  record |= {split: contents(config, facts, images) for split, images in splits.items()}
  record = provenance.made_of(config, record)
  with run_folder.hold(make_folder(path.parent), path.name, '--config.latent.path'):
    if path.exists():
      check_record(path, record, whole=True)
      print(f'{path} is there already, with these latents')
      return
    size, files = config.training.batch_size, {}
    code = sums.of_json(record | {'batch_size': size})
    parts = path.with_name(f'{path.name}-{code}.parts')
    for split, images in splits.items():
      start = encoder(autoencoder, params['network'], images)
      files[split] = write_parts(start, len(images), size, parts / split, f'encoding {split}')
      record = provenance.finished(record, parts / split)
    write(path, files, record)
    shutil.rmtree(parts)


def splits_of(config: Node) -> dict[str, Source]:
  """Returns the images of each split that the data have."""
  names = ('train', 'validation') if config.data.validation_fraction else ('train',)
  splits = {name: datasets.source_of(config, name) for name in names}
  try:
    return splits | {'test': datasets.source_of(config, 'test')}
  except UserError as error:
    if not isinstance(error.__cause__, NoTestSplit):
      raise
  return splits


def encoder(
  autoencoder: StoredAutoencoder, network: Params, images: Source
) -> Callable[[np.ndarray], Callable[[], Arrays]]:
  """Returns index [n] -> () -> the arrays of n images, for `write_parts`."""
  c = autoencoder.config.training

  def moments(network, keys, x):
    both = (x, x[:, :, ::-1]) if c.random_flip else (x,)
    return jnp.stack([autoencoder.moments(network, x) for x in both], axis=2)

  mesh = make_mesh(autoencoder.config)
  size = min(c.batch_size, len(images))
  compute = per_example(moments, mesh, {}, size, what='the latents')

  def start(index):
    with from_config('data'):
      arrays = check_examples(images.read(index), images.facts)
    fetch = compute.start(network, index, autoencoder.facts.x.encode(arrays['x']))
    others = {name: arrays[name] for name in ('label', 'context') if name in arrays}
    return lambda: {'x': fetch()} | others

  return start


def write(path: Path, files: dict[str, list[Path]], record: Json) -> None:
  """Writes the folder of all latents, whole or not at all."""
  with draft_folder(path) as new:
    for split, parts in files.items():
      prefix = prefix_of(split)
      for name, array in join_parts(parts).items():
        with draft(new / f'{prefix}{name}.npy') as file:
          np.save(file, array)
    write_summed(new / RECORD, record)
  counts = ' and '.join(f'{record[split]["examples"]:,} {split}' for split in files)
  print(f'wrote {path}: the latents of {counts} images')
