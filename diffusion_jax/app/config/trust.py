"""What a config may import and read, and what a user's own parts must be.

Importing a module, `module:attribute`, runs its code. A config that is stored
in a run or with weights may come from a stranger, so a name that only such a
config contains is not imported, and a path is not read.
"""

import contextlib
import functools
import hashlib
import importlib
import inspect
import os
import re
import shlex
import sys
import types
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen, nnx

import diffusion_jax as dj
from diffusion_jax.aliases import Json
from diffusion_jax.core.arguments import kind_of
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.core.levels import check_schedule
from diffusion_jax.core.parametrization import Kind, Parametrization
from diffusion_jax.data import simulated
from diffusion_jax.data.code_sums import of_module
from diffusion_jax.errors import OWN, UserError
from diffusion_jax.networks import functional
from diffusion_jax.paths import READ, RUN, cache_folder, texts_in
from diffusion_jax.ranges import check_value
from diffusion_jax.runtime import buckets
from diffusion_jax.runtime.files import read_json, sha256, write_json
from diffusion_jax.training.objectives import Objective

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


def remember(workdir: Path, config: Any) -> None:
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
    path, before, here = _record(workdir), _recorded(workdir), os.getcwd()
    paths |= {*before.get('paths', ())}
    content: Json = before | {'run': buckets.named(workdir.resolve()), 'paths': sorted(paths)}
    if parts:
      every = before.get('parts', {})
      content['parts'] = every | {here: sorted(parts.union(every.get(here, ())))}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


def recall(workdir: Path) -> None:
  """Allows the paths and the parts of a run that `remember` was told of."""
  with contextlib.suppress(OSError, UserError):
    content = _recorded(workdir)
    _allowed.update(content.get('paths', ()))
    _allowed.update(content.get('parts', {}).get(os.getcwd(), ()))


def _recorded(workdir):
  path = _record(workdir)
  return read_json(path) if path.exists() else {}


def _record(workdir):
  # Another run at the same place, such as a stranger's, has another record.
  config = workdir / 'config.json'
  content = sha256(config) if config.is_file() else ''
  name = hashlib.sha256(os.fsencode(buckets.named(workdir.resolve()) + content)).hexdigest()
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


def check_senders(field: str, names: Iterable[str]) -> None:
  """Raises UserError if only a stored config names what a training sends to."""
  for name in names:
    if name != 'tensorboard' and not (is_given(name) or is_allowed(name)):
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

# What an import may raise.
_UNUSABLE = AttributeError, ImportError, SyntaxError, TypeError, ValueError
# A parameter that every constructor of a field must have.
NEEDS = {'data': 'split', 'objective': 'network'}


def find(path: str, name: str, facts: Collection[str]) -> Callable:
  """Imports and returns the constructor 'module:attribute' of a field.

  path: the field that names it; facts: the parameters that the program passes.
  Raises UserError before the import if the user did not name it, and after the
  import if it cannot be a constructor of this field.
  """
  check_imports((path, name))
  module, _, attribute = name.partition(':')
  if os.getcwd() not in sys.path:  # the folder of the user's module
    sys.path.insert(0, os.getcwd())
  try:
    imported = importlib.import_module(module)
    OWN.add(getattr(imported, '__file__', None))
    part = getattr(imported, attribute)
  except _UNUSABLE as error:
    where = f'config.{path}={name!r}'
    raise UserError(f'{where} cannot be imported: {error}') from error
  if path in ('data', 'data.source', 'data.target') and simulated.is_simulator(part):
    part = simulated.simulated(part)
  misfit = _misfit(path.rpartition('.')[2], part, facts)
  if misfit:
    raise UserError(f'config.{path}={name!r}: {misfit} (docs/program.md)')
  is_nnx = inspect.isclass(part) and issubclass(part, nnx.Module)
  return functional.from_nnx(part) if is_nnx else part


def code_of(*trees: object) -> dict[str, str]:
  """Returns {module: a sum of its code} of the user's own modules that configs name."""
  names = {text.partition(':')[0] for text in texts_in(trees) if ':' in text}
  modules = {name: sys.modules[name] for name in sorted(names & sys.modules.keys())}
  own = {name: x for name, x in modules.items() if getattr(x, '__file__', None) in OWN - {None}}
  return {name: of_module(module) for name, module in own.items()}


def _misfit(key, part, facts):
  """Returns why an object cannot be a constructor of a field, or ''."""
  if key == 'network':
    more = (nnx.Module,) if 'in_channels' in facts else ()  # not autoencoders
    if inspect.isclass(part) and issubclass(part, (linen.Module, *more)):
      return _call_misfit(part) if more else ''
    names = 'flax.linen.Module' + ' or flax.nnx.Module' * len(more)
    return f'a subclass of {names} is needed'
  kinds = types.FunctionType, type, functools.partial
  try:
    parameters = isinstance(part, kinds) and inspect.signature(part).parameters
  except (TypeError, ValueError):
    parameters = False
  if parameters is False:
    return 'a Python function or class is needed'
  needed = NEEDS.get(key)
  if needed and needed not in parameters:
    return f'its parameters must include {needed}'
  for p in parameters.values():
    optional = p.default is not p.empty or p.kind is p.VAR_KEYWORD
    if not optional and (p.kind is p.VAR_POSITIONAL or p.name not in facts):
      return f'its parameter {p.name} needs a default'
  return ''


def _call_misfit(network):
  args = 'self', 'x', 'noise', 'cond'
  try:
    inspect.signature(network.__call__).bind(*args, train=True)
  except TypeError as error:
    return f'its __call__ must take (x, noise, cond, *, train): {error}'
  return ''


def check_made(path: str, name: str, part: Any) -> None:
  """Raises UserError unless a user's constructor made what its field needs.

  A function of the time or the level is called once, on shapes.
  """
  needed, value, fits = _need(path.rpartition('.')[2], part)
  if not fits:
    what = f'{needed}, not {kind_of(value)}'
    raise UserError(f'config.{path}={name!r}: {what} (docs/program.md)')


def _need(field, part):
  """Returns what a field needs, in words, what the part gives, and if it fits."""
  match field:
    case 'schedule':
      level = jax.eval_shape(part, 0.5)
      check_schedule(part)
      fits = isinstance(level, dj.NoiseLevel) and _shapes(level) == [()] * 3
      return 'schedule(t) must be a dj.NoiseLevel of numbers', level, fits
    case 'noise_input':
      number = jax.eval_shape(part, dj.clean_level())
      return 'noise_input(level) must be a number', number, _is_array(number, ())
    case 'weight':
      weight = jax.eval_shape(part, dj.CosineSchedule()(np.array([0.2, 0.7])))
      what = 'weight(level) must be one number for each level'
      return what, weight, _is_array(weight, (), (2,))
    case 'times':
      what = 'times(key, batch_size, schedule) must return (level, weight), [batch_size] each'
      with contextlib.suppress(AttributeError):  # It may need another schedule.
        times = jax.eval_shape(lambda key: part(key, 2, dj.CosineSchedule()), abstract_key())
        return what, times, kind_of(times) == 'a tuple of 2' and {*_shapes(times)} == {(2,)}
    case 'sampler':
      what = 'its constructor must return a dj.Sampler(init, step)'
      return what, part, isinstance(part, dj.Sampler)
    case 'parametrization':
      fits = isinstance(part, Parametrization)
      if fits:
        check_value('parametrization', part.kind, Kind)
      what = "its constructor must return a Parametrization(kind), such as Parametrization('v')"
      return what, part, fits
    case 'objective':
      what = 'its constructor must return an Objective(draw, loss)'
      return what, part, isinstance(part, Objective)
    case 'optimizer':
      what = "its constructor must return optax's optimizer and a function, step -> learning rate"
      return what, part, isinstance(part, tuple) and [*map(callable, part)] == [False, True]
    case 'data' | 'source' | 'target':
      what = 'its constructor must return a source, such as ArraySource(x)'
      return what, part, hasattr(part, 'read') and hasattr(part, 'facts')
  return '', part, True


def _shapes(tree):
  return [x.shape for x in jax.tree.leaves(tree)]


def _is_array(value, *shapes):
  return isinstance(value, jax.ShapeDtypeStruct) and value.shape in shapes
