"""Implements --mode=sample: draws images from a trained run."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from diffusion_jax import build, families
from diffusion_jax.data import images, sources
from diffusion_jax.errors import UserError
from diffusion_jax.runs import (
  averages,
  guidance_runs,
  prerequisites,
  processes,
  provenance,
  run_folder,
  sample_inputs,
)
from diffusion_jax.runs.per_image import one_ahead, rows
from diffusion_jax.training import checkpoints
from diffusion_jax.training.sharding import replicate


def run(config, workdir):
  """Writes <name>.png, <name>.npz and, of trajectories, <name>.gif.

  They are in samples/. Where the network reads texts also <name>.txt, one text
  a line; and what `Family.write_more` writes. <name>.parts/ keeps every batch
  until all exist.
  """
  try:
    draw(config, workdir)
  except OSError as error:  # a full disk, most of all
    raise UserError(
      f'{error}. When that is mended, the same command continues'
    ) from error


def draw(config, workdir, folder=None, field='sampling.name'):
  """Writes the samples into folder or samples/; returns the npz file's path.

  field: of the config, by which the folder can have another name.
  """
  config = run_folder.run_config(workdir, config, own=run_folder.COMPUTED_BY)
  family = families.of(config)
  family.check(config)
  family.check_mode(config, 'sample')
  guidance_runs.check(config)
  prerequisites.check(config, *prerequisites.OF_SAMPLING)
  family.check_guide(config, workdir)
  n, size = config.sampling.num_samples, config.sampling.batch_size
  cond, texts, conditions = sample_inputs.choose(config, n)
  mesh = build.build_mesh(config)
  weights = restore(config, workdir)
  params = replicate(mesh, weights | family.load(config, workdir))
  generate = family.generate(config, mesh, family.latents(config, workdir))
  settings = provenance.settings(config, workdir, weights)
  print(provenance.describe(settings))
  out = run_folder.prepare(folder or Path(workdir) / 'samples')
  written = path = out / f'{config.sampling.name}.npz'
  parts = out / f'{config.sampling.name}.parts'
  done = processes.is_first() and is_done(path, parts, settings, field)
  if processes.broadcast([done])[0]:
    return written

  starts = range(0, n, size)
  paths = [parts / f'{start:08d}.npz' for start in starts]
  # All processes make the same parts, those that the first one misses.
  missing = processes.broadcast([not path.exists() for path in paths])
  before = n - sum(min(size, n - starts[i]) for i in np.flatnonzero(missing))
  bar = tqdm(
    total=n, initial=before, desc='sampling', unit='image', disable=None
  )

  def begin(i):
    # All parts have one shape, and so one compilation.
    index = np.arange(starts[i], starts[i] + min(size, n))
    return generate.start(params, index, rows(cond, index % n))

  for i, result in one_ahead(begin, np.flatnonzero(missing)):
    start = starts[i]
    check_numbers(config, result)
    if config.sampling.trajectory:
      if not start and processes.is_first():
        name = out / f'{config.sampling.name}.gif'
        frames = thin(result.swapaxes(0, 1), 50)
        images.write_gif(name, [picture(config, x) for x in frames])
        print(f'wrote {name}')
      result = result[:, -1]
    if processes.is_first():
      made = images.to_uint8(result, config.data.num_levels)[: n - start]
      write_part(paths[i], made, settings)
    bar.update(min(size, n - start))
  bar.close()
  if not processes.is_first():
    return written

  pictures = gather(paths, n)
  arrays = {'arr_0': pictures}
  if 'label' in cond:
    arrays['labels'] = cond['label']
  if conditions is not None:
    arrays['conditions'] = conditions.shown
    arrays['originals'] = conditions.originals
  if texts:
    arrays['texts'] = np.array(texts)
  arrays |= family.write_more(config, params, path)
  provenance.write_npz(path, arrays, settings)
  print(f'wrote {path}: {n} images of {"x".join(map(str, pictures.shape[1:]))}')
  path = path.with_suffix('.png')
  images.write_png(path, sheet(config, pictures, conditions))
  print(f'wrote {path}')
  if texts:
    path = path.with_suffix('.txt')
    path.write_text(''.join(f'{text}\n' for text in texts))
    print(f'wrote {path}: what the images should show, one text a line')
  shutil.rmtree(parts)
  return written


def is_done(path, parts, settings, field='sampling.name'):
  """Returns whether all images exist, made with these settings; prints it.

  Raises UserError where images, or parts of them, have other settings.
  """
  if path.exists():
    provenance.check_same(path, settings, path, field)
  begun = sorted(parts.glob('*.npz'))
  if begun:
    provenance.check_same(begun[0], settings, parts, field)
  elif path.exists():
    print(f'{path} is there already, made with these settings')
    return True
  return False


def write_part(path, pictures, settings):
  """Writes the images of a batch, and the settings that made them."""
  path.parent.mkdir(exist_ok=True)
  provenance.write_npz(path, {'arr_0': pictures}, settings)


def gather(paths, n):
  """Joins the n images of all parts, in a file rather than in memory."""
  found: Any = None
  end = 0
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
  """Raises UserError for NaN, which would be written as black pictures."""
  if np.isnan(images).any():
    raise UserError(
      f'the samples are nan: {config.sampling.sampler} may not take these '
      'levels (docs/samplers.md), or the training has diverged'
    )


def read_checkpoint(config):
  """Returns sampling.checkpoint: 'latest', 'best' or a step."""
  name = config.sampling.checkpoint
  if name in ('latest', 'best'):
    return name
  if not name.isdecimal():
    raise UserError(
      f'config.sampling.checkpoint={name!r} is not one of latest, best, or a '
      'step'
    )
  return int(name)


def restore(config, workdir):
  """Reads the parameters that config.sampling chooses.

  Sets sampling.checkpoint to the step that it names.
  """
  c = config.sampling
  ema = build.ema_name(c.ema_decay) if c.ema and c.ema_decay else c.ema
  name = read_checkpoint(config)
  shapes = families.abstract_params(config)
  try:
    if c.ema_sigma_rel is not None:
      return restore_average(config, workdir, name, shapes)
    step = checkpoints.find_step(workdir, name)
    c.checkpoint = str(step)
    return checkpoints.restore_params(workdir, ema, shapes, step)[0]
  except (FileNotFoundError, ValueError) as error:
    raise UserError(str(error)) from error


def restore_average(config, workdir, name, target):
  """Returns the average of width sampling.ema_sigma_rel, and prints what it is.

  name: of the checkpoint; 'latest' is the latest snapshot.
  """
  c = config.sampling
  if c.ema_decay or not c.ema:
    other = f'ema_decay={c.ema_decay}' if c.ema_decay else 'ema=False'
    raise UserError(
      f'config.sampling.ema_sigma_rel={c.ema_sigma_rel} and '
      f'config.sampling.{other} are different weights: give one of them'
    )
  if name == 'best':
    name = checkpoints.find_step(workdir, name)
  step = None if name == 'latest' else name
  found = averages.make(workdir, c.ema_sigma_rel, step, target)
  print(found.describe())
  c.checkpoint = str(found.step)
  return found.params


def thin(frames, n):
  """Returns at most n frames, evenly spread, with the first and the last."""
  chosen = np.linspace(0, len(frames) - 1, min(n, len(frames)))
  return frames[np.rint(chosen).astype(int)]


def picture(config, x, conditions=None):
  """Returns the `sheet` of images [B, H, W, C] in [-1, 1]."""
  return sheet(config, images.to_uint8(x, config.data.num_levels), conditions)


def sheet(config, pictures, conditions=None, limit=400):
  """Draws the first pictures, uint8, on one; columns are classes or prompts.

  conditions: `ImageConditions`; each picture stands between what it was made of
  and the original.
  """
  if conditions is not None:
    threes = zip(conditions.shown, pictures, conditions.originals, strict=False)
    pictures = np.concatenate([np.stack(three) for three in threes])
    limit = 3 * (limit // 3)
  pictures = pictures[:limit]
  zoom = max(1, round(48 / pictures.shape[1]))
  columns = sheet_columns(config, len(pictures), conditions is not None)
  return images.grid(pictures, min(columns, len(pictures)), zoom)


def sheet_columns(config, n, threes):
  """Returns the number of columns; each class or prompt has its own.

  threes: whether three pictures belong together.
  """
  columns = int(np.ceil(n**0.5))
  if threes:
    return 3 * max(1, columns // 3)
  prompts = (config.sampling.prompt or '').count('|') + 1
  labels = len(config.sampling.labels)
  if prompts > 1:
    return min(prompts, 20)
  if not sample_inputs.takes_labels(config):
    return columns
  if 0 < labels <= 20:  # as near to a square as multiples are
    return labels * max(1, round(columns / labels))
  return min(labels or config.data.num_classes, 20)
