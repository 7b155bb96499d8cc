"""Config files, as configs/digits.py: get_config() and sweep() of a user's own code."""

import contextlib
import importlib.util
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from diffusion_jax.app.config.overrides import Flags, as_flags
from diffusion_jax.errors import UserError
from diffusion_jax.ranges import near


@contextlib.contextmanager
def _in_file(path: str) -> Iterator[None]:
  # Turns any error of a config file into one line that names its place.
  try:
    yield
  except SyntaxError as error:
    place = f'{error.filename}, line {error.lineno}'
    raise UserError(f'{place}: {error.msg}') from error
  except (Exception, SystemExit) as error:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [x for x in frames if Path(x.filename) == Path(path).absolute()]
    place = f'{path}, line {lines[-1].lineno}' if lines else path
    hint = ''
    if isinstance(error, AttributeError) and isinstance(error.obj, ConfigDict):
      hint = '; set the field first: sections begin empty'
    kind = type(error).__name__
    raise UserError(f'{place}: {kind}: {error}{hint}') from error


def module_of(path: str) -> ModuleType:
  """Imports a config file; raises UserError if it has no get_config()."""
  spec = importlib.util.spec_from_file_location(Path(path).stem, path)
  if spec is None or spec.loader is None:
    raise UserError(f'{path} is not a config: give a Python file, name.py')
  module = importlib.util.module_from_spec(spec)
  with _in_file(path):
    spec.loader.exec_module(module)
  if not hasattr(module, 'get_config'):
    raise UserError(f'{path} is not a config: it has no function get_config()')
  return module


def from_file(path: str, argument: str = '') -> ConfigDict:
  """Returns the config of a file, without the program's defaults; argument: one of VARIANTS."""
  module = module_of(path)
  variants = getattr(module, 'VARIANTS', ())
  if argument and argument not in variants:
    words = 'smoke', *variants
    raise UserError(
      f'{path}:{argument}{near(argument, words)}: the argument of this config '
      f'can be {", ".join(words)}'
    )
  with _in_file(path):
    config = module.get_config(*([argument] if variants else []))
  if not isinstance(config, ConfigDict):
    raise UserError(f'{path}: get_config() returned {type(config).__name__}, not a ConfigDict')
  return config


def sweep(path: str, index: int) -> Flags:
  """Returns point number `index` of a config file's sweep(), as flags.

  A point is a dict {'section.field': value}. Raises UserError for an index out of range.
  """
  module = module_of(path)
  if not hasattr(module, 'sweep'):
    raise UserError(f'--sweep_index: {path} has no sweep()')
  with _in_file(path):
    changes = [{**change} for change in module.sweep()]
  if not 0 <= index < len(changes):
    raise UserError(
      f'--sweep_index={index}: the sweep() of {path} has {len(changes)}, 0..{len(changes) - 1}'
    )
  return as_flags(changes[index])
