"""Help of the command line: modes, fields and configs."""

import ast
import functools
import importlib.util
import inspect
import re
import shutil
import textwrap
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

from absl import flags

from diffusion_jax.app import modes
from diffusion_jax.app.config import experiments, folder, overrides
from diffusion_jax.app.config.schema import Constructor, Schema, parameters
from diffusion_jax.app.config.tree import Node, below
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.sections import COMMON
from diffusion_jax.errors import UserError


def main_help(program: str, known: Iterable[flags.Flag]) -> str:
  """Returns what --help prints: the modes and the flags."""
  name = Path(program).name
  program = f'python {name}' if name.endswith('.py') else name
  return '\n'.join(
    [
      f'{program} --config=configs/<name>.py [--mode=<mode>] [--workdir=<folder>]'
      ' [--config.<field>=<value> ...]',
      '',
      f'Modes; {program} --help_mode=<mode> prints their fields:',
      *(_columns(mode, text, 12) for mode, text in about_modes().items()),
      '',
      'Flags; --helpfull has those of libraries too:',
      *(_columns(f'--{flag.name}', flag.help, 14) for flag in known),
    ]
  )


def about_modes() -> dict[str, str]:
  """Returns what each mode does, from the docstrings of their modules."""
  texts = {}
  for name in modes.names():
    try:
      spec = importlib.util.find_spec(modes.find(name).module)
      about = _about(spec.origin) if spec and spec.origin else ''
    except UserError as error:  # another package's mode may raise one
      about = str(error)
    texts[name] = re.sub(r'^Implements --mode=\w+: ', '', about)
  return texts | {'list': 'names the configs, with variants and times.'}


def mode_help(mode: str, config: Node, source: str) -> str:
  """Returns what --help_mode prints: the fields that a mode reads.

  config: a complete config; source: the file or run of its values, or ''.
  """
  schema = config.schema
  where = f'those of {source}' if source else 'the defaults'
  blocks = [
    _wrap(f'--mode={mode} {about_modes()[mode]}'),
    _wrap(
      f'The values are {where}. --config.<field>=<value> sets a field; a flag '
      'such as --config.network=dit or --config.edit=interpolate shows the '
      'fields of another choice here. A choice can also be module:attribute '
      '(docs/parts.md).'
    ),
    '\n'.join(_fields(config, schema)),
  ]
  for path in _order(schema):
    top = path.partition('.')[0]
    if modes.reads(modes.find(mode), top):
      blocks += _section(path, config.at(path), schema)
  return '\n\n'.join(blocks)


def _order(schema):
  # Returns the paths of all sections: the model's first, then the common ones.
  places = {path: place for place, path in enumerate(COMMON)}
  paths = (p for p in (*schema.choices, *schema.parts) if p not in ('', 'facts'))
  return sorted(paths, key=lambda path: places.get(path.partition('.')[0], -1))


def _section(path: str, node: Node | None, schema: Schema) -> list[str]:
  # Returns blocks of text about a section and its inner sections: the choices,
  # the docstring of the constructor, and its parameters.
  table = schema.table(path)
  if node is None:
    return [_wrap(f'{path}=None{_others(table)}')]
  constructor, title = node.constructor, path
  if node.choice:
    title = f'{path}={node.choice}{_others(table, node.choice)}'
  partial = isinstance(constructor, functools.partial)
  doc = inspect.getdoc(constructor.func if partial else constructor) or ''
  about = textwrap.indent(doc.partition('\n\nArgs:\n')[0], '  ')
  lines = [_wrap(title), about, *_fields(node, schema)]
  inner = [
    block
    for name in parameters(constructor)
    if isinstance(section := node.get(name), Node)
    for block in _section(section.where, section, schema)
  ]
  return ['\n'.join(lines), *inner]


def _fields(node, schema):
  # Yields a line about each field of a section in the form of its flag, with
  # its text and its words.
  texts = _texts(node.constructor) | (_texts(node.common) if node.common else {})
  for name, parameter in node.signature.items():
    if name not in node or isinstance(node[name], Node):
      continue
    where = below(node.where, name)
    is_metrics = where == 'evaluation.metrics'
    table = schema.metrics if is_metrics else schema.table(where)
    words = [*table] or _words(parameter.annotation)
    about = filter(None, (texts.get(name), ', '.join(map(str, words))))
    flag = f'{where}={overrides.as_text(node[name])}'
    yield _columns(flag, '; '.join(about), 36)


def _words(annotation):
  # Returns the words of a Literal, which may be part of a union.
  for kind in (annotation, *get_args(annotation)):
    if get_origin(kind) is Literal:
      return get_args(kind)
  return ()


def _texts(constructor: Constructor) -> dict[str, str]:
  """Returns what a class and its bases, or a function, say of parameters."""
  texts = {}
  for owner in reversed(getattr(constructor, '__mro__', (constructor,))):
    args = inspect.cleandoc(owner.__doc__ or '').partition('\nArgs:\n')[2]
    for name, text in re.findall(r'^  (\w+): (.*(?:\n    .*)*)', args, re.M):
      texts[name] = ' '.join(text.split())
    if owner.__module__.startswith('diffusion_jax.app.'):
      texts |= _comments(owner)
  return texts


def _comments(section):
  """Returns the comments above the fields of a class, or after them in the same line."""
  texts, above = {}, []
  for line in inspect.getsource(section).splitlines():
    if comment := re.match(r'  # (.*)', line):
      above.append(comment[1])
    elif field := re.match(r'  (\w+): (?!ClassVar)[^#]*(?:  # (.*))?$', line):
      texts[field[1]] = ' '.join(above) or field[2] or ''
      above = []
  return {name: text for name, text in texts.items() if text}


def _others(table, name=None):
  others = ', '.join(other for other in table if other != name)
  return f'; or {others}' if others else ''


def list_configs() -> str:
  """Returns what --mode=list prints: all configs and what they need."""
  lines = [
    _wrap(
      'Every config has the variant :smoke, a trial of seconds, such as '
      'configs/digits.py:smoke. "after" names the config whose run has to '
      'exist. Times are those of a training on 2 CPU cores.'
    ),
    '',
  ]
  for name, path in folder.config_files().items():
    lines.append(_columns(name, _about(path), 36))
    facts = '; '.join(_facts(path))
    lines += [_columns('', facts, 36)] if facts else []
  return '\n'.join(lines)


_SPAN = r'(?:[\d to]+ min\w*(?: \d+ s)?|\d+ s)(?: of (?:CPU|processor) time)?'
_TIME = re.compile(rf'Measured[^:,.]*[:,] ({_SPAN})\b')


def _facts(path: Path) -> Iterator[str]:
  # Yields a config's variants, the runs that it needs, and its time.
  try:
    variants = getattr(experiments.module_of(str(path)), 'VARIANTS', ())
    config = store.completed(experiments.from_file(str(path)))
  except Exception:  # a file of the user's may raise anything
    return
  if variants:
    yield 'variants ' + ', '.join(f':{name}' for name in variants)
  latent = config.get('latent')
  runs = (config.at('training.start.run'), config.training.teacher, latent and latent.run)
  for run in dict.fromkeys(filter(None, runs)):
    name, sign, argument = Path(run).name.partition('-')
    yield f'after configs/{name}.py{":" if sign else ""}{argument}'
  doc = ast.get_docstring(_parse(path)) or ''
  yield from _TIME.findall(' '.join(doc.split()))


def _about(path):
  # Returns the first paragraph of a module's docstring, in one line.
  doc = inspect.cleandoc(ast.get_docstring(_parse(path)) or '')
  return ' '.join(doc.partition('\n\n')[0].split())


def _parse(path):
  try:
    with tokenize.open(path) as file:
      return ast.parse(file.read())
  except (OSError, SyntaxError):
    return ast.Module([], [])


def _width():
  return min(shutil.get_terminal_size().columns, 100)


def _wrap(text):
  return textwrap.fill(text, _width(), subsequent_indent='  ')


def _columns(name, text, name_width):
  # Returns '  name   text', with the text in its column, or below a long name.
  indent = ' ' * (name_width + 4)
  wrapped = textwrap.fill(text, _width(), initial_indent=indent, subsequent_indent=indent)
  if len(name) > name_width:
    return f'  {name}\n{wrapped}' if text else f'  {name}'
  return f'  {name:{name_width}}  {wrapped.lstrip()}'.rstrip()
