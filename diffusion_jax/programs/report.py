"""Implements --mode=report: writes a run as one HTML page.

A training writes the same page when it ends.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax import build, families
from diffusion_jax.build import audit
from diffusion_jax.data import images
from diffusion_jax.errors import UserError
from diffusion_jax.programs import sample
from diffusion_jax.report import page, pictures, record
from diffusion_jax.runs import (
  base_config,
  processes,
  run_folder,
  sample_inputs,
  sessions,
)
from diffusion_jax.runtime.sharding import replicate

_PICTURES = 10  # of the trajectory, and beside their neighbours
_FRAMES = 25
# of all training pixels; beyond it the search for neighbours takes minutes
_MOST_PIXELS = 300_000_000


def run(config, workdir):
  """Writes report.html into the workdir."""
  others = [read(other) for other in build.words(config.report.runs)]
  merged = run_folder.run_config(workdir, config)
  print(f'wrote {write(merged, workdir, others)}')


def after_training(config, workdir):
  """Writes report.html, if report.after_training says so.

  The training is done: whatever fails here is a line, no error.
  """
  if not config.report.after_training or not processes.is_first():
    return
  try:
    others = [read(other) for other in build.words(config.report.runs)]
    print(f'wrote {write(config, workdir, others)}: open it in a browser')
  except Exception as error:
    reason = ' '.join(str(error).split()) or type(error).__name__
    print(f'no report: {reason}. --mode=report writes one')


def write(config, workdir, others=()):
  """Writes the page of a run with its config; returns its path."""
  this = read(workdir)
  names = unique_names([workdir, *build.words(config.report.runs)])
  this, *others = (
    each._replace(name=name)
    for each, name in zip([this, *others], names, strict=True)
  )
  nothing = None, None
  final, film = optional(
    'trajectory', nothing, draw_trajectory, config, workdir, this
  )
  near = optional('neighbours', None, draw_neighbours, config, workdir, final)
  extras = page.Extras(
    record.flat(base_config.with_choices_of(config)),
    film,
    near,
    sessions.seconds(this.sessions),
  )
  path = Path(workdir) / 'report.html'
  try:
    page.write(path, this, others, extras)
  except OSError as error:
    raise UserError(f'{path} cannot be written ({error.strerror})') from error
  return path


def read(workdir):
  """Reads a run; UserError where there is none."""
  config = run_folder.read_config(workdir)
  if config is None:
    raise UserError(f'config.report.runs: there is no run in {workdir}')
  folder, config = Path(workdir), audit.rename_fields(config)
  return record.read(str(workdir), folder, config, sessions.read(folder))


def unique_names(workdirs):
  """Returns the names of the folders, with those above where they are equal."""
  paths = [Path(os.path.abspath(workdir)).parts for workdir in workdirs]
  depth = 1
  names = ['/'.join(parts[-1:]) for parts in paths]
  while len(set(names)) < len(set(paths)):
    depth += 1
    names = ['/'.join(parts[-depth:]) for parts in paths]
  return names


def optional(what, nothing, function, *args) -> Any:
  """Returns function(*args), or `nothing` and a line where that fails.

  A device without memory for the trajectory is a RuntimeError of JAX.
  """
  try:
    return function(*args)
  except (UserError, ValueError, OSError, RuntimeError) as error:
    print(f'the report has no {what}: {" ".join(str(error).split())}')
    return nothing


def draw_trajectory(config, workdir, found):
  """Returns (images uint8 [n, H, W, C], film) of the sampler; each may be None.

  It is drawn anew where that takes seconds, else read from the GIF that
  --mode=sample has written.
  """
  limit = config.report.trajectory_seconds
  family = families.of(config)
  if not limit or not family.makes_images:
    return None, None
  needed = estimate(config, found)
  if needed is None or needed > limit or processes.started():
    return None, read_gif(config, workdir)
  config = config.copy_and_resolve_references()
  config.sampling.trajectory = True
  config.sampling.num_samples = n = count(config)
  family.check_mode(config, 'sample')
  cond = sample_inputs.choose(config, n).cond
  mesh = build.build_mesh(config)
  params = replicate(
    mesh, sample.restore(config, workdir) | family.load(config, workdir)
  )
  generate = family.generate(config, mesh, family.latents(config, workdir))
  steps = generate(params, np.arange(n), cond)
  levels = config.data.num_levels
  if steps.ndim == 4:  # a VAE has no steps
    return images.to_uint8(steps, levels), None
  steps = steps.swapaxes(0, 1)
  sample.check_numbers(config, steps[-1])
  number = sample.thin(np.arange(len(steps)), _FRAMES)
  frames = [
    (f'step {i} of {len(steps) - 1}', row(images.to_uint8(steps[i], levels)))
    for i in number
  ]
  c = config.sampling
  film = pictures.film(
    f'{n} images, {c.sampler}, {len(steps) - 1} steps, seed {c.seed}',
    f'The first {n} samples on their way from noise',
    frames,
  )
  return images.to_uint8(steps[-1], levels), film


def estimate(config, found):
  """Returns about how many seconds the trajectory takes; None: not known.

  By the images per second of the training, whose steps are a call of the
  network and its gradient, which is about three calls.
  """
  speed = found.curves.get('images_per_second')
  if speed is None:
    return None
  c = config.sampling
  guided = c.guidance_scale != 1.0 or bool(c.classifier)
  calls = c.num_steps * (2 if guided else 1) * count(config)
  return calls / (3.0 * max(float(np.median(speed.values)), 1e-9))


def count(config):
  """Returns the number of pictures: a class each, or 10."""
  classes = config.data.num_classes
  labels = sample_inputs.takes_labels(config) and classes
  return min(labels or _PICTURES, _PICTURES)


def read_gif(config, workdir):
  """Returns a film of the GIF of these samples; None without one."""
  name = config.sampling.name
  path = Path(workdir) / 'samples' / f'{name}.gif'
  if not path.is_file():
    return None
  frames = sample.thin(np.stack(list(pictures.gif_frames(path))), _FRAMES)
  return pictures.film(
    path.name,
    'Samples on their way from noise',
    [(f'frame {i}', frame) for i, frame in enumerate(frames, start=1)],
  )


def draw_neighbours(config, workdir, final):
  """Returns samples above the training images next to them, in pixels.

  final: the last images of the trajectory, for runs without samples.npz.
  """
  path = Path(workdir) / 'samples' / f'{config.sampling.name}.npz'
  if path.is_file():
    with np.load(path) as arrays:
      final = arrays['arr_0'][:_PICTURES]
  if final is None:
    return None
  source = build.build_source(config, 'train')
  pixels = len(source) * int(np.prod(source.image_shape))
  if pixels > _MOST_PIXELS or final.shape[1:] != tuple(source.image_shape):
    return None
  levels = config.data.num_levels
  nearest, distance = search(final, source, levels)
  sheet = np.concatenate([row(final), row(nearest)])
  each = ', '.join(f'{x:.2f}' for x in distance)
  label = (
    f'root mean square distances of pixels in [-1, 1]: {each}; mean '
    f'{np.mean(distance):.3g}{usual_distance(config, source)}'
  )
  return pictures.film(
    f'Above: samples. Below: the nearest of {len(source):,} training images',
    'Samples, and below each the training image next to it',
    [(label, sheet)],
  )


def usual_distance(config, source, most=200):
  """Returns ', of test images ...', '' where there is no test split."""
  try:
    test = build.build_source(config, 'test')
  except UserError:
    return ''
  found, _ = test.read(np.arange(min(most, len(test))))
  levels = config.data.num_levels
  found = images.to_uint8(images.scale(found, levels), levels)
  _, distance = search(found, source, levels)
  return f'; of {len(found)} test images {np.mean(distance):.3g}'


def search(samples, source, num_levels, size=2000):
  """Returns the training images next to samples [n, ...], and distances [n]."""
  scaled = images.scale(samples).reshape(len(samples), -1)
  best = np.full(len(samples), np.inf)
  chosen = np.zeros_like(samples)
  for start in range(0, len(source), size):
    index = np.arange(start, min(start + size, len(source)))
    found = images.scale(source.read(index)[0], num_levels)
    rows = found.reshape(len(index), -1)
    squares = (
      (scaled**2).sum(axis=1)[:, None]
      - 2.0 * scaled @ rows.T
      + (rows**2).sum(axis=1)
    )
    at = squares.argmin(axis=1)
    least = squares[np.arange(len(samples)), at]
    better = least < best
    best = np.where(better, least, best)
    chosen[better] = images.to_uint8(found[at[better]], num_levels)
  return chosen, np.sqrt(np.maximum(best, 0.0) / scaled.shape[1])


def row(pictures_):
  """Returns pictures, uint8 [n, H, W, C], in a row, enlarged to be seen."""
  zoom = max(1, round(64 / pictures_.shape[1]))
  return images.grid(pictures_, len(pictures_), zoom)
