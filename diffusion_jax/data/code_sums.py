"""Sums of a user's code, by which results of it are kept."""

import ast
import contextlib
import functools
import inspect
import os
import sys
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from diffusion_jax.data.sums import digest, kept

MOST_FILES, MOST_ENTRIES = 200, 20_000  # the most files of code, and the most files in their folder


def code_of(function: Callable) -> str:
  """Returns a sum of the code around a function, see `of_module`."""
  module = inspect.getmodule(function)
  if module is not None and getattr(module, '__file__', None):
    return of_module(module)
  with contextlib.suppress(OSError, TypeError):  # a console
    return digest([inspect.getsource(function).encode()])
  return ''


@functools.cache  # the imported code, even if its file changes later
def of_module(module: ModuleType) -> str:
  """Returns a sum of the code that a module may use, without comments and layout.

  It is of the .py files below the folder of the module or, in a package, of the
  outermost package, without hidden folders and virtual environments; of a folder
  with more than MOST_FILES it is of the files next to the module. It is also of
  all files that the module imports, and these in turn, but not of installed
  packages, whose versions tell.
  """
  place = Path(str(module.__file__)).resolve()
  depth = (package := getattr(module, '__package__', '') or '').count('.')
  top, base = place.parents[depth], place.parents[depth + bool(package)]
  below = _python_files(top)
  names = {file: file.relative_to(top) for file in below or place.parent.glob('*.py')}
  names = _imported(place, base) | names
  files = sorted(names, key=lambda file: (names[file], file))
  return kept(
    files,
    lambda: digest(x for file in files for x in (os.fsencode(names[file]), _code(file))),
    f'{top} {sorted(map(str, names.values()))}',
  )


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


def _imported(module, base):
  # Returns {file: its path in the folder it is imported from} of a module, of
  # what it imports in any of its lines, and so on.
  roots = [base, *_users_folders()]
  todo, names = [(module, base)], {}
  while todo:
    file, root = todo.pop()
    if file in names:
      continue
    names[file] = file.relative_to(root)
    for level, words in _imports_in(_parsed(file)):
      package = names[file].parts[:-level] if level else ()
      for place in [root] if level else roots:
        if paths := [*_files_of(place, (*package, *words))]:
          todo += [(path, place) for path in paths]
          break
  return names


def _users_folders():
  # Returns the folders of sys.path in which the user's own modules are.
  folders = [Path(x or os.getcwd()).resolve() for x in sys.path]
  python = [Path(sysconfig.get_path(x)).resolve() for x in ('stdlib', 'platstdlib')]
  installed = {'site-packages', 'dist-packages'}
  return [
    x
    for x in dict.fromkeys(folders)
    if x.is_dir() and installed.isdisjoint(x.parts) and not any(map(x.is_relative_to, python))
  ]


def _imports_in(tree):
  # Yields (the level of a relative import or 0, the parts of the name).
  for node in ast.walk(tree) if tree else ():
    if isinstance(node, ast.Import):
      yield from ((0, alias.name.split('.')) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      words = node.module.split('.') if node.module else []
      yield from ((node.level, [*words, alias.name]) for alias in node.names)


def _files_of(place, words):
  # Yields the files that an import of the name reads, if it is in a folder.
  if words[:1] == ('diffusion_jax',):  # the version of our package stands for its code
    return
  for i in range(1, len(words) + 1):
    path = place.joinpath(*words[:i])
    yield from filter(Path.is_file, (path.with_name(f'{path.name}.py'), path / '__init__.py'))


def _parsed(file):
  with contextlib.suppress(SyntaxError, ValueError, RecursionError), warnings.catch_warnings():
    warnings.simplefilter('ignore')  # the user's code may warn
    return ast.parse(file.read_bytes())
  return None


def _code(file):
  tree = _parsed(file)
  return ast.dump(tree).encode() if tree else file.read_bytes()
