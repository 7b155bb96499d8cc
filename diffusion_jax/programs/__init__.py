"""Has one module for each mode, with `run(config, workdir)`."""

import importlib
from collections.abc import Callable

from diffusion_jax.build import own_parts


def _program(name: str) -> Callable:
  # Imports the module when it is called: `--mode=noise` need not load Flax.
  def run(config, workdir):
    own_parts.allow_named(config)
    importlib.import_module(f'{__name__}.{name}').run(config, workdir)

  return run


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
