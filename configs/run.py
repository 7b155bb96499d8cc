r"""The config of a run that exists, for weights that came without one.

  python launch.py --config=configs/run.py --mode=convert \
    --config.convert.source=models/ddpm-cifar10-32 --workdir=runs/ddpm
  python launch.py --config=configs/run.py:runs/ddpm --mode=sample
  python launch.py --config=configs/run.py:runs/ddpm --workdir=runs/finetuned \
    --config.training.init_from=runs/ddpm --config.data.name=cifar10

The argument is the workdir of any run, which is then the default --workdir too.
"""

import json
from pathlib import Path

from configs import base

# Where files are written and which compiled programs are executed is for the
# command to say, not for a run that somebody else may have made.
NOT_OF_A_RUN = 'convert', 'average', 'compilation_cache'


def get_config(arg=''):
  """All fields of <arg>/config.json but NOT_OF_A_RUN; '': of base.py."""
  config = base.get_config()
  if arg in ('', 'smoke'):
    return base.with_argument(config, arg)
  stored = read(Path(arg))
  for name in NOT_OF_A_RUN:
    stored.pop(name, None)
  for name in set(stored) & set(config):
    section = stored[name]
    if isinstance(config[name], type(config)) != isinstance(section, dict):
      raise ValueError(
        f'{arg}/config.json is not the config of a run: {name} is {section!r}'
      )
  try:
    config.update(tuples(stored))
  except (KeyError, AttributeError, TypeError, ValueError) as error:
    raise ValueError(
      f'{arg}/config.json is not the config of a run of this version: {error}'
    ) from error
  config.stored_in = arg  # what it names is not imported without --allow
  return config


def read(workdir):
  """Returns the contents of config.json; ValueError where there is none."""
  path = workdir / 'config.json'
  if not path.is_file():
    reason = 'it has no config.json' if workdir.is_dir() else 'no such folder'
    raise ValueError(
      f'there is no run in {workdir} ({reason}): give the workdir of a run, as '
      'configs/run.py:runs/digits'
    )
  try:
    stored = json.loads(path.read_text())
  except (OSError, ValueError, RecursionError) as error:
    raise ValueError(f'{path} cannot be read as JSON: {error}') from error
  if not isinstance(stored, dict):
    raise ValueError(
      f'{path} is not the config of a run: it holds a JSON '
      f'{type(stored).__name__}, and an object is needed'
    )
  return stored


def tuples(tree):
  """JSON has lists for tuples."""
  if isinstance(tree, dict):
    return {name: tuples(value) for name, value in tree.items()}
  return tuple(map(tuples, tree)) if isinstance(tree, list) else tree
