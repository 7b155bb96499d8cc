"""Diffusion models of the latents of an autoencoder (Rombach et al. 2022).

What is diffused is z = scale * (a draw of q(z | x)), scale = 1 / std of such
draws over the training images, or latent.scale. A run keeps the autoencoder
that it began with: `autoencoder/`, a run folder with its config and averaged
weights, and, written last, `latent.json`: scale, where it came from, and a
checksum of the weights.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import build
from diffusion_jax.build.facts import state_shape
from diffusion_jax.build.make import from_config
from diffusion_jax.build.network import init_shapes
from diffusion_jax.core.keys import key_per_example, stream
from diffusion_jax.core.vae import reparameterize
from diffusion_jax.data import images
from diffusion_jax.errors import UserError
from diffusion_jax.families import diffusion, vae_models
from diffusion_jax.families.family import Latents
from diffusion_jax.runs import prerequisites, processes, run_folder
from diffusion_jax.runs.per_image import per_image
from diffusion_jax.training import checkpoints, checksums
from diffusion_jax.runtime.sharding import batch_sharding, replicate

NUM_IMAGES = 10_000  # of which, at most, the scale is computed
_BATCH = 500


# The value that a field must have, and why it can have no other in latents.
REQUIRED = {
  'objective.augment': (0.0, 'its changes are of images'),
  'conditioning.image': ('', 'its networks are conditioned on an image'),
  'conditioning.self_conditioning': (False, 'its estimate is within [-1, 1]'),
  'sampling.clip': (False, 'latents are not within [-1, 1]'),
  'sampling.dynamic_threshold': (0.0, 'latents are not within [-1, 1]'),
  'sampling.classifier': ('', 'classifiers are of images'),
}


# Hybrid trains variances by a bound whose last term takes latents for grey
# levels, as DiT does (Peebles & Xie 2023).
OBJECTIVES = ('denoising', 'hybrid')


def check(config):
  """Raises UserError for what diffusion in latents cannot have."""
  state_shape(config)
  if config.objective.name not in OBJECTIVES:
    raise UserError(
      f'config.objective.name={config.objective.name} in latents (latent.run): '
      'the bounds of other objectives are of pixels. Set it to '
      "'denoising' or 'hybrid' (docs/latent_diffusion.md)"
    )
  for field, (value, why) in REQUIRED.items():
    section, name = field.split('.')
    if config[section][name] != value:
      raise UserError(
        f'config.{field}={config[section][name]} in latents (latent.run): '
        f'{why}. Set it to {value!r} (docs/latent_diffusion.md)'
      )


def check_mode(config, mode):
  """Raises UserError for programs that need pixels."""
  if mode == 'edit' and config.edit.task in ('superres', 'colorize'):
    raise UserError(
      f'config.edit.task={config.edit.task}: a run in latents (latent.run) '
      'sees no pixels while it samples: take inpaint, sdedit, interpolate, or '
      'a run in pixels'
    )
  metrics = build.words(config.evaluation.metrics)
  other = [name for name in metrics if name not in FAMILY.metrics]
  if mode == 'evaluate' and other:
    raise UserError(
      f'config.evaluation.metrics: {other[0]} of latents is not in bits of '
      'images; the bound of their autoencoder is measured of its own run, '
      f'{config.latent.run} (elbo, iw)'
    )


def functions(config):
  """Returns the `Latents` of an autoencoder's config."""
  model = vae_models.build_model(config)

  def encode(autoencoder, x, keys=None):
    q = model.encode(autoencoder['network'], 1, x)
    z = q.mean if keys is None else reparameterize(keys, q)
    return autoencoder['scale'] * z

  def decode(autoencoder, z):
    z = z / autoencoder['scale']
    return model.image(model.decode(autoencoder['network'], 1, z))

  return Latents(encode, decode)


def open_latents(config, workdir):
  """Returns the `Latents` of a run.

  Of the autoencoder that the run keeps, or before it has begun of latent.run.
  Raises UserError for a missing or another kind of run, and another shape.
  """
  begun = _record(workdir).exists()
  found = read_config(config, _kept(workdir) if begun else config.latent.run)
  latents = functions(found)
  scale = jax.ShapeDtypeStruct((), jnp.float32)
  autoencoder = {'network': _abstract(found)['network'], 'scale': scale}
  x = jax.ShapeDtypeStruct((1, *config.data.image_shape), jnp.float32)
  shape = jax.eval_shape(latents.encode, autoencoder, x).shape[1:]
  if shape != state_shape(config):
    value = ','.join(map(str, shape))
    raise UserError(
      f'config.latent.shape={tuple(config.latent.shape)}: the latents of '
      f'{config.latent.run} need --config.latent.shape={value}'
    )
  smaller = functools.partial(shrink_mask, shape=shape)
  return latents._replace(shrink_mask=smaller, shapes=autoencoder)


def read_config(config, run):
  """Returns the config of the autoencoder in the run folder `run`.

  Raises UserError where there is no run, or none of a fitting autoencoder.
  """
  prerequisites.require('latent.run', run, trained=False)
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
  """Returns {'autoencoder': parameters} of a training.

  At the first start the autoencoder is copied into the run, and its scale is
  computed on `source`; later starts read the copy, and not latent.run.
  """
  begun = _record(workdir).exists()
  if not processes.broadcast([begun])[0]:
    store(config, workdir, latents, source, mesh)
    processes.broadcast([True])  # all wait until it is written
  return load(config, workdir)


def store(config, workdir, latents, source, mesh):
  """Writes autoencoder/ and latent.json."""
  run = config.latent.run
  found = read_config(config, run)
  with from_config('latent.run'):
    with checkpoints.open_read_only(run) as manager:
      step = manager.latest_step()
    shapes = _abstract(found)
    params, stored = checkpoints.restore_params(run, True, shapes, step)
  scale, count = config.latent.scale or found.latent.scale, 0
  if not scale:
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
  run_folder.write_json(kept / 'config.json', run_folder.read_config(run) or {})
  run_folder.write_json(_record(workdir), {
    'scale': scale,
    'images': count,
    'run': str(run),
    'step': step,
    'checksum': checksums.of_arrays(params),
  })  # fmt: skip
  measured = f'of {count:,} images' if count else 'as given (latent.scale)'
  print(f'latents of {run}, step {step}: scale {scale:.4f}, {measured}')


def load(config, workdir):
  """Returns {'autoencoder': parameters} as the run keeps them."""
  record, kept = read_record(workdir), _kept(workdir)
  shapes = _abstract(read_config(config, kept))
  try:
    params, _ = checkpoints.restore_params(kept, True, shapes, record['step'])
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
  """Returns latent.json of a run; raises UserError where it is unreadable."""
  path = _record(workdir)
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise UserError(f'{path} cannot be read ({error})') from error


def check_guide(config, workdir):
  """Raises UserError where sampling.guidance_run diffuses other latents."""
  guide = config.sampling.guidance_run
  if not guide:
    return
  ours, theirs = read_record(workdir), read_record(guide)
  if any(ours[name] != theirs[name] for name in ('checksum', 'scale')):
    raise UserError(
      f'config.sampling.guidance_run: {guide} has the latents of another '
      'autoencoder than this run'
    )


def make_encode(config, latents, mesh):
  """Returns (kept, batch, key, i) -> the batch, its images encoded.

  The latents are drawn with a key of `key`, i and the row, and so they are the
  same on any devices. kept: {'autoencoder': parameters}.
  """

  def encode(kept, batch, key, i):
    keys = key_per_example(jax.random.fold_in(key, i), len(batch['image']))
    z = latents.encode(kept['autoencoder'], batch['image'], keys)
    return batch | {'image': z}

  return jax.jit(encode, out_shardings=batch_sharding(mesh))


def draws(latents, params, source, mesh):
  """Yields unscaled draws of the latents of the first images, [n, h, w, c]."""
  autoencoder = {'network': params['network'], 'scale': jnp.ones(())}
  autoencoder = replicate(mesh, autoencoder)

  def draw(autoencoder, keys, x):
    return latents.encode(autoencoder, x, keys)

  compute = per_image(draw, mesh, stream(0, 'latent_scale'), _BATCH)
  count = min(len(source), NUM_IMAGES)
  for start in range(0, count, _BATCH):
    index = np.arange(start, min(start + _BATCH, count))
    pictures, _ = source.read(index)
    x = images.scale(pictures, source.num_levels)
    yield compute(autoencoder, index, x)


def inverse_std(parts):
  """Returns (1 / std of all numbers in all parts, count of rows), in float64.

  Rombach et al. 2022, appendix on rescaling; inf or nan for a std of 0 or nan.
  """
  rows, count, total, square = 0, 0, 0.0, 0.0
  for part in parts:
    part = np.asarray(part, np.float64)
    rows, count = rows + len(part), count + part.size
    total, square = total + part.sum(), square + (part**2).sum()
  with np.errstate(divide='ignore', invalid='ignore'):
    std = np.sqrt(square / count - (total / count) ** 2)
    return float(1.0 / std), rows


def shrink_mask(mask, shape):
  """Returns the mask [h, w, 1] of latents all of whose pixels are True."""
  h, w = shape[:2]
  blocks = mask.reshape(h, len(mask) // h, w, mask.shape[1] // w, 1)
  small = blocks.all(axis=(1, 3))
  print(f'in latents {small.mean():.0%} are known')
  return small


def _abstract(config):
  return init_shapes(vae_models.init(config))


def _record(workdir):
  return Path(workdir) / 'latent.json'


def _kept(workdir):
  return str(Path(workdir) / 'autoencoder')


FAMILY = diffusion.FAMILY._replace(
  metrics={'independent_pixels': diffusion.INDEPENDENT_PIXELS},
  check=check,
  check_mode=check_mode,
  check_guide=check_guide,
  latents=open_latents,
  load=load,
  prepare=prepare,
  kept_shapes=lambda config, latents: {'autoencoder': latents.shapes},
  make_encode=make_encode,
  keeps=('autoencoder', 'latent.json'),
)
