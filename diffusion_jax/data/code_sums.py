"""Sums of the code around a function, by which results of it are kept."""

import ast
import contextlib
import functools
import inspect
import os
import warnings
from collections.abc import Callable
from pathlib import Path

from diffusion_jax.data.files import say_once
from diffusion_jax.data.sums import digest, kept

MOST_FILES, MOST_ENTRIES = 500, 20_000  # of code, and of all in its folder


@functools.cache  # the imported code, even if its file changes later
def code_of(function: Callable) -> str:
  """Returns a sum of the code around a function, without comments and layout.

  It is of the .py files below the folder of its module or, in a package, of the
  outermost package. Hidden folders and virtual environments are left out, and
  of a folder with more than MOST_FILES all but the files next to the module.
  """
  module = inspect.getmodule(function)
  if not (file := getattr(module, '__file__', None)):
    with contextlib.suppress(OSError, TypeError):  # a console
      return digest([inspect.getsource(function).encode()])
    return ''
  place = Path(file).resolve()
  top = place.parents[(getattr(module, '__package__', '') or '').count('.')]
  files = _python_files(top)
  if files is None:
    files = sorted(place.parent.glob('*.py'))
    say_once(
      f'{top} has many files: simulations run again after a change of those next to {place}; '
      'after a change of others set another data.version'
    )
  return kept(files, lambda: digest(x for file in files for x in _code(file, top)), str(top))


def _python_files(top):
  # Returns the .py files below a folder, None if it has too many files.
  files, count = [], 0
  for place, folders, names in os.walk(top):
    skipped = {x for x in folders if (Path(place, x) / 'pyvenv.cfg').exists()} | {'site-packages'}
    folders[:] = sorted(x for x in folders if x[0] != '.' and x not in skipped)
    files += [Path(place, x) for x in sorted(names) if x.endswith('.py')]
    count += len(folders) + len(names)
    if count > MOST_ENTRIES or len(files) > MOST_FILES:
      return None
  return files


def _code(file, top):
  code = file.read_bytes()
  with contextlib.suppress(SyntaxError, ValueError, RecursionError), warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of the user's code
    code = ast.dump(ast.parse(code)).encode()
  return os.fsencode(file.relative_to(top)), code
