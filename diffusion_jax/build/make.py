"""Makes an object of a section of a config: the constructor is the schema.

A field is set if it is not None. The object that a section names is built from
the set fields and from facts of the run (shapes, classes, the schedule) that
the signature of its constructor takes; defaults stand in signatures alone.
`audit` refuses what nothing takes.
"""

import contextlib
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax

from diffusion_jax.build import own_parts
from diffusion_jax.errors import UserError

Facts = Mapping[str, Callable[[], Any]]


@contextlib.contextmanager
def from_config(section: str) -> Iterator[None]:
  """Turns a refusal of what `section` of the config gave into a UserError."""
  try:
    yield
  except (ValueError, TypeError, OSError) as error:
    raise UserError(f'config.{section}: {with_near(str(error))}') from error


def with_near(message: str) -> str:
  """Adds the nearest name to "... 'value' is not one of a, b" of a library."""
  found = re.search(r"'([^']*)' is not one of (.*)", message)
  if not found:
    return message
  hint = near(found[1], re.findall(r'\w+', found[2]))
  return message.replace(' is not one of', f'{hint} is not one of', 1)


def choose(table: Collection, section: str, field: str, value: Any) -> Any:
  """Returns table[value], or for 'module:name' what a user's module defines.

  table: a dict, or a tuple of the values themselves. The fields that accept a
  module are those of `own_parts.PLACES`.
  Raises UserError for any other value: the nearest name, then all names.
  """
  path = f'{section}.{field}'
  if own_parts.names_one(path, value):
    return own_parts.find(path, value)
  if value not in table:
    raise UserError(
      f'config.{section}.{field}={value!r}{near(value, table)} is not one of '
      f'{", ".join(table)}'
    )
  return table[value] if isinstance(table, Mapping) else value


def near(value: Any, known: Collection[str]) -> str:
  """Returns " (did you mean 'name'?)", or '' where no known name is near."""
  found = difflib.get_close_matches(str(value), known, n=1, cutoff=0.65)
  return f' (did you mean {found[0]!r}?)' if found else ''


def parameters(constructor: Callable) -> dict[str, inspect.Parameter]:
  """Returns the parameters that a config or the facts of a run can give."""
  found = inspect.signature(constructor).parameters
  return {
    name: parameter
    for name, parameter in found.items()
    if name not in ('parent', 'name')  # of every Flax module
  }


def make(
  table: Mapping[str, Any],
  section: Mapping[str, Any],
  path: str,
  facts: Facts | None = None,
) -> Any:
  """Builds what the field `path`, such as 'network.name', of a section names.

  facts: as of `construct`. Raises UserError for an unknown name and for what
  the constructor refuses.
  """
  where, _, field = path.partition('.')
  constructor = choose(table, where, field, section[field])
  others = {name: section[name] for name in section if name != field}
  return construct(constructor, others, where, facts)


def construct(
  constructor: Callable,
  section: Mapping[str, Any],
  where: str,
  facts: Facts | None = None,
) -> Any:
  """Calls the constructor with the fields and facts that its signature takes.

  where: name of the section. facts: functions by the name of a parameter;
  those that the constructor takes are called, and win over fields.
  """
  facts, values = facts or {}, {}
  for name, parameter in parameters(constructor).items():
    if name in facts:
      values[name] = facts[name]()
    elif section.get(name) is not None:
      values[name] = section[name]
    elif parameter.default is parameter.empty and parameter.kind in (
      parameter.POSITIONAL_OR_KEYWORD,
      parameter.KEYWORD_ONLY,
    ):
      raise UserError(f'config.{where}: {name} is needed, and not set')
  with from_config(where):
    return constructor(**values)


def check_taken(
  config: Any, needed: Mapping[str, str], table: Mapping, field: str
) -> None:
  """Raises UserError for a field that the chosen constructor cannot follow.

  needed: {field: parameter}; a field that is true needs a constructor with the
  parameter. table: the constructors of `field`, such as 'network.name'.
  """
  section, name = field.split('.')
  chosen = config[section][name]
  takes = parameters(choose(table, section, name, chosen))
  for other, parameter in needed.items():
    section, name = other.split('.')
    if config[section][name] and parameter not in takes:
      able = [n for n, known in table.items() if parameter in parameters(known)]
      raise UserError(
        f'config.{other}={config[section][name]} needs {field}='
        f'{" or ".join(able)}: {chosen!r} takes no {parameter}'
      )


def renamed(constructor: Callable, **fields: str) -> Callable:
  """Returns the constructor with parameters called as the fields of a config.

  renamed(dj.langevin, snr='corrector_snr') takes corrector_snr.
  """
  signature = inspect.signature(constructor)
  names = {field: name for name, field in fields.items()}

  def call(**values):
    return constructor(**{names.get(n, n): x for n, x in values.items()})

  build: Any = functools.wraps(constructor)(call)
  build.__signature__ = signature.replace(
    parameters=[
      p.replace(name=fields.get(n, n), kind=p.KEYWORD_ONLY)
      for n, p in signature.parameters.items()
    ]
  )
  return build


def fixed(constructor: Callable, **values: Any) -> Callable:
  """Returns the constructor with parameters that no config can change."""
  signature = inspect.signature(constructor)
  build: Any = functools.partial(constructor, **values)
  build.__signature__ = signature.replace(
    parameters=[p for n, p in signature.parameters.items() if n not in values]
  )
  return build


def extended(build: Callable, constructor: Callable, *left_out: str):
  """Returns build(**values) with its own and the constructor's parameters.

  `build` hands the second kind on to the constructor; but for `left_out`.
  """
  own = [
    p
    for p in inspect.signature(build).parameters.values()
    if p.kind is not p.VAR_KEYWORD
  ]
  known = {p.name for p in own} | set(left_out)
  others = [
    p.replace(kind=p.KEYWORD_ONLY)
    for n, p in inspect.signature(constructor).parameters.items()
    if n not in known
  ]
  own = [p.replace(kind=p.KEYWORD_ONLY) for p in own]
  build.__signature__ = inspect.Signature([*own, *others])
  return build


MATMUL_PRECISIONS = ('default', 'high', 'highest')


def matmul_precision(config) -> contextlib.AbstractContextManager:
  """Returns the context of a network's calls, network.matmul_precision.

  'default' leaves it to JAX: its own default, or JAX_DEFAULT_MATMUL_PRECISION.
  """
  name = config.network.matmul_precision
  choose(MATMUL_PRECISIONS, 'network', 'matmul_precision', name)
  if name == 'default':
    return contextlib.nullcontext()
  return jax.default_matmul_precision(name)


def words(values) -> tuple[str, ...]:
  """Returns ('a', 'b'), also of ('a,b',), which a command line makes of a,b."""
  return tuple(','.join(values).split(',')) if values else ()
