"""Sums of code, by which results of it are kept: of a user's modules, of packages, and of ours."""

import ast
import contextlib
import functools
import inspect
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

from diffusion_jax.data.sums import digest, of_files, remembered

MOST_FILES, MOST_ENTRIES = 200, 20_000  # the most files of code, and the most files in their folder
PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = {'site-packages', 'dist-packages'}


def code_of(function: Callable) -> str:
  """Returns a sum of the code around a function and of ours that it imports, see `of_module`."""
  module = inspect.getmodule(function)
  if module is not None and getattr(module, '__file__', None):
    return of_module(module, with_ours=True)
  with contextlib.suppress(OSError, TypeError):  # a console
    return digest([inspect.getsource(function).encode()])
  return ''


@functools.cache  # the imported code, even if its file changes later
def of_package() -> str:
  """Returns a sum of the code of this package, without comments, docstrings and layout.

  Its configs are left out, whose values are fields.
  """
  configs = PACKAGE / 'configs'  # in a wheel
  files = [x for x in sorted(PACKAGE.rglob('*.py')) if not x.is_relative_to(configs)]
  return _of_files({x: x.relative_to(PACKAGE) for x in files}, docstrings=False)


@functools.cache  # the imported code, even if its file changes later
def of_module(module: ModuleType, with_ours: bool = False) -> str:
  """Returns a sum of the code that a module may use, without comments and layout.

  It is of the .py files below the folder of the module or, in a package, of the
  outermost package, without hidden folders and virtual environments; of a folder
  with more than MOST_FILES it is of the files next to the module. It is also of
  all files that the module imports, and these in turn. Of installed packages it has what
  `of_installed` says. with_ours: also of what is imported of this package, which
  `of_package` sums up.
  """
  place = Path(str(module.__file__)).resolve()
  depth = (package := getattr(module, '__package__', '') or '').count('.')
  top, base = place.parents[depth], place.parents[depth + bool(package)]
  below = _python_files(top)
  names = {file: file.relative_to(top) for file in below or place.parent.glob('*.py')}
  imported, packages = _imported(place, base, with_ours)
  versions = sorted(f'{name} {of_installed(name)}' for name in packages)
  return digest([_of_files(imported | names).encode(), *map(str.encode, versions)])


def of_file(path: Path) -> str:
  """Returns a sum of the code of a .py file, without comments and layout."""
  return digest([_code(path)])


@functools.cache  # the imported package, even if another one is installed later
def of_installed(name: str) -> str:
  """Returns what an installed package is: the names and versions of its distributions.

  name: such as PIL. With a distribution that comes from no index of packages there is a sum of the
  code that it installed, and what no distribution lists has a sum of its own. '' without such a
  package; what is in no folder of installed packages is no package, but code.
  """
  if name == PACKAGE.name:
    return of_package()
  if not name.isidentifier():  # It may come from a stranger's file.
    return ''
  for folder in map(Path, sys.path):
    files = [x for x in (folder / name, folder / f'{name}.py') if x.exists()]
    if files and not INSTALLED.isdisjoint(folder.parts):
      found = _distributions(folder, f'{name}-*', name) or _distributions(folder, '*', name)
      below = sorted(x for file in files for x in (file, *file.rglob('*.py')) if x.is_file())
      return ', '.join(found) or of_files(below)
  return ''


def _distributions(folder, pattern, name):
  # Returns the distributions that list a module among their files.
  found, listed = [], re.compile(rf'^{name}(/|\.py,)'.encode(), re.MULTILINE)
  for place in sorted(folder.glob(f'{pattern}.dist-info')):
    record = place / 'RECORD'
    if not record.is_file() or not listed.search(content := record.read_bytes()):
      continue
    found.append(place.name.removesuffix('.dist-info'))
    if (place / 'direct_url.json').exists():  # PEP 610: of a path, an archive or a repository
      lines = (x for x in content.splitlines() if b'.py,sha256=' in x)
      found[-1] += f' {digest(sorted(lines))}'
  return found


def _of_files(names, docstrings=True):
  # Returns a sum of the code of files; names: what each is called in it.
  files = sorted(names, key=lambda file: (names[file], file))
  about = [os.fsencode(names[file]) for file in files]

  def compute():
    return digest(x for pair in zip(about, map(code, files), strict=True) for x in pair)

  def code(file):
    return _code(file, docstrings)

  content = digest(file.read_bytes() for file in files)
  return remembered(digest([f'code {docstrings} {content}'.encode(), *about]), compute)


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


def _imported(module, base, with_ours):
  # Returns ({file: its path in the folder it is imported from}, names of installed packages) of a
  # module, of what it imports in any of its lines, and so on.
  folders = _folders()
  todo, names, packages = [(module, base)], {}, set()
  while todo:
    file, root = todo.pop()
    if file in names:
      continue
    names[file] = file.relative_to(root)
    for level, words in _imports_in(file.read_bytes()):
      if words[:1] == [PACKAGE.name]:
        ours = {*_files_of(PACKAGE.parent, words)} - {PACKAGE / '__init__.py'}
        todo += [(path, PACKAGE.parent) for path in ours if with_ours]
        packages |= {PACKAGE.name} if with_ours and not ours else set()
        continue
      words = [*names[file].parts[:-level], *words] if level else words
      for place in [root] if level else [base, *folders]:
        if paths := [*_files_of(place, words)]:
          is_code = INSTALLED.isdisjoint(place.parts)
          todo += [(path, place) for path in paths if is_code]
          packages |= set() if is_code else {words[0]}
          break
  return names, packages


def _folders():
  # Returns the folders of sys.path, without Python's own.
  folders = [Path(x or os.getcwd()).resolve() for x in sys.path]
  python = [Path(sysconfig.get_path(x)).resolve() for x in ('stdlib', 'platstdlib')]
  return [
    x
    for x in dict.fromkeys(folders)
    if x.is_dir() and (INSTALLED & {*x.parts} or not any(map(x.is_relative_to, python)))
  ]


@functools.lru_cache(1000)  # Modules of one user import the same ones of ours.
def _imports_in(content: bytes) -> tuple[tuple[int, list[str]], ...]:
  # Returns (the level of a relative import or 0, the parts of the name) of each import in code.
  tree = _parsed(content)
  return (*_imports_of(tree),) if tree else ()


def _imports_of(tree) -> Iterable[tuple[int, list[str]]]:
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from ((0, alias.name.split('.')) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      words = node.module.split('.') if node.module else []
      yield from ((node.level, [*words, alias.name]) for alias in node.names)


def _files_of(place, words):
  # Yields the files that an import of the name reads, if it is in a folder.
  for i in range(1, len(words) + 1):
    path = place.joinpath(*words[:i])
    yield from filter(Path.is_file, (path.with_name(f'{path.name}.py'), path / '__init__.py'))


def _parsed(content):
  with contextlib.suppress(SyntaxError, ValueError, RecursionError), warnings.catch_warnings():
    warnings.simplefilter('ignore')  # the user's code may warn
    return ast.parse(content)
  return None


def _code(file, docstrings=True):
  content = file.read_bytes()
  tree = _parsed(content)
  if tree is None:
    return content
  for node in ast.walk(tree) if not docstrings else ():
    body = getattr(node, 'body', None)
    if isinstance(body, list) and body and _is_text(body[0]):
      del body[0]
  return ast.dump(tree).encode()


def _is_text(node):
  return (
    isinstance(node, ast.Expr)
    and isinstance(node.value, ast.Constant)
    and isinstance(node.value.value, str)
  )
