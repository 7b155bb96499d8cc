"""One file per mode: `run(config, workdir)`. Here everything meets."""

import importlib
from collections.abc import Callable


def _program(name: str) -> Callable:
  # imported on dispatch: `--mode=noise` need not load flax
  module = f'{__name__}.{name}'
  return lambda *args: importlib.import_module(module).run(*args)


PROGRAMS = {
  name: _program(name)
  for name in ('train', 'sample', 'edit', 'evaluate', 'noise')
}
