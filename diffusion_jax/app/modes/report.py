"""Implements --mode=report: writes a run as one HTML page.

A training writes the same page when it ends.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.app import (
  devices,
  images,
  load,
  models,
  other_runs,
  sample_inputs,
  weights,
)
from diffusion_jax.app.models.model import Model
from diffusion_jax.app.modes.sample import check_numbers
from diffusion_jax.app.run import folder
from diffusion_jax.data import images as pixels
from diffusion_jax.data.sources import Source
from diffusion_jax.errors import UserError
from diffusion_jax.metrics.neighbours import nearest
from diffusion_jax.report import page, pictures, record
from diffusion_jax.report.pictures import Film
from diffusion_jax.runtime import processes
from diffusion_jax.runtime.files import write_text
from diffusion_jax.runtime.sharding import replicate

_PICTURES = 10  # of the trajectory, and next to their neighbours
_FRAMES = 25
_TEST_IMAGES = 200  # whose distances are compared with those of samples
# of all training images; beyond it the search for neighbours takes minutes
_MOST_PIXELS = 300_000_000


def run(config: ConfigDict, workdir: str | Path) -> None:
  """Writes report.html into the workdir."""
  print(f'wrote {write(config, workdir)}')


def after_training(config: ConfigDict, workdir: str | Path) -> None:
  """Writes report.html if report.after_training says so; prints a failure."""
  if not config.report.after_training or not processes.is_first():
    return
  try:
    print(f'wrote {write(config, workdir)}: open it in a browser')
  except Exception as error:  # the training itself has succeeded
    reason = ' '.join(str(error).split()) or type(error).__name__
    print(f'no report: {reason}. --mode=report writes one')


def write(config: ConfigDict, workdir: str | Path) -> Path:
  """Writes the page of a run and those of report.runs; returns its path."""
  runs = read_runs([str(workdir), *config.report.runs])
  model = models.make(config, workdir)
  film, final = optional('trajectory', trajectory, model) or (
    None,
    None,
  )
  near = optional('neighbours', neighbours, model, final)
  path = Path(workdir) / 'report.html'
  try:
    write_text(path, page.render(runs, defaults(config), film, near))
  except OSError as error:
    raise UserError(f'{path} cannot be written ({error.strerror})') from error
  return path


def read_runs(workdirs: Sequence[str]) -> list[record.Run]:
  """Reads runs; they are named by their folders, or by paths if these agree."""
  names = [Path(workdir).absolute().name for workdir in workdirs]
  if len(set(names)) < len(names):
    names = workdirs
  runs = []
  for name, workdir in zip(names, workdirs, strict=True):
    stored = folder.read_config(workdir)
    if stored is None:
      raise UserError(f'config.report.runs: there is no run in {workdir}')
    runs.append(record.read(name, Path(workdir), folder.flat(stored)))
  return runs


def optional(what: str, function: Callable, *args: Any) -> Any:
  """Returns function(*args), or None and a line where that fails.

  A device without memory for the trajectory is a RuntimeError of JAX.
  """
  try:
    return function(*args)
  except (UserError, ValueError, OSError, RuntimeError) as error:
    print(f'the report has no {what}: {" ".join(str(error).split())}')
    return None


def defaults(config: ConfigDict) -> dict[str, Any]:
  """Returns the fields of a config that sets the same names and nothing else.

  The names are left out.
  """
  named = load.base()
  named.update(_names(config))
  named = load.completed(named, trusted=False)
  fields = folder.flat(folder.plain(named)).items()
  return {name: x for name, x in fields if not name.endswith('.name')}


def _names(section):
  # Returns the sections within a section, with nothing but their names.
  return {
    key: _names(x) if isinstance(x, ConfigDict) else x
    for key, x in section.items()
    if isinstance(x, ConfigDict) or key == 'name'
  }


def trajectory(model: Model) -> tuple[Film | None, np.ndarray | None]:
  """Returns a film of the sampler and its last images, uint8 [n, H, W, C]."""
  c, facts = model.config, model.facts
  several = processes.started()  # of which this one is alone here
  if not c.report.trajectory or not model.makes_images or several:
    return None, None
  labels = sample_inputs.takes_labels(model) and facts.num_classes
  n = min(labels or _PICTURES, _PICTURES)
  model.check('sample')
  mesh = devices.make_mesh(c)
  params = replicate(mesh, weights.restore(model)[0] | model.load())
  cond = sample_inputs.choose(model, n, mesh).cond
  generate = model.generate(mesh, other_runs.guides_of(model), trajectory=True)
  x = generate(params, np.arange(n), cond)
  check_numbers(model, x)
  x = pixels.to_uint8(x, facts.num_levels)
  if x.ndim == 4:  # a VAE has no steps
    return None, x
  last = x.shape[1] - 1
  frames = [
    (f'step {i} of {last}', row(model.pictures(x[:, i])))
    for i in pictures.spread(range(last + 1), _FRAMES)
  ]
  title = f'{n} images, {last} steps, seed {c.sampling.seed}'
  about = f'The first {n} samples on their way from noise'
  return pictures.film(title, about, frames), x[:, -1]


def neighbours(model: Model, samples: np.ndarray | None) -> Film | None:
  """Returns samples above the training images next to them, in pixels.

  samples: uint8 [n, H, W, C], used by runs without the file of --mode=sample.
  """
  name = f'{model.config.sampling.name}.npz'
  path = Path(model.workdir) / 'samples' / name
  if path.is_file():
    with np.load(path) as arrays:
      samples = arrays['arr_0'][:_PICTURES]
  source = images.source_of(model.config)
  size = len(source) * int(np.prod(source.image_shape))
  if samples is None or size > _MOST_PIXELS:
    return None
  nearest_images, distances = search(pixels.scale(samples), source)
  pairs = samples, nearest_images
  label = f'distance (root mean square, in [-1, 1]) {np.mean(distances):.3g}'
  with contextlib.suppress(UserError):  # without a test split
    test = images.source_of(model.config, 'test')
    index = np.arange(min(len(test), _TEST_IMAGES))
    real = pixels.scale(test.read(index)[0], test.num_levels)
    _, distances = search(real, source)
    label += f'; of {len(index)} test images {np.mean(distances):.3g}'
  return pictures.film(
    f'Above: samples. Below: the nearest of {len(source):,} training images',
    'Samples, and below each the training image next to it',
    [(label, np.concatenate([row(model.pictures(x)) for x in pairs]))],
  )


def search(
  x: np.ndarray, source: Source, size: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the images next to x [n, ...], uint8, and their distances [n].

  x is in [-1, 1]; size: the number of images that are read at a time.
  """
  best, chosen = np.full(len(x), np.inf), np.zeros(x.shape, np.uint8)
  for start in range(0, len(source), size):
    index = np.arange(start, min(start + size, len(source)))
    real = pixels.scale(source.read(index)[0], source.num_levels)
    distance, at = nearest(x.reshape(len(x), -1), real.reshape(len(real), -1))
    closer = distance < best
    best[closer] = distance[closer]
    chosen[closer] = pixels.to_uint8(real[at[closer]], source.num_levels)
  return chosen, best / np.sqrt(x[0].size)


def row(samples: np.ndarray) -> np.ndarray:
  """Returns pictures, uint8 [n, H, W, C], in a row, enlarged to be seen."""
  zoom = max(1, round(64 / samples.shape[1]))
  return pixels.grid(samples, len(samples), zoom)
