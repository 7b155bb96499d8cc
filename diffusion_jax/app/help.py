"""What the command line says of itself: modes, fields and configs."""

import ast
import importlib.util
import inspect
import re
import shutil
import textwrap
import tokenize
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from diffusion_jax.app.modes import MODES


def main_help(program: str, known: Iterable[flags.Flag]) -> str:
  """Returns the modes and the flags of the command line."""
  name = Path(program).name
  program = f'python {name}' if name.endswith('.py') else name
  return '\n'.join([
    f'{program} --config=configs/<name>.py [--mode=<mode>] [--workdir=<folder>]'
    ' [--config.<field>=<value> ...]',
    '',
    f'Modes; {program} --help_mode=<mode> prints their fields:',
    *(_columns(mode, text, 12) for mode, text in modes().items()),
    '',
    'Flags; --helpfull has those of libraries too:',
    *(_columns(f'--{flag.name}', flag.help, 14) for flag in known),
  ])  # fmt: skip


def modes() -> dict[str, str]:
  """Returns what each mode does: the first lines of their modules."""
  folder = Path(__file__).parent / 'modes'
  texts = {
    name: re.sub(r'^Implements --mode=\w+: ', '', _about(folder / f'{name}.py'))
    for name in MODES
  }
  return texts | {'list': 'names the configs, with variants and times.'}


def mode_help(mode: str, config: ConfigDict, schema: Any, base: Path) -> str:
  """Returns the fields that a mode reads.

  config: a complete one; schema: its `config.Schema`; base: the file of
  configs/base.py, whose comments explain the plain fields.
  """
  blocks = [f'--mode={mode} {modes()[mode]}']
  blocks += [text for text, its in _plain_blocks(base) if not its or mode in its]
  if mode in ('train', 'sample', 'edit', 'evaluate', 'noise'):
    paths = [*schema.choices, *schema.parts]
    if mode != 'edit':
      paths.remove('edit')
    blocks += [_section_help(path, config, schema) for path in paths]
  return '\n\n'.join(blocks)


def _plain_blocks(base):
  # Yields (lines of a section of base.py as they are written, its modes).
  body = base.read_text().partition('config = ConfigDict()\n')[2]
  for block in body.partition('  return config')[0].split('\n\n'):
    modes = re.search(r'# --mode=([a-z,]+)', block)
    lines = [
      line
      for line in textwrap.dedent(block).splitlines()
      if 'ConfigDict()' not in line
    ]
    yield '\n'.join(lines), modes[1].split(',') if modes else ()


def _section_help(path, config, schema):
  # Returns a section: its choices, its constructor's docstring, its fields.
  from diffusion_jax.app.config import find

  node: Any = config
  for key in path.split('.'):
    node = node[key]
  table, fields = schema.table(path), []
  if node is None:
    return f'config.{path}=None; it can be {", ".join(table)}'
  if table:
    head = f'config.{path}={node.name}; it can be {", ".join(table)}'
    doc = inspect.getdoc(find(table, path, node.name))
  else:
    head, doc = f'config.{path}', inspect.getdoc(schema.parts[path])
  for name, value in sorted(node.items()):
    if isinstance(value, ConfigDict):
      value = value.name
    if name != 'name':
      fields.append(f'  {path}.{name}={value}')
  return '\n'.join([head, textwrap.indent(doc or '', '  '), *fields])


def config_files() -> dict[str, Path]:
  """Returns {'configs/<name>.py': file} of the working folder and installed."""
  folders = [Path('configs')]
  for name in ('diffusion_jax.configs', 'configs'):
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations:
      folders.append(Path(spec.submodule_search_locations[0]))
  files: dict[str, Path] = {}
  for folder in folders:
    for path in sorted(folder.glob('*.py')):
      if path.stem not in ('__init__', 'base'):
        files.setdefault(f'configs/{path.name}', path)
  return files


def list_configs() -> str:
  """Returns the configs: what each is, its variants, and what it needs."""
  lines = [
    'Every config has the variant :smoke, a trial of seconds, such as '
    'configs/digits.py:smoke. Times are those of a training on 2 CPU cores.',
    '',
  ]
  for name, path in config_files().items():
    lines.append(_columns(name, _about(path), 36))
    facts = '; '.join(_facts(path))
    lines += [_columns('', facts, 36)] if facts else []
  return '\n'.join(lines)


_TIME = re.compile(
  r'Measured[^:,.]*[:,] (\d+ min(?:utes)?(?: \d+ s)?(?: of CPU time)?|\d+ s)\b'
)


def _facts(path):
  # Yields the variants of a config, the runs that it needs, and its time.
  tree = _parse(path)
  values: Mapping[str, Any] = {
    ast.unparse(node.targets[0]): node.value
    for node in ast.walk(tree)
    if isinstance(node, ast.Assign)
  }
  if 'VARIANTS' in values:
    names = ast.literal_eval(values['VARIANTS'])
    yield 'variants ' + ', '.join(f':{name}' for name in names)
  for field in ('training.init_from', 'training.teacher', 'latent'):
    text = ast.unparse(values[f'config.{field}']) if f'config.{field}' in values else ''
    for run in re.findall(r"'runs/([^'-]+)", text):
      yield f'after configs/{run}.py'
  yield from _TIME.findall(' '.join((ast.get_docstring(tree) or '').split()))


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


def _columns(name, text, name_width):
  # Returns '  name   text', the text wrapped in its column.
  width = min(shutil.get_terminal_size().columns, 100)
  indent = ' ' * (name_width + 4)
  wrapped = textwrap.fill(
    text, width, initial_indent=indent, subsequent_indent=indent
  )
  if len(name) > name_width:
    return f'  {name}\n{wrapped}'
  return f'  {name:{name_width}}  {wrapped.lstrip()}'.rstrip()
