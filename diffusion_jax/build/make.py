"""What a config may say, and the one line that answers anything else."""

import contextlib
import difflib

import jax

from diffusion_jax.errors import UserError


@contextlib.contextmanager
def from_config(section):
  """Turns a refusal of what `section` of the config gave into a UserError."""
  try:
    yield
  except (ValueError, TypeError, OSError) as error:
    raise UserError(f'config.{section}: {error}') from error


def choose(table, section, field, value):
  """table[value], or a UserError: the nearest name, then all names.

  table: a dict of builders, or a tuple of the values themselves.
  """
  if value not in table:
    near = difflib.get_close_matches(value, table, n=1, cutoff=0.65)
    hint = f' (did you mean {near[0]!r}?)' if near else ''
    raise UserError(
      f'config.{section}.{field}={value!r}{hint} is not one of '
      f'{", ".join(table)}'
    )
  return table[value] if isinstance(table, dict) else value


MATMUL_PRECISIONS = ('default', 'high', 'highest')


def matmul_precision(config):
  """config.network.matmul_precision -> the context of a network's calls.

  'default' leaves it to JAX: its own default, or JAX_DEFAULT_MATMUL_PRECISION.
  """
  name = config.network.matmul_precision
  choose(MATMUL_PRECISIONS, 'network', 'matmul_precision', name)
  if name == 'default':
    return contextlib.nullcontext()
  return jax.default_matmul_precision(name)


def words(values):
  """('a', 'b'), also from ('a,b',): what a command line makes of a,b."""
  return tuple(','.join(values).split(',')) if values else ()


def given(section, *names):
  """The fields that are set; None keeps a function's own default."""
  return {n: section[n] for n in names if section[n] is not None}
