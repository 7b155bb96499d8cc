"""Implements --mode=sample: draws images from a trained run."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from diffusion_jax.aliases import Params
from diffusion_jax.app import devices, models
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.drawing import sheets
from diffusion_jax.app.drawing.generate import generate_film
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.model import Frames, Model
from diffusion_jax.app.run import provenance, weights
from diffusion_jax.app.run.provenance import Settings
from diffusion_jax.data import images, npz
from diffusion_jax.data.text_files import decode_bytes, printable
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import processes
from diffusion_jax.runtime.files import make_folder, one_line, write_text
from diffusion_jax.runtime.per_image import one_ahead, rows

_PRINTED = 4  # texts


def run(config: Node, workdir: str | Path) -> None:
  """Writes <name>.png, <name>.npz and, with trajectories, <name>.gif.

  They are in samples/; for <name> see `provenance.name_of`. For a network that
  reads texts, <name>.txt has one text per line. <name>.parts/ keeps the batches
  until all are drawn.
  """
  draw(config, workdir, Path('samples'), 'sampling.name')


def draw(config: Node, workdir: str | Path, below: Path, field: str) -> Path:
  """Writes the samples into a folder of the run; returns the npz file's path.

  below: the folder's path in the run; field: the field of the config that
  renames the folder or the files.
  """
  run = open_run(models.make(config, workdir))
  model, params, n = run.model, run.params, conditions.count(run.model)
  settings = provenance.settings(model, params, run.step)
  print(provenance.describe(settings))
  out = make_folder(workdir, below)
  path = out / f'{provenance.name_of(model)}.npz'
  parts = path.with_suffix('.parts')
  done = processes.is_first() and is_done(path, parts, settings, field)
  if processes.broadcast([done])[0]:
    return path
  inputs = run.inputs
  inputs = inputs._replace(cond=conditions.encoded(model, params, inputs))
  params = run.on_devices()
  paths = draw_parts(model, run.mesh, params, inputs, parts, settings, n)
  if processes.is_first():
    write(model, params, inputs, paths, path, settings, n)
    shutil.rmtree(parts)
  return path


def open_run(model: Model) -> weights.Opened:
  """Returns the run, with what its samples are conditioned on."""

  def inputs_of(model):
    mesh = devices.make_mesh(model.config)
    inputs = conditions.choose(model, conditions.count(model), mesh)
    conditions.warn_if_far(model, inputs.context)
    return inputs

  return weights.opened(model, 'sample', inputs_of)


def draw_parts(
  model: Model,
  mesh: Mesh,
  params: Params,
  inputs: conditions.Inputs,
  parts: Path,
  settings: Settings,
  n: int,
) -> list[Path]:
  """Draws the batches that are missing in `parts`; returns all files."""
  c = model.config.sampling
  size = c.batch_size
  drawing = generate_film(model, mesh)
  starts, outside, drawn = range(0, n, size), 0, 0
  paths = [parts / f'{start:08d}.npz' for start in starts]
  if processes.is_first():
    make_folder(parts.parent, parts.name)
  # All processes draw the parts that the first process is missing.
  missing = processes.broadcast([not path.exists() for path in paths])
  before = n - sum(min(size, n - starts[i]) for i in np.flatnonzero(missing))

  def begin(i):
    # All parts have one shape, so there is one compilation.
    index = np.arange(starts[i], starts[i] + min(size, n))
    return drawing.start(params, index, rows(inputs.cond, index % n))

  with tqdm(
    total=n, initial=before, desc='sampling', unit='image', disable=None
  ) as bar:
    for i, x in one_ahead(begin, np.flatnonzero(missing)):
      x, film = x
      if c.trajectory and not starts[i]:
        write_film(model, film, parts)
      check_numbers(model, x)
      index = np.arange(starts[i], min(starts[i] + size, n))
      samples, left = within_box(
        model,
        model.facts.x.decode(x)[: len(index)],
        index,
        lambda i, key: drawing(params, key, rows(inputs.cond, i))[0],
      )
      outside, drawn = outside + left, drawn + len(index)
      if processes.is_first():
        provenance.write_npz(paths[i], {'arr_0': samples}, settings)
      bar.update(len(index))
  if model.facts.x.low and np.any(missing):
    share = outside / (drawn + outside)
    print(f'{share:.1%} of the draws were outside data.bounds')
  return paths


ATTEMPTS = 500  # at a draw within the box
_APART = 2**22  # between the indices of the attempts at a sample


def within_box(
  model: Model,
  samples: np.ndarray,
  index: np.ndarray,
  draw: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[np.ndarray, int]:
  """Draws the samples again that are outside data.bounds.

  index: of the samples [n]; draw: (index [n], index of the keys [n]) -> x [n,
  ...]. Returns (samples within the box, how many draws were outside). Raises
  UserError if ATTEMPTS draws of a sample are outside.
  """
  values, outside = model.facts.x, 0
  bad = np.flatnonzero(~values.inside(samples))
  tried = np.ones(len(samples), int)
  while len(bad):
    outside += len(bad)
    if tried[bad].max() >= ATTEMPTS:
      raise UserError(
        f'sample {index[bad[0]]}: {ATTEMPTS} draws in a row were outside '
        'data.bounds: train longer, or widen data.bounds'
      )
    # Each gets several attempts, to fill the batch; the first inside counts.
    left = ATTEMPTS - int(tried[bad].max())
    each = min(max(1, len(samples) // len(bad)), left)
    again = bad.repeat(each)
    attempt = (tried[bad][:, None] + np.arange(each)).ravel()
    i, a = (np.resize(x, len(samples)) for x in (index[again], attempt))
    drawn = values.decode(draw(i, i + _APART * a))[: len(again)]
    inside = values.inside(drawn).reshape(-1, each)
    first = np.where(inside.any(axis=1), inside.argmax(axis=1), each)
    outside += int(np.minimum(first, each - 1).sum())
    done = first < each
    place = np.arange(len(bad)) * each + np.minimum(first, each - 1)
    samples[bad[done]] = drawn[place[done]]
    tried[bad] += each
    bad = bad[~done]
  return samples, outside


def write_film(model: Model, film: Frames, parts: Path) -> None:
  """Writes the GIF of the first images."""
  frames = film().values()
  if processes.is_first():
    path, data = parts.with_suffix('.gif'), sheets.examples(model)
    drawn = [sheets.of_images(model, x, data=data) for x in frames]
    images.write_gif(path, drawn)
    print(f'wrote {path}')


def write(
  model: Model,
  params: Params,
  inputs: conditions.Inputs,
  paths: list[Path],
  path: Path,
  settings: Settings,
  n: int,
) -> None:
  """Writes the npz file of all parts, the sheet, and the texts."""
  samples = gather(paths, n)
  arrays = {'arr_0': samples, **inputs.stored()}
  arrays |= model.write_more(params, path, samples)
  provenance.write_npz(path, arrays, settings)
  shape = 'x'.join(map(str, samples.shape[1:]))
  what = 'images' if model.facts.x.is_picture else 'arrays'
  print(f'wrote {path}: {len(samples)} {what} of {shape}')
  path = path.with_suffix('.png')
  data = sheets.examples(model)
  groups = n // model.config.sampling.num_samples  # rows of a given context
  drawn = sheets.sheet(model, samples, inputs.images, data, groups)
  images.write_png(path, drawn)
  print(f'wrote {path}')
  if model.facts.x.is_text:
    write_texts(path.with_suffix('.txt'), samples)
  if inputs.texts:
    path = path.with_suffix('.txt')
    write_text(path, ''.join(f'{one_line(text)}\n' for text in inputs.texts))
    print(f'wrote {path}: what the images should show, one text a line')


def write_texts(path: Path, samples: np.ndarray) -> None:
  """Writes texts, uint8 [n, L], and prints the first ones."""
  texts = [f'--- {i}\n{x}\n' for i, x in enumerate(decode_bytes(samples))]
  print(printable(''.join(texts[:_PRINTED])), end='')
  write_text(path, ''.join(texts))
  print(f'wrote {path}: {len(texts)} texts')


def is_done(path: Path, parts: Path, settings: Settings, field: str) -> bool:
  """Returns whether all images exist with these settings, and prints it.

  Raises UserError if the images, or parts of them, have other settings.
  """
  if path.exists():
    provenance.check_same(path, settings, path, field)
  files = sorted(parts.glob('*.npz'))
  if files:
    provenance.check_same(files[0], settings, parts, field)
  elif path.exists():
    print(f'{path} is there already, made with these settings')
    return True
  return False


def gather(paths: list[Path], n: int) -> np.ndarray:
  """Joins the n images of all parts, in a memory-mapped file without a name."""
  whole = np.empty(0)
  end = 0
  for path in paths:
    try:
      pictures = npz.read(path, ['arr_0'])['arr_0']
      if not end:
        shape = n, *pictures.shape[1:]
        with tempfile.TemporaryFile(dir=path.parent) as file:
          whole = np.memmap(file, pictures.dtype, 'w+', shape=shape)
      start, end = end, end + len(pictures)
      whole[start:end] = pictures
    except (FileNotFoundError, TypeError, ValueError) as error:
      raise UserError(
        f'{path} is damaged ({error}): delete it, and the same command makes '
        'it again'
      ) from error
  return whole


def check_numbers(model: Model, x: np.ndarray) -> None:
  """Raises UserError for NaN, which would look like black pictures."""
  if np.isnan(x).any():
    sampler = model.config.sampling.get('sampler')
    name = sampler.name if sampler else 'the model'
    raise UserError(
      f'the samples are nan: {name} may not allow these levels '
      '(docs/samplers.md), or the training has diverged'
    )
