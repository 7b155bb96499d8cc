"""--mode=sample: images from a trained run."""

import functools
import shutil
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

import diffusion_jax as dj
from diffusion_jax import build
from diffusion_jax.core.keys import fold_in_each, split_key, stream
from diffusion_jax.data import images, sources
from diffusion_jax.errors import UserError
from diffusion_jax.families import latent, vae
from diffusion_jax.runs import (
  guidance_runs,
  processes,
  provenance,
  run_folder,
  sample_inputs,
)
from diffusion_jax.training import checkpoints
from diffusion_jax.training.sharding import (
  batch_sharding,
  replicate,
  replicated,
)


def run(config, workdir):
  """Writes <name>.png, <name>.npz and, if asked, <name>.gif into samples/.

  Where the network reads texts also <name>.txt, one text a line; of a VAE what
  `vae.pictures` writes. Each batch is kept in <name>.parts/ until all is there.
  """
  try:
    draw(config, workdir)
  except OSError as error:  # a full disk, most of all
    raise UserError(
      f'{error}. When that is mended, the same command continues'
    ) from error


def draw(config, workdir):
  """What `run` says."""
  config = run_folder.run_config(workdir, config)
  guidance_runs.check(config)
  latent.check_guide(config, workdir)
  told = sample_inputs.choose_images(config)
  labels = sample_inputs.choose_labels(config) if told is None else told.labels
  texts = sample_inputs.choose_texts(config, config.sampling.num_samples)
  given = None if told is None else told.image
  inputs = labels, given, sample_inputs.encode_texts(config, texts)
  mesh = build.build_mesh(config)
  choose_checkpoint(config, workdir)
  weights = restore(config, workdir)
  params = replicate(mesh, weights | latent.load(config, workdir))
  latents = latent.build(config, workdir)
  generate = make_generate(config, mesh, latents)
  settings = provenance.settings(config, workdir, weights)
  print(provenance.describe(settings))
  out = run_folder.prepare(Path(workdir) / 'samples')
  path = out / f'{config.sampling.name}.npz'
  parts = out / f'{config.sampling.name}.parts'
  done = processes.is_first() and is_done(path, parts, settings)
  if processes.agree([done])[0]:
    return

  n, size = config.sampling.num_samples, config.sampling.batch_size
  starts = range(0, n, size)
  paths = [parts / f'{start:08d}.npz' for start in starts]
  # all processes make the same parts, those that the first one misses
  missing = processes.agree([not path.exists() for path in paths])
  for i in tqdm(
    np.flatnonzero(missing), 'sampling', unit='batch', disable=None
  ):
    start = starts[i]
    index = np.arange(start, start + min(size, n))  # one shape, one compilation
    result = generate(params, index, *rows(inputs, index % n))
    check_numbers(config, result)
    if config.sampling.trajectory:
      if not start and processes.is_first():
        name = out / f'{config.sampling.name}.gif'
        images.write_gif(name, [picture(config, x) for x in thin(result, 50)])
        print(f'wrote {name}')
      result = result[-1]
    if processes.is_first():
      made = images.to_uint8(result, config.data.num_levels)[: n - start]
      write_part(paths[i], made, settings)
  if not processes.is_first():
    return

  pictures = gather(paths, n)
  arrays = {'settings': provenance.pack(settings)}
  if labels is not None:
    arrays['labels'] = labels
  if told is not None:
    arrays |= {'given': told.given, 'originals': told.originals}
  if texts:
    arrays['texts'] = np.array(texts)
  if build.is_vae(config):
    arrays |= vae.pictures(config, jax.device_get(params), path)
  run_folder.write_npz(path, {'arr_0': pictures} | arrays)
  print(f'wrote {path}: {n} images of {"x".join(map(str, pictures.shape[1:]))}')
  path = path.with_suffix('.png')
  images.write_png(path, sheet(config, pictures, told))
  print(f'wrote {path}')
  if texts:
    path = path.with_suffix('.txt')
    path.write_text(''.join(f'{text}\n' for text in texts))
    print(f'wrote {path}: what they should show, one line each')
  shutil.rmtree(parts)


def is_done(path, parts, settings):
  """Whether all is there, made with these settings, which is said.

  UserError where images, or parts of them, of other settings are there.
  """
  if path.exists():
    provenance.check_same(path, settings, path, 'sampling.name')
  begun = sorted(parts.glob('*.npz'))
  if begun:
    provenance.check_same(begun[0], settings, parts, 'sampling.name')
  elif path.exists():
    print(f'{path} is there already, made with these settings')
    return True
  return False


def write_part(path, pictures, settings):
  """Keeps the images of a batch, beside what they were made with."""
  path.parent.mkdir(exist_ok=True)
  arrays = {'arr_0': pictures, 'settings': provenance.pack(settings)}
  run_folder.write_npz(path, arrays)


def gather(paths, n):
  """The n images of all parts, in a file beside them rather than in memory."""
  found, end = None, 0
  for path in paths:
    try:
      with path.open('rb') as raw, np.load(raw) as part:
        pictures = part['arr_0']
    except sources.UNREADABLE as error:
      raise UserError(
        f'{path} is damaged ({error}): delete it, and the same command makes '
        'it again'
      ) from error
    if found is None:
      shape = n, *pictures.shape[1:]
      whole = path.with_name('all.npy')
      found = np.lib.format.open_memmap(whole, 'w+', np.uint8, shape)
    start, end = end, end + len(pictures)
    found[start:end] = pictures
  return found


def check_numbers(config, images):
  """UserError for NaN, which would be written as black pictures."""
  if np.isnan(images).any():
    raise UserError(
      f'the samples are nan: {config.sampling.sampler} may not take these '
      'levels (docs/samplers.md), or the training has diverged'
    )


def asked_checkpoint(config):
  """sampling.checkpoint: 'latest', 'best' or a step."""
  asked = config.sampling.checkpoint
  if asked in ('latest', 'best'):
    return asked
  if not asked.isdecimal():
    raise UserError(
      f'config.sampling.checkpoint={asked!r} is not one of latest, best, or a '
      'step'
    )
  return int(asked)


def choose_checkpoint(config, workdir):
  """Sets sampling.checkpoint to the step that it names."""
  try:
    step = checkpoints.find_step(workdir, asked_checkpoint(config))
  except (FileNotFoundError, ValueError) as error:
    raise UserError(str(error)) from error
  config.sampling.checkpoint = str(step)


def restore(config, workdir):
  """The parameters to sample from, as config.sampling chooses them."""
  c = config.sampling
  ema = build.ema_name(c.ema_decay) if c.ema and c.ema_decay else c.ema
  step = asked_checkpoint(config)
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
  runs = guidance_runs.find_guides(config)
  others = {name: run.params for name, run in runs.items()}
  others = replicate(mesh, others)

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
  zoom = max(1, round(48 / pictures.shape[1]))
  columns = sheet_columns(config, len(pictures), told is not None)
  return images.grid(pictures, min(columns, len(pictures)), zoom)


def sheet_columns(config, n, told):
  """In how many columns n pictures stand, so that what repeats is a column."""
  columns = int(np.ceil(n**0.5))
  if told:
    return 3 * max(1, columns // 3)
  prompts = (config.sampling.prompt or '').count('|') + 1
  labels = len(config.sampling.labels)
  if prompts > 1:
    return min(prompts, 20)
  if not sample_inputs.asks_for_labels(config):
    return columns
  if 0 < labels <= 20:  # as near to a square as multiples are
    return labels * max(1, round(columns / labels))
  return min(labels or config.data.num_classes, 20)
