"""Has one module for each mode, with `run(config, workdir)`."""

import importlib
from collections.abc import Callable


def _program(name: str) -> Callable:
  # Imports the module when it is called: `--mode=noise` need not load Flax.
  module = f'{__name__}.{name}'
  return lambda *args: importlib.import_module(module).run(*args)


PROGRAMS = {
  name: _program(name)
  for name in (
    'train',
    'sample',
    'edit',
    'evaluate',
    'average',
    'report',
    'noise',
    'convert',
  )
}
