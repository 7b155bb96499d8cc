"""One module for each mode, with `run(config, workdir)`."""

import importlib
from collections.abc import Callable

from ml_collections import ConfigDict

Mode = Callable[[ConfigDict, str], None]


def _mode(name: str) -> Mode:
  # Imports the module when it is called: `--mode=noise` need not load Flax.
  module = f'{__name__}.{name}'
  return lambda *args: importlib.import_module(module).run(*args)


MODES: dict[str, Mode] = {
  name: _mode(name)
  for name in (
    'train',
    'sample',
    'edit',
    'evaluate',
    'average',
    'report',
    'noise',
    'convert',
    'plan',
  )
}
