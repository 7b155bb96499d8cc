"""Folders to be shared: config.json, weights, a model card and pictures.

Such a folder is a run without a history: config.json of the model and how it
samples, and the weights of one checkpoint (`training.shared`). A run of latents
also has its autoencoder, in the same form.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import jax

from diffusion_jax.aliases import Json, Params
from diffusion_jax.app.config import folder, own, store
from diffusion_jax.app.model import Model
from diffusion_jax.app.run import model_card, provenance
from diffusion_jax.atomic_files import draft, draft_folder
from diffusion_jax.errors import UserError
from diffusion_jax.report import record
from diffusion_jax.runtime import files
from diffusion_jax.training import checksums, shared, stored_weights

# Fields of config.sampling that choose among the weights of a run.
_CHOICES = {
  'sampling.ema': True,
  'sampling.ema_decay': 0.0,
  'sampling.ema_sigma_rel': None,
  'sampling.checkpoint': 'latest',
  'sampling.name': '',
}
_FILES = 'config.json', shared.NAME, checksums.NAME


def config_of(model: Model) -> Json:
  """Returns the config.json of weights that are handed on.

  It has the model, its training and how it samples, but no place on this
  machine: paths become the names of their files.
  """
  config = store.with_fields(model.config, _CHOICES)
  stored = folder.stored_form(config, model.facts)
  kept = {n for n in stored if n == 'sampling' or n not in folder.USES}
  return own.without_folders({n: stored[n] for n in stored if n in kept})


def write(out: Path, model: Model, params: Params, step: int) -> None:
  """Writes a folder for the Hugging Face Hub, whole or not at all.

  Raises UserError if the folder has files.
  """
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise UserError(f'config.convert.out: {out} exists and is not empty: give a new folder')
  weights = checksums.of_arrays(params)
  picture, caption = picture_of(model, weights, step)
  scores = [*model_card.scores(model.workdir, weights)]
  stored = config_of(model)
  with draft_folder(out) as new:
    shared.write(new, params, step)
    for name in model.keeps:  # an autoencoder, and the record of its scale
      _write_kept(model.workdir / name, new / name)
    files.write_json(new / 'config.json', stored)
    if picture:
      _copy(picture, new / 'samples.png')
    count = sum(x.size for x in jax.tree.leaves(params))
    about = model_card.About(out.absolute().name, model, stored, count, step, caption, scores)
    files.write_text(new / 'README.md', model_card.text(about))
  if not picture:
    print('no samples.png: --mode=sample has drawn nothing from these weights')


def _write_kept(source, target):
  if source.is_dir():
    params, stored = stored_weights.restore_params(source)
    files.make_folder(target)
    shared.write(target, params, stored_weights.find_step(source))
    files.write_json(target / 'config.json', own.without_folders(stored))
  else:
    files.write_json(target, own.without_folders(files.read_json(source)))


def picture_of(model: Model, weights: int, step: int) -> tuple[Path | None, str]:
  """Returns (a sheet that these weights have drawn, how), or (None, '').

  The newest of --mode=sample, or else the preview of the step.
  """
  place = model.workdir / 'samples'
  paths = sorted(place.glob('*.npz'), key=lambda x: x.stat().st_mtime)
  for path in reversed(paths):
    sheet = path.with_suffix('.png')
    if files.is_regular(path) and files.is_regular(sheet):
      about = provenance.read(path)
      if about.get('weights') == weights:
        return sheet, provenance.describe(about)
  c = model.config.sampling
  if c.ema and not c.ema_decay and c.ema_sigma_rel is None:
    for at, path in record.read_sheets(place):
      if at == step:
        return path, f'the preview of step {step}'
  return None, ''


def fetch(source: str, workdir: str) -> None:
  """Makes workdir a copy of the model in a shared folder, unless it is a run.

  Only files of known names are copied. Raises UserError if the weights cannot
  be read, and if workdir is a copy of another folder.
  """
  there, here = folder.read_config(source), folder.read_config(workdir)
  try:
    if here is None:
      shared.read(source)
      place = files.make_folder(workdir)
      for path in _parts(Path(source)):
        files.make_folder(place, path.parent)
        _copy(Path(source) / path, place / path)
      print(f'copied the weights of {source} to {workdir}')
    elif not shared.exist(workdir):  # a training that began with these weights
      return
    elif here != there or not shared.same(source, workdir):
      raise UserError(
        f'{workdir} is a copy of another folder than {source}, or of an '
        'earlier state of it: give another --workdir'
      )
  except ValueError as error:
    raise UserError(f'--config={source}: {error}') from error


def _parts(source) -> Iterator[Path]:
  # config.json, which makes the copy a run, is last.
  names = [Path('autoencoder', name) for name in _FILES]
  names += map(Path, ('latent.json', *reversed(_FILES)))
  for path in names:
    if (source / path).exists():
      yield path


def _copy(source, target):
  with files.open_regular(source, 2**50) as old, draft(target) as new:
    shutil.copyfileobj(old, new)
