"""--mode=sample: images from a trained run."""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

import diffusion_jax as dj
from diffusion_jax.data import images
from diffusion_jax.data.text import encode
from diffusion_jax.programs import UserError, build, folder, guides
from diffusion_jax.training import checkpoints
from diffusion_jax.training.sharding import batch_sharding, replicated


def run(config, workdir):
  """Writes <name>.png, <name>.npz and, if asked, <name>.gif into samples/.

  Where the network reads texts also <name>.txt, one text a line.
  """
  config = folder.run_config(workdir, config)
  check(config)
  guides.check(config)
  told = choose_images(config)
  labels = choose_labels(config) if told is None else told.labels
  texts = choose_texts(config, config.sampling.num_samples)
  given = None if told is None else told.image
  inputs = labels, given, encode_texts(config, texts)
  mesh = build.build_mesh(config)
  params = jax.device_put(restore(config, workdir), replicated(mesh))
  generate = make_generate(config, mesh)
  out = folder.prepare(Path(workdir) / 'samples')

  n, size = config.sampling.num_samples, config.sampling.batch_size
  pictures = []
  for start in tqdm(range(0, n, size), 'sampling', unit='batch', disable=None):
    index = np.arange(start, start + min(size, n))  # one shape, one compilation
    result = generate(params, index, *rows(inputs, index % n))
    check_numbers(config, result)
    if config.sampling.trajectory:
      if not start:
        name = out / f'{config.sampling.name}.gif'
        images.write_gif(name, [picture(config, x) for x in thin(result, 50)])
        print(f'wrote {name}')
      result = result[-1]
    pictures.append(images.to_uint8(result, config.data.num_levels))
  pictures = np.concatenate(pictures)[:n]

  arrays = {} if labels is None else {'labels': labels}
  if told is not None:
    arrays |= {'given': told.given, 'originals': told.originals}
  if texts:
    arrays['texts'] = np.array(texts)
  path = out / f'{config.sampling.name}.npz'
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


def make_generate(config, mesh):
  """(params, index [B], labels, image, text) -> images [B, H, W, C] in [-1, 1].

  labels: [B]; image: cond['image'] [B, ...], of networks told of one; text:
  {'text': [B, L], 'text_mask': [B, L]}; each may be None. Image i of a seed is
  the same in whatever batch and on however many devices it is made. With
  sampling.trajectory all states from noise to image, [N + 1, B, H, W, C].
  Inputs but the parameters are NumPy arrays, and so are the images.
  """
  build.check_signal(config)
  c = config.sampling
  # refuses at once
  jax.eval_shape(lambda p: walk(config, p)[1], build.abstract_params(config))
  runs = guides.find_guides(config)
  others = {name: run.params for name, run in runs.items()}
  others = jax.device_put(others, replicated(mesh))

  @functools.partial(jax.jit, out_shardings=replicated(mesh))
  def on_mesh(params, others, index, labels, image, text):
    guiding = {n: run._replace(params=others[n]) for n, run in runs.items()}
    key = jax.random.key(c.seed)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(index)
    prior_keys, keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    cond = {'label': labels, 'image': image, **(text or {})}
    cond = {name: x for name, x in cond.items() if x is not None}
    trained, levels, sampler = walk(config, params)
    denoise = build_denoise(config, params, cond, trained, guides=guiding)
    shape = (*index.shape, *config.data.image_shape)
    x = dj.prior_sample(prior_keys, shape, levels.take(0))
    return dj.sample(keys, denoise, sampler, levels, x, c.trajectory)

  def generate(params, index, labels, image=None, text=None):
    # every device takes as many images; those too many are dropped
    n = len(index)
    padded = np.arange(-(-n // mesh.size) * mesh.size) % n
    inputs = rows((index, labels, image, text), padded)
    inputs = jax.device_put(inputs, batch_sharding(mesh))
    x = np.asarray(on_mesh(params, others, *inputs))
    return x[:, :n] if c.trajectory else x[:n]

  return generate


def choose_labels(config):
  """Labels of the images to sample, int32 [N]: those asked for, in turn."""
  if not asks_for_labels(config):
    if config.sampling.labels:
      raise UserError(
        'config.sampling.labels is set, but the network of this run knows no '
        'labels (conditioning.labels), and no sampling.classifier does'
      )
    return None
  classes = config.data.num_classes
  wanted = config.sampling.labels or range(classes)
  for label in wanted:
    if not (isinstance(label, int) and 0 <= label < classes):
      raise UserError(
        f'config.sampling.labels: {label!r} is out of range, the classes are '
        f'0..{classes - 1}'
      )
  labels = np.resize(np.array(wanted, np.int32), config.sampling.num_samples)
  return labels


def choose_texts(config, n):
  """What n images should show: the prompts in turn, or texts of real images.

  Those are of the test split, or of the training split where that is all there
  is. None if the network reads none.
  """
  prompt = config.sampling.prompt
  if not config.conditioning.text:
    if prompt is not None:
      raise UserError(
        'config.sampling.prompt is set, but the network of this run reads no '
        'text (conditioning.text)'
      )
    return None
  if prompt is None:
    try:
      source = build.build_source(config, 'test')
    except UserError:
      source = build.build_source(config, 'train')
    with build.from_config('data'):
      return source.texts(np.arange(n) % len(source))
  prompts = [part.strip() for part in prompt.split('|')]
  return [prompts[i % len(prompts)] for i in range(n)]


def encode_texts(config, texts):
  """N texts -> cond, {'text': [N, L], 'text_mask': [N, L]}; None for None."""
  if texts is None:
    return None
  with build.from_config('sampling.prompt'):
    tokens, mask = encode(texts, build.text_length(config))
  return {'text': tokens, 'text_mask': mask}


def rows(tree, index):
  """Rows of every array [N, ...] of a tree."""
  return jax.tree.map(lambda x: x[index], tree)


class Told(NamedTuple):
  """Images of the test split, and what a network is told of them, [N, ...].

  originals and given: uint8 [N, H, W, C], given being what can be shown of
  image, cond['image']; labels: of the images, if the network is told of them.
  """

  originals: np.ndarray
  given: np.ndarray
  image: np.ndarray
  labels: np.ndarray | None


def choose_images(config):
  """The first test images as conditions of the samples; None without such."""
  make = build.build_image_condition(config)
  if make is None:
    return None
  if config.sampling.labels:
    raise UserError(
      'config.sampling.labels is set, but the samples of this run continue '
      'test images (conditioning.image), whose labels they have'
    )
  source = build.build_source(config, 'test')
  index = np.arange(config.sampling.num_samples)
  with build.from_config('data'):
    pictures, labels = source.read(index % len(source))
  x0 = images.scale(pictures, source.num_levels)
  # of seed and i alone, and none of the keys that images are made with
  key = jax.random.fold_in(jax.random.key(config.sampling.seed), 2**32 - 1)
  keys = jax.vmap(functools.partial(jax.random.fold_in, key))(index)
  image = np.asarray(jax.jit(make)(keys, x0))
  labels = labels if config.conditioning.labels else None
  as_shown = functools.partial(
    images.to_uint8, num_levels=config.data.num_levels
  )
  return Told(as_shown(x0), as_shown(shown(config, image)), image, labels)


def shown(config, image):
  """The picture in cond['image'], [N, H, W, C]; unknown pixels are grey."""
  shape = *image.shape[:-1], config.data.image_shape[-1]
  return np.broadcast_to(image[..., : shape[-1]], shape)


def asks_for_labels(config):
  """Whether images of a class are made, by the network or a classifier."""
  return config.conditioning.labels or bool(config.sampling.classifier)


def thin(frames, n):
  """At most n of the frames, evenly spread, the first and the last included."""
  chosen = np.linspace(0, len(frames) - 1, min(n, len(frames)))
  return frames[np.rint(chosen).astype(int)]


def picture(config, x, told=None):
  """Images [B, H, W, C] in [-1, 1] -> one sheet, uint8."""
  return sheet(config, images.to_uint8(x, config.data.num_levels), told)


def sheet(config, pictures, told=None, limit=400):
  """The first of the pictures, uint8, on one sheet, a column per class
  or per prompt.

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
  elif asks_for_labels(config) and not config.sampling.labels:
    columns = min(config.data.num_classes, 20)
  zoom = max(1, round(48 / pictures.shape[1]))
  return images.grid(pictures, min(columns, len(pictures)), zoom)
