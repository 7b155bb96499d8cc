"""One file per mode: `run(config, workdir)`. Here everything meets."""

import importlib
from collections.abc import Callable


class UserError(Exception):
  """A mistake in what the user gave: launch.py prints the message, no more."""


class Preempted(Exception):
  """Stopped by a signal, with everything saved: launch.py exits with 42."""


def _program(name: str) -> Callable:
  # imported on dispatch: `--mode=noise` need not load flax
  module = f'{__name__}.{name}'
  return lambda *args: importlib.import_module(module).run(*args)


PROGRAMS = {
  name: _program(name)
  for name in ('train', 'sample', 'edit', 'evaluate', 'noise')
}
