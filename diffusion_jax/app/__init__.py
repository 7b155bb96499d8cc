"""The program around the library: everything that knows a config."""

import sys

from diffusion_jax.errors import UserError, importing_program


def start() -> None:
  """Runs the command line; ends in one line where the packages of [program] are missing."""
  try:
    with importing_program():
      from diffusion_jax.app import cli
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
  cli.run()
