"""Diffusion in the latents of an autoencoder (Rombach et al. 2022).

What is diffused is z = scale * (a draw of q(z | x)), scale = 1 / std of such
draws over the training images. A run keeps the autoencoder that it began with:
`autoencoder/`, a run folder with its config and averaged weights, and, written
last, `latent.json`: scale, where it came from, and a checksum of the weights.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.build import vae_models
from diffusion_jax.build.latent import is_latent, state_shape
from diffusion_jax.build.make import from_config
from diffusion_jax.build.network import abstract_params, build_network
from diffusion_jax.core.keys import fold_in_each, key_per_example, stream
from diffusion_jax.core.vae import reparameterize
from diffusion_jax.data import images
from diffusion_jax.errors import UserError
from diffusion_jax.runs import processes, run_folder
from diffusion_jax.training import checkpoints, checksums
from diffusion_jax.training.sharding import (
  batch_sharding,
  replicate,
  replicated,
)

NUM_MEASURED = 10_000  # images, at most, that the scale is measured on
_BATCH = 500


class Latents(NamedTuple):
  """What is diffused instead of images, as functions of `frozen`.

  encode(frozen, x, keys=None) -> z [B, h, w, c], a draw with keys [B], else the
  mean; decode(frozen, z) -> x in [-1, 1]. frozen: {'network': parameters,
  'scale': []}, an argument of every program, never a constant in it.
  """

  encode: Callable
  decode: Callable


PIXELS = Latents(lambda frozen, x, keys=None: x, lambda frozen, z: z)


def functions(config):
  """The config of an autoencoder -> Latents."""
  model = vae_models.build_model(config, build_network(config))

  def encode(frozen, x, keys=None):
    q = model.encode(frozen['network'], 1, x)
    z = q.mean if keys is None else reparameterize(keys, q)
    return frozen['scale'] * z

  def decode(frozen, z):
    return model.image(model.decode(frozen['network'], 1, z / frozen['scale']))

  return Latents(encode, decode)


def build(config, workdir):
  """The functions of the run's latents; PIXELS where it has none.

  Of the autoencoder that the run keeps, or before it has begun of latent.run.
  UserError for a missing or another kind of run, and for another shape.
  """
  if not is_latent(config):
    return PIXELS
  begun = _record(workdir).exists()
  found = read_config(config, _kept(workdir) if begun else config.latent.run)
  latents = functions(found)
  frozen = {'network': abstract_params(found)['network'], 'scale': 1.0}
  x = jax.ShapeDtypeStruct((1, *config.data.image_shape), jnp.float32)
  shape = jax.eval_shape(latents.encode, frozen, x).shape[1:]
  if shape != state_shape(config):
    value = ','.join(map(str, shape))
    raise UserError(
      f'config.latent.shape={tuple(config.latent.shape)}: the latents of '
      f'{config.latent.run} need --config.latent.shape={value}'
    )
  return latents


def read_config(config, run):
  """The config of the autoencoder in the run folder `run`; or UserError."""
  if run_folder.read_config(run) is None:
    raise UserError(
      f'config.latent.run: there is no run in {run}: train an autoencoder '
      'first, as --config=configs/digits_autoencoder.py does, or give '
      '--config.latent.run=its workdir'
    )
  sections = *run_folder.RUN_SECTIONS, 'training', 'sampling'
  found = run_folder.run_config(run, config, sections)
  if found.objective.name != 'vae' or found.network.latent_dim:
    raise UserError(
      f'config.latent.run: the run in {run} has no latents of height and width:'
      ' it needs objective.name=vae, network.latent_dim=0'
    )
  if found.data.image_shape != config.data.image_shape:
    raise UserError(
      f'config.latent.run: data.image_shape is {found.data.image_shape} in '
      f'{run}, {config.data.image_shape} here'
    )
  return found


def prepare(config, workdir, latents, source, mesh):
  """{'autoencoder': frozen} of a training; {} in pixels.

  At the first start the autoencoder is copied into the run, and its scale
  measured on `source`; later what is stored is read, and latent.run is not.
  """
  begun = _record(workdir).exists()
  if is_latent(config) and not processes.agree([begun])[0]:
    store(config, workdir, latents, source, mesh)
    processes.agree([True])  # all wait until it is written
  return load(config, workdir)


def store(config, workdir, latents, source, mesh):
  """Writes autoencoder/ and latent.json."""
  run = config.latent.run
  found = read_config(config, run)
  with from_config('latent.run'):
    with checkpoints.open_read_only(run) as manager:
      step = manager.latest_step()
    like = abstract_params(found)
    params, stored = checkpoints.restore_params(run, True, like, step)
  with from_config('data'):
    drawn = draws(latents, params, source, mesh)
    scale, count = inverse_std(drawn)
  if not np.isfinite(scale):
    raise UserError(
      f'config.latent.run: the latents of {run} are all the same, or nan: is it'
      ' trained?'
    )
  kept = run_folder.prepare(_kept(workdir))
  checkpoints.save_params(kept, step, params, stored)
  if not processes.is_first():
    return
  run_folder.write_json(kept / 'config.json', run_folder.read_config(run))
  run_folder.write_json(_record(workdir), {
    'scale': scale,
    'images': count,
    'run': str(run),
    'step': step,
    'checksum': checksums.of_arrays(params),
  })  # fmt: skip
  print(
    f'latents of {run}, step {step}: scale {scale:.4f}, of {count:,} images'
  )


def load(config, workdir):
  """{'autoencoder': frozen} as the run keeps it; {} in pixels."""
  if not is_latent(config):
    return {}
  record, kept = read_record(workdir), _kept(workdir)
  like = abstract_params(read_config(config, kept))
  try:
    params, _ = checkpoints.restore_params(kept, True, like, record['step'])
  except (FileNotFoundError, ValueError) as error:
    raise UserError(str(error)) from error
  if checksums.of_arrays(params) != record['checksum']:
    raise UserError(
      f'the weights in {kept} are not those that this run began with '
      f'({_record(workdir)}): another --workdir begins anew'
    )
  scale = jnp.asarray(record['scale'], jnp.float32)
  return {'autoencoder': {'network': params['network'], 'scale': scale}}


def read_record(workdir):
  """latent.json of a run."""
  path = _record(workdir)
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise UserError(f'{path} cannot be read ({error})') from error


def check_guide(config, workdir):
  """UserError where sampling.guidance_run diffuses other latents."""
  guide = config.sampling.guidance_run
  if not (is_latent(config) and guide):
    return
  ours, theirs = read_record(workdir), read_record(guide)
  if any(ours[name] != theirs[name] for name in ('checksum', 'scale')):
    raise UserError(
      f'config.sampling.guidance_run: {guide} has the latents of another '
      'autoencoder than this run'
    )


def make_encode(config, latents, mesh):
  """(frozen, batch, key, i) -> the batch with latents in place of its images.

  Drawn with a key of `key`, i and the row, and so the same on any devices.
  """
  if not is_latent(config):
    return lambda frozen, batch, key, i: batch

  def encode(frozen, batch, key, i):
    keys = key_per_example(jax.random.fold_in(key, i), len(batch['image']))
    z = latents.encode(frozen['autoencoder'], batch['image'], keys)
    return batch | {'image': z}

  return jax.jit(encode, out_shardings=batch_sharding(mesh))


def draws(latents, params, source, mesh):
  """Unscaled draws of the latents of the first images, [n, h, w, c] each."""
  frozen = {'network': params['network'], 'scale': jnp.ones(())}
  frozen = replicate(mesh, frozen)

  @functools.partial(jax.jit, out_shardings=replicated(mesh))
  def draw(frozen, index, x):
    keys = fold_in_each(stream(0, 'latent_scale'), index)
    return latents.encode(frozen, x, keys)

  count = min(len(source), NUM_MEASURED)
  for start in range(0, count, _BATCH):
    index = np.arange(start, min(start + _BATCH, count))
    # one shape for all batches; images that fill one up are dropped
    filled = np.arange(-(-_BATCH // mesh.size) * mesh.size) % len(index)
    pictures, _ = source.read(index)
    x = images.scale(pictures, source.num_levels)
    inputs = jax.device_put((index[filled], x[filled]), batch_sharding(mesh))
    yield np.asarray(draw(frozen, *inputs))[: len(index)]


def inverse_std(parts):
  """(1 / std of all numbers in all parts, count of rows), in float64.

  Rombach et al. 2022, appendix on rescaling; inf or nan where there is none.
  """
  rows, count, total, square = 0, 0, 0.0, 0.0
  for part in parts:
    part = np.asarray(part, np.float64)
    rows, count = rows + len(part), count + part.size
    total, square = total + part.sum(), square + (part**2).sum()
  with np.errstate(divide='ignore', invalid='ignore'):
    std = np.sqrt(square / count - (total / count) ** 2)
    return float(1.0 / std), rows


def encode_given(config, latents, params, given):
  """What an edit was given, as it is diffused: pictures, masks, by name.

  Pictures uint8 [H, W, C] -> means of z [h, w, c] (in pixels: [-1, 1]); masks
  are known where all pixels of a latent are.
  """
  ask = jax.jit(latents.encode)
  seen = {}
  for name, x in given.items():
    if x.dtype == bool:
      seen[name] = (
        shrink_mask(x, state_shape(config)) if is_latent(config) else x
      )
    else:
      seen[name] = ask(params.get('autoencoder'), images.scale(x)[None])[0]
  return seen


def shrink_mask(mask, shape):
  """bool [H, W, 1] -> [h, w, 1]: True where all of a latent's pixels are."""
  h, w = shape[:2]
  blocks = mask.reshape(h, len(mask) // h, w, mask.shape[1] // w, 1)
  small = blocks.all(axis=(1, 3))
  print(f'in latents {small.mean():.0%} are known')
  return small


def _record(workdir):
  return Path(workdir) / 'latent.json'


def _kept(workdir):
  return str(Path(workdir) / 'autoencoder')
