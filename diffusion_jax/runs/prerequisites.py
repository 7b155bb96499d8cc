"""Refuses a start that needs another run which is not there.

The check reads no weights and traces no network, so that it can come first.
"""

import importlib.util
import sys
from pathlib import Path

from diffusion_jax.errors import UserError

# The fields that name another run, and which kind of run each needs.
KINDS = {
  'objective.teacher': 'a diffusion model of the same data',
  'training.init_from': 'a model with the same network',
  'latent.run': 'an autoencoder, as of configs/digits_autoencoder.py,',
  'sampling.guidance_run': 'a model of the same data',
  'sampling.classifier': 'a classifier, as of configs/digits_classifier.py,',
}


def check_training(config, workdir: str | Path) -> None:
  """Raises UserError for a missing run that a training reads.

  A training that has begun needs neither the weights it began with nor the run
  of its autoencoder, of which it keeps a copy.
  """
  c, workdir = config.training, Path(workdir)
  check(config, 'objective.teacher')
  if not (workdir / 'latent.json').exists():
    check(config, 'latent.run')
  if not has_checkpoint(workdir):
    check(config, 'training.init_from')
  if c.sample_every or c.metrics_every or c.keep_best:
    check(config, *OF_SAMPLING)


OF_SAMPLING = 'sampling.guidance_run', 'sampling.classifier'


def check(config, *fields: str) -> None:
  """Raises UserError for the first of these fields whose run is missing."""
  for field in fields:
    section, name = field.split('.')
    if config[section][name]:
      require(field, config[section][name])


def require(field: str, workdir: str | Path, trained: bool = True) -> None:
  """Raises UserError unless there is a run in workdir.

  field: of the config that names it; trained: whether it needs a checkpoint.
  The message has the command that trains the run, where its name says by which
  config.
  """
  folder = Path(workdir)
  is_run = (folder / 'config.json').is_file()
  if is_run and (has_checkpoint(folder) or not trained):
    return
  missing = f'the run in {workdir} has no checkpoint'
  missing = missing if is_run else f'there is no run in {workdir}'
  command = training_command(folder)
  first = f'`{command}` trains it' if command else 'train it first'
  raise UserError(
    f'config.{field}: {missing}, and {KINDS[field]} is needed: {first}; or '
    f'give the workdir of another by --config.{field}'
  )


def has_checkpoint(workdir: str | Path) -> bool:
  """Returns whether a run folder has checkpoints."""
  found = Path(workdir, 'checkpoints').glob('*')
  return any(path.name.isdecimal() for path in found)


def training_command(workdir: Path) -> str:
  """Returns the command that trains the run in a folder; '' if it is unknown.

  runs/digits_flow-unscaled is the default workdir of
  --config=configs/digits_flow.py:unscaled.
  """
  name, sign, argument = workdir.name.partition('-')
  if not name.isidentifier() or not any(
    importlib.util.find_spec(f'{package}.{name}')
    for package in ('configs', 'diffusion_jax.configs')
    if importlib.util.find_spec(package)
  ):
    return ''
  script = sys.argv[0]
  program = f'python {script}' if script.endswith('.py') else 'diffusion-jax'
  command = f'{program} --config=configs/{name}.py'
  if sign:
    command += f':{argument}'
  if workdir != Path('runs') / workdir.name:
    command += f' --workdir={workdir}'
  return command
