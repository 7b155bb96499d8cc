"""Runs that another run needs, and the commands that train them.

The checks read no weights and trace no network, so that they can come first.
"""

import sys
from pathlib import Path

import diffusion_jax
from diffusion_jax.app.config import trust
from diffusion_jax.app.config.tree import Node
from diffusion_jax.errors import refuse
from diffusion_jax.runtime import buckets
from diffusion_jax.weights import checksums, share

# The fields that name another run, and the kind of run that each needs.
KINDS = {
  'latent.run': 'an autoencoder, such as configs/digits_autoencoder.py,',
  'training.init_from': 'a model with the same network',
  'training.teacher': 'a diffusion model of the same images',
  'sampling.guidance.run': 'a model of the same images',
  'sampling.classifier.run': 'a classifier, such as configs/digits_classifier.py,',
}


def check(config: Node, mode: str, workdir: str | Path) -> None:
  """Raises UserError for a missing run that a mode reads, and for a stranger's.

  A plan needs no weights.
  """
  if mode != 'plan':
    refuse(_lines(config, mode, Path(workdir)))


def _lines(config, mode, workdir):
  if mode == 'train' and share.exist(workdir):
    yield (
      f'{workdir} has shared weights and no state to continue: give another --workdir, and '
      f'--config.training.init_from={workdir} to begin with them'
    )
  for field in _fields_read(config, mode, workdir):
    run, section = config.at(field), field.removesuffix('.run')
    if not run and 'run' in (config.at(section) or ()):
      yield f'config.{field} is not set: {KINDS[field]} is needed'
    trust.check_paths(field, run)
    place = buckets.folder(run or '')
    if run and not ((place / 'config.json').is_file() and has_checkpoint(place)):
      yield missing(field, run)


def _fields_read(config, mode, workdir):
  """Yields the fields of KINDS that a mode reads.

  A training that has begun does not need the weights it began with, nor the run
  of its autoencoder, because it keeps a copy.
  """
  c = config.training
  if mode == 'train':
    yield 'training.teacher'
  if mode == 'train' and not has_checkpoint(workdir):
    yield 'training.init_from'
  if not (workdir / 'latent.json').exists():
    yield 'latent.run'
  if mode != 'train' or c.sample_every or c.metrics_every or c.keep_best:
    yield from ('sampling.guidance.run', 'sampling.classifier.run')


def has_checkpoint(workdir: Path) -> bool:
  """Returns whether a run folder has checkpoints, or shared weights."""
  steps = checksums.steps_in(workdir / 'checkpoints')
  return share.exist(workdir) or bool(steps)


def missing(path: str, run: str | Path) -> str:
  """Returns the message about a run that is missing or has no checkpoint.

  path: the field that names the run, '' for --workdir. The message contains the
  command that trains the run if the folder's name tells the config.
  """
  folder, what = Path(run), f'there is no run in {run}'
  if (buckets.folder(run) / 'config.json').is_file():
    what = f'the run in {run} has no checkpoint'
  command = training_command(folder)
  first = f'`{command}` trains it' if command else 'train it first'
  if not path:
    return f'{what}: {first}, or give the --workdir of another'
  return (
    f'config.{path}: {what}, and {KINDS[path]} is needed: {first}, or give the folder of another '
    f'by --config.{path}'
  )


def training_command(workdir: Path) -> str:
  """Returns the command that trains the run in a folder, or ''.

  runs/digits_flow-unscaled is the default workdir of
  --config=configs/digits_flow.py:unscaled.
  """
  name, sign, argument = workdir.name.partition('-')
  if f'configs/{name}.py' not in config_files():
    return ''
  script = sys.argv[0]
  program = f'python {script}' if script.endswith('.py') else 'diffusion-jax'
  command = f'{program} --config=configs/{name}.py{sign and ":"}{argument}'
  if workdir != Path('runs') / workdir.name:
    command += f' --workdir={workdir}'
  return command


def installed_configs() -> Path:
  """Returns the folder of the package's configs, of a wheel or a checkout."""
  package = Path(diffusion_jax.__path__[0])
  inside = package / 'configs'
  return inside if inside.is_dir() else package.parent / 'configs'


def config_files() -> dict[str, Path]:
  """Returns {'configs/<name>.py': file}, in the working folder or installed."""
  files: dict[str, Path] = {}
  for folder in (Path('configs'), installed_configs()):
    for path in sorted(folder.glob('*.py')):
      if path.stem not in ('__init__', 'base'):
        files.setdefault(f'configs/{path.name}', path)
  return files
