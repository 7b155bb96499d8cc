"""Which modules a config may import, and which paths it may read.

Importing a module, `module:attribute`, runs its code. A config that is stored
in a run or with weights may come from a stranger, so a name that only such a
config contains is not imported, and a path is not read.
"""

import contextlib
import hashlib
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffusion_jax.aliases import Json, Tree
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import buckets, files
from diffusion_jax.runtime.files import cache_folder, read_json, write_json

_allowed: set[str] = set()

# The parameters of constructors that are paths of files or folders to read.
PATHS = 'path', 'test_path', 'paths', 'data_dir', 'image', 'image2', 'mask'
# And other fields that are paths, checked where they are read.
_OTHERS = 'run', 'teacher', 'init_from', 'weights', 'context', 'reference'
# Fields that are paths and are not read from a stored config.
_WRITTEN = 'compilation_cache', 'out'
_USERS = *_WRITTEN, 'runs', 'source'


def allow(names: Iterable[str]) -> None:
  """Allows this process to import 'module:attribute', and to read paths.

  A name may be a list as on the command line, 'fid,my:metric', or a sweep.
  """
  for name in names:
    parts = name.strip('()[]').split(',') + re.split(r'[\s,=]+', name)
    words = [name, *(x.strip(' \'"') for x in parts)]
    _allowed.update([*words, *map(os.path.expanduser, words)])


def expanded(name: str, value: Any) -> Any:
  """Returns the value of a field, with the user's folder for ~ in paths.

  Raises ValueError for an address, gs://..., that would be written.
  """
  if isinstance(value, tuple):
    return tuple(expanded(name, x) for x in value)
  is_path = isinstance(value, str) and name in (*PATHS, *_OTHERS, *_USERS)
  return files.expanded(value, name in _WRITTEN) if is_path else value


def remember(workdir: Path, config: Tree) -> None:
  """Keeps in the user's cache what the training of a run may read and import.

  The user gave the paths and parts once; later starts of the run need not name
  them again. Parts are kept for a run below the working folder, which has them.
  """
  paths = sorted(x for x in _paths(config) & _allowed if ':' not in x)
  content: Json = {'run': buckets.named(workdir.resolve()), 'paths': paths}
  parts = sorted(filter(is_allowed, names_in(config)))
  if parts and workdir.resolve().is_relative_to(here := os.getcwd()):
    content |= {'parts': parts, 'folder': here}
  elif not paths:
    return
  with contextlib.suppress(OSError):  # The next start asks for them instead.
    path = _record(workdir)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


def recall(workdir: Path) -> None:
  """Allows the paths and the parts of a run that `remember` was told of."""
  with contextlib.suppress(OSError, UserError):
    content = read_json(_record(workdir))
    _allowed.update(content.get('paths', ()))
    if content.get('folder') == os.getcwd():
      _allowed.update(content['parts'])


def _paths(tree):
  # Returns the paths in a config, by the names of their fields.
  found = set()
  for name, value in tree.items():
    if isinstance(value, Mapping):
      found |= _paths(value)
    elif name in (*PATHS, *_OTHERS):
      found |= names_in(value)
  return found - {'', 'train', 'test'}  # a reference may be a split


def without_folders(tree: Tree) -> Json:
  """Returns a config whose paths are only the names of their files."""

  def file_name(name, value):
    if isinstance(value, Mapping):
      return without_folders(value)
    if name not in (*PATHS, *_OTHERS):
      return value
    if isinstance(value, str):
      return os.path.basename(value.rstrip('/'))
    return [file_name(name, x) for x in value] if value else value

  return {name: file_name(name, value) for name, value in tree.items()}


def _record(workdir):
  name = hashlib.sha256(os.fsencode(buckets.named(workdir.resolve()))).hexdigest()
  return cache_folder() / 'runs' / f'{name[:16]}.json'


def is_allowed(name: str) -> bool:
  """Returns whether this process may import a 'module:attribute'."""
  part_of = f'{name.partition(":")[0]}:'  # --allow=module
  return ':' in name and not _allowed.isdisjoint({name, part_of})


def modules() -> set[str]:
  """Returns the modules of the parts that this process may import."""
  return {name.partition(':')[0] for name in filter(is_allowed, _allowed)}


def is_given(word: str) -> bool:
  """Returns whether the user gave a word, and not only a stored config."""
  return word in _allowed


def check_paths(field: str, value: str | Iterable[str] | None) -> None:
  """Raises UserError if only a stored config names a path that would be read.

  value: of config.<field>, a path or several; '' and None name no path.
  """
  for path in [value] if isinstance(value, str) else value or ():
    if path and path not in _allowed:
      raise _stranger(f'config.{field}={path!r} would be read', 'path', path)


def check_import(field: str, name: str) -> None:
  """Raises UserError if only a stored config names a 'module:attribute'."""
  if not is_allowed(name):
    use = f'config.{field}={name!r} would be imported, which runs its code'
    raise _stranger(use, 'name', name)


def _stranger(use, what, word):
  return UserError(
    f'{use}, but only a stored config contains this {what}. If you trust it, add '
    f'--allow={shlex.quote(word)} to the command'
  )


def names_in(tree: object) -> set[str]:
  """Returns each string in a config or in a config.json."""
  if isinstance(tree, Mapping):
    return names_in([*tree.values()])
  if isinstance(tree, (tuple, list)):
    return set().union(*map(names_in, tree))
  return {tree} if isinstance(tree, str) else set()
