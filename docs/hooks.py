"""Hooks of mkdocs: notebooks become pages, names of `dj` links, and its docstrings a table."""

import ast
import base64
import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def on_files(files, config):
  """Adds a page for each notebook; the notebook itself can be downloaded."""
  from mkdocs.structure.files import File  # tests of the table have no mkdocs

  for notebook in [f for f in files if f.src_uri.endswith('.ipynb')]:
    cells = json.loads(notebook.content_string)['cells']
    name = Path(notebook.src_uri).stem
    page, pictures = page_of(cells, name)
    folder = f'{Path(notebook.src_uri).parent}/'
    files.append(File.generated(config, f'{folder}{name}.md', content=page))
    for file, content in pictures.items():
      files.append(File.generated(config, folder + file, content=content))
  return files


def is_code(cell):
  """Returns whether a cell is code."""
  return cell['cell_type'] == 'code'


def source(cell):
  """Returns the text of a cell."""
  return ''.join(cell['source'])


def page_of(cells, name):
  """Returns a page (Markdown) and its pictures, name -> bytes."""
  parts, pictures = [], {}
  for cell in cells:
    if not is_code(cell):
      parts.append(source(cell))
      continue
    parts.append(f'```python\n{source(cell)}\n```')
    for output in cell.get('outputs', ()):
      data = output.get('data', {})
      if 'image/png' in data:
        file = f'{name}_{len(pictures)}.png'
        pictures[file] = base64.b64decode(''.join(data['image/png']))
        alt = cell['metadata'].get('alt', '')
        parts.append(f'![{alt}]({file})')
      elif text := ''.join(output.get('text', data.get('text/plain', ''))):
        fenced = f'```text\n{text.rstrip()}\n```'
        parts.append(f'<div class="output" markdown>\n\n{fenced}\n\n</div>')
  link = f'<a href="../{name}.ipynb" download>'
  download = f'{link}Download this page as a notebook</a>'
  parts.insert(1, f'{download}, for Jupyter.')
  return '\n\n'.join(parts), pictures


def modules():
  """Returns the names of `dj`, with the module that defines each."""
  tree = ast.parse((ROOT / 'diffusion_jax' / '__init__.py').read_text())
  imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
  return {alias.name: node.module for node in imports for alias in node.names}


NAMES = modules()
TABLE = '<!-- the names of dj: docs/hooks.py -->'


def signature(node):
  """Returns how a function or a class is called, and the type that a function returns."""
  if isinstance(node, ast.ClassDef):
    own = [n for n in node.body if isinstance(n, ast.AnnAssign)]
    fields = (f'{n.target.id}={ast.unparse(n.value)}' if n.value else n.target.id for n in own)
    return f'{node.name}({", ".join(fields)})' if own else node.name
  if not isinstance(node, ast.FunctionDef):
    return node.targets[0].id
  for argument in ast.walk(node.args):
    if isinstance(argument, ast.arg):
      argument.annotation = None
  returned = ast.unparse(node.returns).strip("'")
  return f'{node.name}({ast.unparse(node.args)}) -> {returned}'


def summary(path):
  """Yields the name, the call and the first sentence of what a module defines for `dj`."""
  body = ast.parse(path.read_text()).body
  for node, following in zip(body, [*body[1:], None], strict=True):
    aliased = isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '')
    name = aliased or getattr(node, 'name', '')
    if name not in NAMES or not str(path).endswith(f'{NAMES[name].replace(".", "/")}.py'):
      continue
    text = following.value.value if aliased else ast.get_docstring(node)
    yield name, signature(node), ' '.join(text.split('\n\n')[0].split())


def names_table():
  """Returns the public names of `dj`, a table for each page of docs/api."""
  menu = (ROOT / 'mkdocs.yml').read_text()
  lines = []
  for page in re.findall(r'api/(\w+)\.md', menu):
    text = (ROOT / 'docs' / 'api' / f'{page}.md').read_text()
    rows = []
    for module in re.findall(r'^::: (\S+)$', text, re.M):
      path = ROOT / f'{module.replace(".", "/")}.py'
      for name, call, sentence in summary(path) if path.exists() else ():
        cells = f'`{call}`'.replace('|', r'\|'), sentence.replace('|', r'\|')
        rows.append(f'| [{cells[0]}][{module}.{name}] | {cells[1]} |')
    if rows:
      title = re.search('^# (.*)$', text, re.M)[1]
      lines += [f'\n## [{title}](api/{page}.md)\n', '| call | what it is |', '|---|---|', *rows]
  return '\n'.join(lines)


FENCED = re.compile(r'^( *```.*?^ *```)', re.DOTALL | re.MULTILINE)
CODE = re.compile(r'(?<![`\[])`(dj\.)?([\w.]+)(?:\([^`]*)?`(?![`\]])')
MODULES = 'training.', 'networks.', 'metrics.', 'testing.', 'interop.'


def on_page_markdown(markdown, page, **_):
  """Links names of `dj` in code spans to their entries in the API pages.

  The index of equations links every name. Other pages link only unambiguous
  names such as `dj.sample` and `q_sample`: `sample` may be a mode.
  """
  everywhere = page.file.src_uri == 'equations.md'

  def link(match):
    prefix, name = match.groups()
    if name in NAMES and (everywhere or prefix or '_' in name):
      return f'[{match[0]}][{NAMES[name]}.{name}]'
    if everywhere and name.startswith(MODULES):
      return f'[{match[0]}][diffusion_jax.{name}]'
    return match[0]

  # On the site a notebook is a page.
  markdown = re.sub(r'(\]\((?:tutorials/)?\d\w+)\.ipynb\)', r'\1.md)', markdown)
  parts = FENCED.split(markdown)
  parts[::2] = [CODE.sub(link, part) for part in parts[::2]]
  return ''.join(parts).replace(TABLE, names_table())


def on_page_content(html, **_):
  """Removes the backslash before pipes in code in tables, as GitHub does."""
  return re.sub(r'<code>[^<]*</code>', lambda code: code[0].replace(r'\|', '|'), html)
