"""What a config may import and read, and a user's own parts.

Importing a module, `module:attribute`, runs its code. A config that is stored
in a run or with weights may come from a stranger, so a name that only such a
config contains is not imported, and a path is not read.
"""

import contextlib
import hashlib
import importlib
import os
import re
import shlex
import sys
from collections.abc import Collection, Iterable
from typing import Any

import jax

from diffusion_jax.aliases import Json
from diffusion_jax.app.config.schema import Constructor, Contract
from diffusion_jax.core.arguments import kind_of
from diffusion_jax.data import reads
from diffusion_jax.data.code_sums import of_module
from diffusion_jax.errors import OWN, UserError, place_of, reason_of
from diffusion_jax.paths import READ, RUN, cache_folder, texts_in
from diffusion_jax.runtime.files import read_json, sha256, write_json
from diffusion_jax.runtime.run_folder import RunFolder

_allowed: set[str] = set()


def allow(names: Iterable[str]) -> None:
  """Allows this process to import 'module:attribute', and to read paths.

  A name may be a list as on the command line, 'fid,my:metric', or a sweep.
  """
  for name in names:
    parts = name.strip('()[]').split(',') + re.split(r'[\s,=]+', name)
    words = [name, *(x.strip(' \'"') for x in parts)]
    _allowed.update([*words, *map(os.path.expanduser, words)])


def allow_parts(names: Iterable[str]) -> None:
  """Allows as `allow` does, as by --allow: the name of a module is all its parts."""
  allow(word for name in names for word in (name, f'{name}:'))


def remember(workdir: RunFolder, config: Any) -> None:
  """Keeps in the user's cache what a run may read and import, as allowed now.

  The user gave the paths and parts once; later starts need not name them again,
  as long as the run has the same config.json. Parts are kept for the working
  folder, whose modules they are. config: a `Node`.
  """
  texts = _allowed & {*texts_in([value for _, value in config.paths_read(READ, RUN)])}
  paths = {x for x in texts if ':' not in x or '://' in x}
  parts = {*filter(is_allowed, texts_in(config))}
  if not paths | parts:
    return
  with contextlib.suppress(OSError, UserError):  # The next start asks for them instead.
    path, here = _record(workdir), os.getcwd()
    before = _recorded(path)
    paths |= {*before.get('paths', ())}
    content: Json = before | {'run': workdir.absolute, 'paths': sorted(paths)}
    if parts:
      every = before.get('parts', {})
      content['parts'] = every | {here: sorted(parts.union(every.get(here, ())))}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


def recall(workdir: RunFolder) -> None:
  """Allows the paths and the parts of a run that `remember` was told of."""
  with contextlib.suppress(OSError, UserError):
    content = _recorded(_record(workdir))
    _allowed.update(content.get('paths', ()))
    _allowed.update(content.get('parts', {}).get(os.getcwd(), ()))


def _recorded(path):
  return read_json(path) if path.exists() else {}


def _record(workdir):
  # Another run at the same place, such as a stranger's, has another record.
  content = sha256(workdir.config) if workdir.config.is_file() else ''
  name = hashlib.sha256(os.fsencode(workdir.absolute + content)).hexdigest()
  return cache_folder() / 'runs' / f'{name[:16]}.json'


def is_allowed(name: str) -> bool:
  """Returns whether this process may import a 'module:attribute'."""
  part_of = f'{name.partition(":")[0]}:'  # --allow=module
  return ':' in name and not _allowed.isdisjoint({name, part_of})


def is_given(word: str) -> bool:
  """Returns whether the user gave a word, and not only a stored config."""
  return word in _allowed


def check_paths(*fields: tuple[str, object]) -> None:
  """Raises UserError if only a stored config names paths that would be read.

  fields: (name, its path or several).
  """
  named = [(name, path) for name, value in fields for path in texts_in(value) if path]
  others = {name: path for name, path in named if path not in _allowed}
  _refuse(others, 'would be read', 'path')


def check_senders(field: str, names: Collection[str], senders: Collection[str]) -> None:
  """Raises UserError if only a stored config names what a training sends to.

  senders: those of the names that may send something away.
  """
  for name in senders:
    if not (is_given(name) or is_allowed(name)):
      raise UserError(
        f'config.{field}={name} may send the curves and previews away, but only a stored config '
        f'names it. If you want this, add --config.{field}={",".join(names)} to the command'
      )


def check_imports(*fields: tuple[str, str]) -> None:
  """Raises UserError if only a stored config names these 'module:attribute'."""
  others = {field: name for field, name in fields if not is_allowed(name)}
  _refuse(others, 'would be imported, which runs its code', 'name')


def check_download(field: str, name: str) -> None:
  """Raises UserError if only a stored config names data that would be downloaded."""
  if name not in _allowed:
    _refuse({field: name}, 'would be downloaded', 'name')


def _refuse(fields, use, what):
  if fields:
    named = ' and '.join(f'config.{field}={word!r}' for field, word in fields.items())
    raise UserError(
      f'{named} {use}, but only a stored config contains this {what}. If you trust it, add '
      f'--allow={shlex.quote(",".join(fields.values()))} to the command'
    )


# A user's own parts.


def find(path: str, name: str, facts: Collection[str], contract: Contract) -> Constructor:
  """Imports and returns the constructor 'module:attribute' of a field.

  path: the field that names it; facts: the parameters that the program passes;
  contract: of the field.
  Raises UserError before the import if the user did not name it, and after the
  import if it cannot be a constructor of this field.
  """
  check_imports((path, name))
  module, _, attribute = name.partition(':')
  if os.getcwd() not in sys.path:  # the folder of the user's module
    sys.path.insert(0, os.getcwd())
  reads.watch()
  try:
    imported = importlib.import_module(module)
    OWN.add(getattr(imported, '__file__', None))
    part = getattr(imported, attribute)
  except Exception as error:  # The user's module may raise anything.
    where = f'config.{path}={name!r}'
    raise UserError(f'{where} cannot be imported: {reason_of(error)}') from error
  try:
    return contract.constructor(part, facts, contract.parameter)
  except ValueError as error:
    raise UserError(f'config.{path}={name!r}: {error} (docs/parts.md)') from error


def code_of(*trees: object) -> dict[str, str]:
  """Returns {module: a sum of its code} of the user's own modules that configs name."""
  names = {text.partition(':')[0] for text in texts_in(trees) if ':' in text}
  modules = {name: sys.modules[name] for name in sorted(names & sys.modules.keys())}
  own = {name: x for name, x in modules.items() if getattr(x, '__file__', None) in OWN - {None}}
  return {name: of_module(module) for name, module in own.items()}


def check_made(path: str, name: str, part: object, contract: Contract) -> None:
  """Raises UserError unless a user's constructor made what its field needs.

  Whatever it raises when it is tried is said of the part.
  """
  what = f'config.{path}={name!r}: '
  try:
    with jax.ensure_compile_time_eval():  # It may be made while a network is traced.
      value, fits = contract.made(part)
  except Exception as error:
    raise UserError(f'{what}{reason_of(error)}{place_of(error)} (docs/parts.md)') from error
  if not fits:
    raise UserError(f'{what}{contract.makes}, not {kind_of(value)} (docs/parts.md)')
