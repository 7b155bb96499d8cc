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


def get_config(arg=''):
  """All fields of <arg>/config.json, but for --mode=convert; '': of base.py."""
  config = base.get_config()
  if arg in ('', 'smoke'):
    return base.with_argument(config, arg)
  path = Path(arg) / 'config.json'
  try:
    stored = json.loads(path.read_text())
    stored.pop('convert', None)
    config.update(tuples(stored))
  except (OSError, KeyError, AttributeError) as error:
    raise ValueError(
      f'{path} is not the config of a run of this version: {error}'
    ) from error
  return config


def tuples(tree):
  """JSON has lists for tuples."""
  if isinstance(tree, dict):
    return {name: tuples(value) for name, value in tree.items()}
  return tuple(map(tuples, tree)) if isinstance(tree, list) else tree
