"""The modes of the command line: a module for each, with `run`."""

import functools
import importlib
from collections.abc import Callable

from diffusion_jax.app.config.tree import Node
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import compiling


def _run(name: str, config: Node, workdir: str) -> None:
  # The module is imported when it is called: `--mode=noise` needs no Flax.
  try:
    with compiling.products_at(config.matmul_precision):
      importlib.import_module(f'{__name__}.{name}').run(config, workdir)
  except OSError as error:  # a full disk, most of all
    raise UserError(f'{error}. When that is resolved, the same command continues') from error


MODES: dict[str, Callable[[Node, str], None]] = {
  name: functools.partial(_run, name)
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
    'serve',
  )
}
