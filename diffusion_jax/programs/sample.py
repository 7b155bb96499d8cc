"""--mode=sample: images from a trained run."""

import functools
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

import diffusion_jax as dj
from diffusion_jax.core.keys import fold_in_each, split_key, stream
from diffusion_jax.data import images
from diffusion_jax.programs import (
  UserError,
  build,
  distributed,
  folder,
  guides,
  latent,
  vae,
  wanted,
)
from diffusion_jax.training import checkpoints
from diffusion_jax.training.sharding import batch_sharding, replicated, to_all


def run(config, workdir):
  """Writes <name>.png, <name>.npz and, if asked, <name>.gif into samples/.

  Where the network reads texts also <name>.txt, one text a line; of a VAE what
  `vae.pictures` writes.
  """
  config = folder.run_config(workdir, config)
  check(config)
  guides.check(config)
  latent.check_guide(config, workdir)
  told = wanted.choose_images(config)
  labels = wanted.choose_labels(config) if told is None else told.labels
  texts = wanted.choose_texts(config, config.sampling.num_samples)
  given = None if told is None else told.image
  inputs = labels, given, wanted.encode_texts(config, texts)
  mesh = build.build_mesh(config)
  params = restore(config, workdir) | latent.load(config, workdir)
  params = to_all(mesh, params)
  latents = latent.build(config, workdir)
  generate = make_generate(config, mesh, latents)
  out = folder.prepare(Path(workdir) / 'samples')

  n, size = config.sampling.num_samples, config.sampling.batch_size
  pictures = []
  for start in tqdm(range(0, n, size), 'sampling', unit='batch', disable=None):
    index = np.arange(start, start + min(size, n))  # one shape, one compilation
    result = generate(params, index, *rows(inputs, index % n))
    check_numbers(config, result)
    if config.sampling.trajectory:
      if not start and distributed.is_first():
        name = out / f'{config.sampling.name}.gif'
        images.write_gif(name, [picture(config, x) for x in thin(result, 50)])
        print(f'wrote {name}')
      result = result[-1]
    pictures.append(images.to_uint8(result, config.data.num_levels))
  pictures = np.concatenate(pictures)[:n]
  if not distributed.is_first():
    return

  arrays = {} if labels is None else {'labels': labels}
  if told is not None:
    arrays |= {'given': told.given, 'originals': told.originals}
  if texts:
    arrays['texts'] = np.array(texts)
  path = out / f'{config.sampling.name}.npz'
  if build.is_vae(config):
    arrays |= vae.pictures(config, jax.device_get(params), path)
  np.savez(path, arr_0=pictures, **arrays)
  print(f'wrote {path}: {n} images of {"x".join(map(str, pictures.shape[1:]))}')
  path = path.with_suffix('.png')
  images.write_png(path, sheet(config, pictures, told))
  print(f'wrote {path}')
  if texts:
    path = path.with_suffix('.txt')
    path.write_text(''.join(f'{text}\n' for text in texts))
    print(f'wrote {path}: what they should show, one line each')


def check(config):
  """UserError for counts below 1."""
  for field in ('num_samples', 'batch_size', 'num_steps'):
    value = config.sampling[field]
    if value < 1:
      raise UserError(f'config.sampling.{field}={value}: at least 1 is needed')


def check_numbers(config, images):
  """UserError for NaN, which would be written as black pictures."""
  if np.isnan(images).any():
    raise UserError(
      f'the samples are nan: {config.sampling.sampler} may not take these '
      'levels (docs/samplers.md), or the training has diverged'
    )


def restore(config, workdir):
  """The parameters to sample from, as config.sampling chooses them."""
  c = config.sampling
  ema = build.ema_name(c.ema_decay) if c.ema and c.ema_decay else c.ema
  step = int(c.checkpoint) if c.checkpoint.isdecimal() else c.checkpoint
  if step not in ('latest', 'best') and not isinstance(step, int):
    raise UserError(
      f'config.sampling.checkpoint={step!r} is not one of latest, best, or a '
      'step'
    )
  like = build.abstract_params(config)
  try:
    return checkpoints.restore_params(workdir, ema, like, step)[0]
  except (FileNotFoundError, ValueError) as error:
    raise UserError(str(error)) from error


def walk(config, params):
  """(schedule of the run, levels, sampler), as config.sampling has them."""
  trained = build.build_schedule(config, params)  # it may be learned
  walked = build.build_walked_schedule(config, trained)
  sampler = build.build_sampler(config, walked)
  if config.conditioning.self_conditioning:
    sampler = dj.self_conditioned(sampler)
  return trained, build.build_levels(config, walked), sampler


def build_denoise(config, params, cond, trained, change=None, guides=None):
  """What the sampler of `walk` is handed; rest as in build.build_denoiser."""

  def there(denoise):  # wherever the walk leads
    if not config.sampling.schedule:
      return denoise
    return dj.at_training_levels(denoise, trained)

  if not config.conditioning.self_conditioning:
    return there(build.build_denoiser(config, params, cond, change, guides))
  given = build.build_self_conditioned(config, params, cond, change, guides)
  return lambda x0: there(given(x0))


def make_generate(config, mesh, latents=latent.PIXELS):
  """(params, index [B], labels, image, text) -> images [B, H, W, C] in [-1, 1].

  labels: [B]; image: cond['image'] [B, ...], of networks told of one; text:
  {'text': [B, L], 'text_mask': [B, L]}; each may be None. Image i of a seed is
  the same in whatever batch and on however many devices it is made. With
  sampling.trajectory all states from noise to image, [N + 1, B, H, W, C].
  Inputs but the parameters are NumPy arrays, and so are the images. Where
  `latents` are diffused, params['autoencoder'] decodes them.
  """
  if build.is_vae(config):
    return vae.make_generate(config, mesh)
  build.check_signal(config)
  c = config.sampling
  # refuses at once
  jax.eval_shape(lambda p: walk(config, p)[1], build.abstract_params(config))
  runs = guides.find_guides(config)
  others = {name: run.params for name, run in runs.items()}
  others = to_all(mesh, others)

  @functools.partial(jax.jit, out_shardings=replicated(mesh))
  def on_mesh(params, others, index, labels, image, text):
    guiding = {n: run._replace(params=others[n]) for n, run in runs.items()}
    keys = fold_in_each(stream(c.seed, 'sampling'), index)
    prior_keys, keys = split_key(keys, 2)
    cond = {'label': labels, 'image': image, **(text or {})}
    cond = {name: x for name, x in cond.items() if x is not None}
    trained, levels, sampler = walk(config, params)
    denoise = build_denoise(config, params, cond, trained, guides=guiding)
    shape = (*index.shape, *build.state_shape(config))
    x = dj.prior_sample(prior_keys, shape, levels.take(0))
    x = dj.sample(keys, denoise, sampler, levels, x, c.trajectory)
    decode = functools.partial(latents.decode, params.get('autoencoder'))
    return jax.lax.map(decode, x) if c.trajectory else decode(x)

  def generate(params, index, labels, image=None, text=None):
    # every device takes as many images; those too many are dropped
    n = len(index)
    padded = np.arange(-(-n // mesh.size) * mesh.size) % n
    inputs = rows((index, labels, image, text), padded)
    inputs = jax.device_put(inputs, batch_sharding(mesh))
    x = np.asarray(on_mesh(params, others, *inputs))
    return x[:, :n] if c.trajectory else x[:n]

  return generate


def rows(tree, index):
  """Rows of every array [N, ...] of a tree."""
  return jax.tree.map(lambda x: x[index], tree)


def thin(frames, n):
  """At most n of the frames, evenly spread, the first and the last included."""
  chosen = np.linspace(0, len(frames) - 1, min(n, len(frames)))
  return frames[np.rint(chosen).astype(int)]


def picture(config, x, told=None):
  """Images [B, H, W, C] in [-1, 1] -> one sheet, uint8."""
  return sheet(config, images.to_uint8(x, config.data.num_levels), told)


def sheet(config, pictures, told=None, limit=400):
  """The first pictures, uint8, on one; columns are classes or prompts.

  told: each stands between what it was made of and the original.
  """
  if told is not None:
    threes = zip(told.given, pictures, told.originals, strict=False)
    pictures = np.concatenate([np.stack(three) for three in threes])
    limit = 3 * (limit // 3)
  pictures = pictures[:limit]
  columns = int(np.ceil(len(pictures) ** 0.5))
  prompts = (config.sampling.prompt or '').count('|') + 1
  if told is not None:
    columns = 3 * max(1, columns // 3)
  elif prompts > 1:
    columns = min(prompts, 20)
  elif wanted.asks_for_labels(config) and not config.sampling.labels:
    columns = min(config.data.num_classes, 20)
  zoom = max(1, round(48 / pictures.shape[1]))
  return images.grid(pictures, min(columns, len(pictures)), zoom)
