"""Implements --mode=average: an average of any width, after the training."""

import shutil
from pathlib import Path

import jax

from diffusion_jax import families
from diffusion_jax.build.make import from_config
from diffusion_jax.errors import UserError
from diffusion_jax.runs import averages, run_folder
from diffusion_jax.training import checkpoints


def run(config, workdir):
  """Writes average.out, a run folder with the average alone at its step.

  Every mode reads it like the run itself; average.json says what it is.
  """
  c = config.average
  if c.sigma_rel is None:
    raise UserError(
      'config.average.sigma_rel: which relative width? 0.07, for instance'
    )
  config = run_folder.run_config(workdir, config)
  family = families.of(config)
  family.check(config)
  with from_config('average'):
    try:
      found = averages.make(
        workdir, c.sigma_rel, c.step, families.abstract_params(config)
      )
    except FileNotFoundError as error:
      raise UserError(str(error)) from error
  print(found.describe())
  name = f'{c.sigma_rel:g}-{found.step}'
  out = Path(c.out or Path(workdir) / 'averages' / name)
  if run_folder.read_config(out) is not None:
    raise UserError(
      f'{out} holds a run: give another --config.average.out, or remove it'
    )
  try:
    write(workdir, out, found, family)
  except OSError as error:  # a full disk, most of all
    raise UserError(f'{error}') from error
  print(f'wrote {out}: --workdir={out} reads it in every mode')


def write(workdir, out, found, family):
  """Writes the run folder `out`; config.json, which makes it one, is last."""
  run_folder.prepare(out)
  stored = run_folder.read_config(workdir)
  assert stored is not None  # the snapshots were found with it
  for name in family.keeps:
    source = Path(workdir) / name
    if source.is_dir():
      shutil.copytree(source, out / name, dirs_exist_ok=True)
    elif source.exists():
      shutil.copy(source, out / name)
  checkpoints.save_params(
    out,
    found.step,
    jax.device_get(found.params),
    stored,
    items=('params', 'ema_params'),
  )
  run_folder.write_json(
    out / averages.RECORD,
    {
      'run': Path(workdir).absolute().name,
      'sigma_rel': found.sigma_rel,
      'step': found.step,
      'images': found.images,
      'snapshots': found.used,
      'residual': found.residual,
    },
  )
  run_folder.write_json(out / 'config.json', stored)
