"""Folders to be shared: config.json, weights, a model card and pictures.

Such a folder is a run without a history: config.json of the model and how it
samples, and the weights of one checkpoint (`weights.share`). A run of latents
also has its autoencoder, in the same form. README.md is its card (`report.card`).
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import jax

from diffusion_jax.aliases import Json, Params
from diffusion_jax.app.config import folder
from diffusion_jax.app.kinds import roles, store
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.app.run import provenance
from diffusion_jax.atomic_files import draft, draft_folder
from diffusion_jax.errors import UserError, as_user_error
from diffusion_jax.report import card, record
from diffusion_jax.runtime import files
from diffusion_jax.runtime.run_folder import SHARED, RunFolder
from diffusion_jax.weights import checksums, load, share

# Fields that choose among the weights of a run, and that the reader of one lacks.
_CHOICES = {
  'sampling.weights': 'average',
  'sampling.weights.decay': 0.0,
  'sampling.checkpoint': 'latest',
  'sampling.name': '',
  'training.band': '',  # a file of this machine
}
_FILES = 'config.json', SHARED, checksums.NAME


def config_of(model: Model) -> Json:
  """Returns the config.json of weights that are handed on.

  It has the model, its training and how it samples, but no place on this
  machine: paths become the names of their files.
  """
  config = store.with_fields(model.config, _CHOICES)
  stored = folder.stored_form(config.without_folders(), model.facts)
  return {n: x for n, x in stored.items() if n == 'sampling' or n not in roles.USES}


def write(out: Path, model: Model, params: Params, step: int) -> None:
  """Writes a folder for the Hugging Face Hub, whole or not at all.

  Raises UserError if the folder has files.
  """
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise UserError(f'config.convert.out: {out} exists and is not empty: give a new folder')
  weights = checksums.of_arrays(params)
  picture, caption = picture_of(model, weights, step)
  scores = [*card.scores_of(model.workdir.path, weights, model.facts.x.noun, roles.UNSAID)]
  stored = config_of(model)
  with draft_folder(out) as new:
    share.write(new, params, step)
    for name in model.keeps:  # an autoencoder, and the record of its scale
      _write_kept(model.run / name, new / name)
    folder.write_stored(new, stored)
    if picture:
      _copy(picture, new / 'samples.png')
    about = card.About(
      name=out.absolute().name,
      kind=model.schema.kind,
      facts=model.facts,
      draws=model.plan is not None,
      reads_text=model.conditioning.text is not None,
      config=stored,
      parameters=sum(x.size for x in jax.tree.leaves(params)),
      step=step,
      caption=caption,
      scores=scores,
    )
    files.write_text(new / 'README.md', card.card(about))
  if not picture:
    print('no samples.png: --mode=sample has drawn nothing from these weights')


def _write_kept(source, target):
  if source.is_dir():
    params, stored, step = load.open(source)
    files.make_folder(target)
    share.write(target, params, step)
    config = store.stored(stored, source / 'config.json', skip=()).without_folders()
    folder.write_stored(target, folder.plain(config))
  else:
    record = files.read_summed(source)
    files.write_summed(target, record | {'run': Path(record['run']).name})


def picture_of(model: Model, weights: int, step: int) -> tuple[Path | None, str]:
  """Returns (a sheet that these weights have drawn, how), or (None, '').

  The newest of --mode=sample, or else the preview of the step.
  """
  for path in provenance.newest(model.workdir, weights):
    if files.is_regular(sheet := path.with_suffix('.png')):
      with record.leaving_out(str(path)):
        return sheet, provenance.describe(provenance.read(path))
  c = model.config.sampling
  if c.weights.get('decay') == 0.0:
    for at, path in record.read_sheets(model.workdir.samples):
      if at == step:
        return path, f'the preview of step {step}'
  return None, ''


def fetch(source: RunFolder, workdir: RunFolder) -> None:
  """Makes workdir a copy of the model in a shared folder, unless it is a run.

  Only files of known names are copied. Raises UserError if the weights cannot
  be read, and if workdir is a copy of another folder.
  """
  there, here = folder.read_config(source), folder.read_config(workdir)
  with as_user_error(f'--config={source}: '):
    if here is None:
      share.read(source.path)
      place = workdir.make()
      for path in _parts(source):
        files.make_folder(place, path.parent)
        _copy(source / path, place / path)
      print(f'copied the weights of {source} to {workdir}')
    elif not workdir.is_shared:  # a training that began with these weights
      return
    elif here != there or not share.same(source.path, workdir.path):
      raise UserError(
        f'{workdir} is a copy of another folder than {source}, or of an '
        'earlier state of it: give another --workdir'
      )


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
