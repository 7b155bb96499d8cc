"""Implements --mode=average: makes an average of the weights of any width."""

import shutil
from pathlib import Path

import jax

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import folder
from diffusion_jax.app.config.tree import check_set, from_config
from diffusion_jax.app.kinds import roles
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.app.run import provenance
from diffusion_jax.app.run.weights import Run
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import files, run_folder
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.weights import averages, checkpoints, checksums, load
from diffusion_jax.weights.checkpoints import AVERAGE, RAW


def main(run: Run) -> None:
  """Writes average.out, a run folder that holds only the average.

  Every mode reads it like the run itself; average.json describes it.
  """
  model = run.model
  c = model.config.average
  hint = 'give a relative width, such as 0.07'
  check_set('average.sigma_rel', c.sigma_rel, hint)
  shapes = model.shapes()
  with from_config('average'):
    average = averages.make(model.run.path, c.sigma_rel, c.step, shapes)
  print(average.describe())
  name = f'{c.sigma_rel!r}-{average.step}'
  below = Path('averages', name)
  out = files.make_folder(c.out) if c.out else model.workdir.make(below)
  made_of = settings_of(model, average)
  with run_folder.hold(out, averages.RECORD, '--config.average.out'):
    before = averages.read_record(out).get('made_of')
    if isinstance(before, dict) and folder.read_config(RunFolder.at(out)):
      if changed := folder.differences(before, made_of):
        raise UserError(
          f'{out} has other settings: {changed}. Remove it, or give another --config.average.out'
        )
      print(f'{out} is there already, made with these settings')
      return
    folder.check_no_run(RunFolder.at(out), '--config.average.out')
    write(model.run, out, average, model.keeps, made_of)
  print(f'wrote {out}: --workdir={out} reads it in every mode')


def settings_of(model: Model, average: averages.MadeAverage) -> Json:
  """Returns all that the folder of an average is made of."""
  content = {
    'config_hash': roles.config_hash(model.run),
    'weights': checksums.of_arrays(average.params),
    'latents': model.latents.record(model.run),
  }
  return provenance.made_of(model.config, content)


def write(
  run: RunFolder, out: Path, average: averages.MadeAverage, keeps: tuple[str, ...], made_of: Json
) -> None:
  """Writes the run folder `out`; config.json, which completes it, is last.

  keeps: files and folders of the run that are copied; made_of: see `settings_of`.
  """
  stored = dict(folder.read_config(run) or {})  # the snapshots were read with it
  for name in keeps:
    source = run / name
    files.check_files(source)
    if source.is_dir():
      shutil.rmtree(files.make_folder(out, name))  # an interrupted start may have left it
      shutil.copytree(source, out / name)
    elif source.exists():
      files.write_json(out / name, files.read_json(source))
  params = jax.device_get(average.params)
  checkpoints.save_params(out, average.step, params, stored, (AVERAGE, RAW))
  if checksums.of_arrays(load.open(out).params) != checksums.of_arrays(params):
    raise UserError(f'{out} has a checkpoint of another average: remove it')
  record = {'run': run.path.absolute().name, **average._asdict(), 'made_of': made_of}
  del record['params']
  files.write_summed(out / averages.RECORD, record)
  folder.write_stored(out, stored)
