"""Says what the command line takes: modes, fields and configs.

It is read from the sources, so that there is one list of each: comments of
configs/base.py, docstrings of the configs and of the programs.
"""

import ast
import importlib.util
import inspect
import re
import shutil
import textwrap
import tokenize
from pathlib import Path
from typing import NamedTuple

from diffusion_jax.programs import PROGRAMS

_NAME_WIDTH = 36


class Field(NamedTuple):
  """Holds a field, 'section.name', with its default as it is written."""

  name: str
  default: str
  comment: str


class Section(NamedTuple):
  """Holds a section of configs/base.py; modes: those that read it, () for all.

  The section without a name has the fields of no section.
  """

  name: str
  comment: str
  modes: tuple[str, ...]
  fields: list[Field]


def read_sections(path: Path) -> list[Section]:
  """Reads the sections and fields of get_config() in the file of base.py."""
  with tokenize.open(path) as file:
    source = file.read()
  comments = _comments(path)
  (body,) = (
    node.body
    for node in ast.parse(source).body
    if isinstance(node, ast.FunctionDef) and node.name == 'get_config'
  )
  sections, prefixes = {'': Section('', '', (), [])}, {'config': ''}
  for node in body:
    if not isinstance(node, ast.Assign):
      continue
    target = node.targets[-1]
    if not isinstance(target, ast.Attribute):
      continue
    parent = ast.unparse(target.value)
    name = '.'.join(filter(None, (prefixes[parent], target.attr)))
    comment = _comment_of(node, comments, source.splitlines())
    if ast.unparse(node.value) == 'ConfigDict()':
      alias = ast.unparse(node.targets[0])
      prefixes[alias] = name
      above = sections[prefixes[parent]]
      sections[name] = Section(name, *_split_modes(comment, above.modes), [])
    else:
      field = Field(name, _default(node.value), comment)
      sections[prefixes[parent]].fields.append(field)
  return list(sections.values())


def _comments(path):
  # {line: the text of its comment}
  with tokenize.open(path) as file:
    tokens = list(tokenize.generate_tokens(file.readline))
  return {
    token.start[0]: token.string.lstrip('# ')
    for token in tokens
    if token.type == tokenize.COMMENT
  }


def _comment_of(node, comments, lines):
  # The lines above that are comments alone, then the one after the value.
  found, line = [], node.lineno - 1
  while line in comments and lines[line - 1].lstrip().startswith('#'):
    found.insert(0, comments[line])
    line -= 1
  if node.end_lineno in comments:
    found.append(comments[node.end_lineno])
  return ' '.join(found)


def _default(value):
  # A placeholder is a field without a value, of a type.
  text = ast.unparse(value)
  kind = re.fullmatch(r'placeholder\((\w+)\)', text)
  return f'<{kind[1]}>' if kind else text


def _split_modes(comment, default):
  # '--mode=a,b (more)' -> ('more', ('a', 'b'))
  found = re.match(r'--mode=([a-z,]+)\s*(.*)', comment)
  if not found:
    return comment, default
  return found[2].strip('()'), tuple(found[1].split(','))


def mode_help(mode: str, base: Path) -> str:
  """Returns the fields that a mode reads, with their comments.

  base: the file of configs/base.py.
  """
  width = _width()
  first = (
    f'--mode={mode} {_lower(modes()[mode])}\n\nIts fields are set by '
    '--config.<field>=<value>. The values are those of configs/base.py, on '
    'which each config sets its own; <float> is a field without one, which '
    'keeps the default of the function that takes it.'
  )
  blocks = ['\n'.join(textwrap.fill(x, width) for x in first.split('\n'))]
  for section in read_sections(base):
    if section.modes and mode not in section.modes or not section.fields:
      continue
    title = section.name or 'of every mode'
    about = f' ({section.comment})' if section.comment else ''
    lines = [f'{title}{about}']
    lines += [_field_line(field, width) for field in section.fields]
    blocks.append('\n'.join(lines))
  return '\n\n'.join(blocks)


def _field_line(field, width):
  return _columns(f'{field.name}={field.default}', field.comment, width)


def _columns(name, text, width, name_width=_NAME_WIDTH):
  # '  name   text', the text wrapped in its column; below a name that is long.
  indent = ' ' * (name_width + 4)
  wrapped = textwrap.fill(
    text, width, initial_indent=indent, subsequent_indent=indent
  )
  if len(name) > name_width:
    return f'  {name}\n{wrapped}' if text else f'  {name}'
  return f'  {name:{name_width}}  {wrapped.lstrip()}'.rstrip()


def main_help(program: str, flags) -> str:
  """Returns the modes and the flags; flags: absl's, of the command line."""
  width = _width()
  lines = [
    f'{program} --config=configs/<name>.py [--mode=<mode>] [--workdir=<folder>]'
    ' [--config.<field>=<value> ...]',
    '',
    f'Modes, {program} --help_mode=<mode> has their fields:',
    *(
      _columns(name, _lower(text), width, 12) for name, text in modes().items()
    ),
    '',
    'Flags, --helpfull has those of libraries too:',
    *(_columns(f'--{flag.name}', flag.help, width, 14) for flag in flags),
  ]
  return '\n'.join(lines)


def modes() -> dict[str, str]:
  """Returns what each mode does: the first lines of the programs."""
  folder = Path(__file__).parent / 'programs'
  found = {
    name: re.sub(
      r'^Implements --mode=\w+: ',
      '',
      first_line(folder / f'{name}.py'),
    )
    for name in PROGRAMS
  }
  return found | {'list': 'Names the configs, with a line about each.'}


def _lower(text):
  return text[:1].lower() + text[1:]


def first_line(path: Path) -> str:
  """Returns the first paragraph of a module's docstring, in one line."""
  try:
    with tokenize.open(path) as file:
      found = ast.get_docstring(ast.parse(file.read())) or ''
  except (OSError, SyntaxError):
    return ''
  return ' '.join(inspect.cleandoc(found).partition('\n\n')[0].split())


def config_files() -> dict[str, Path]:
  """Returns {'configs/<name>.py': file} of the working folder and installed.

  Those of the working folder come first, as `--config` finds them.
  """
  folders = [Path('configs')]
  for name in ('diffusion_jax.configs', 'configs'):
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations:
      folders.append(Path(spec.submodule_search_locations[0]))
  found = {}
  for folder in folders:
    for path in sorted(folder.glob('*.py')):
      if path.stem not in ('__init__', 'base'):
        found.setdefault(f'configs/{path.name}', path)
  return found


def base_file() -> Path:
  """Returns the file of configs/base.py."""
  beside = next(iter(config_files().values())).with_name('base.py')
  if beside.is_file():
    return beside
  return [*config_files().values()][-1].with_name('base.py')


def list_configs() -> str:
  """Returns the configs, each with the first line of its docstring."""
  width = _width()
  return '\n'.join(
    _columns(name, first_line(path), width)
    for name, path in config_files().items()
  )


def _width():
  return min(shutil.get_terminal_size().columns, 100)
