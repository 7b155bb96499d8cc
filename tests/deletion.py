"""Deletes files from the sources of a project, and what uses their names.

What uses a name is the smallest thing that a person would delete for it: an import, an
entry of a table, an `if` with its one line, or else the whole function, class or assignment,
whose own name is then deleted in turn.
"""

import ast
import functools
import re
from pathlib import Path

_SEQUENCES = ast.Tuple, ast.List, ast.Set
_COMPREHENSIONS = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp
_SCOPES = ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, *_COMPREHENSIONS


def module_of(path: str) -> str:
  """Returns the module of a file, diffusion_jax.core.keys for diffusion_jax/core/keys.py."""
  return '.'.join(Path(path).with_suffix('').parts).removesuffix('.__init__')


@functools.cache
def words_of(text: str) -> frozenset[str]:
  """Returns the words of a source."""
  return frozenset(re.findall(r'[A-Za-z_]\w*', text))


def without(
  sources: dict[str, str], files: set[str], gone: set[str], words: frozenset[str] = frozenset()
) -> dict[str, str]:
  """Returns the new sources of the files that change when others are deleted.

  sources: the text of each Python file by its path from the project's root. files: those that
  are deleted. gone: full names that are deleted, to which those of the files are added, and
  the names that are deleted with them. words: texts with one of them are deleted too.
  """
  gone |= {module_of(file) for file in files}
  changed: dict[str, _File] = {}
  new, first = {*gone}, True
  while new:
    ends = {name.partition('[')[0].rpartition('.')[2] for name in new} | (words if first else set())
    before = {*gone}
    for path, source in sources.items():
      if path not in files and not ends.isdisjoint(words_of(source)):
        mentioned = _read(path, source).mentioned
        if (first and words) or any(_is_gone(name, new) for name in mentioned):
          file = changed.get(path) or _File(path, source)
          if file.delete(gone, words):
            changed[path] = file
    new, first = gone - before, False
  return {path: file.text() for path, file in changed.items()}


def lost_words(before: dict[str, str], after: dict[str, str]) -> frozenset[str]:
  """Returns the words of code that are in no file any more, such as the names of table rows."""
  words = set()
  for path, source in before.items():
    if source != after.get(path):
      for node in ast.walk(ast.parse(source)):
        match node:
          case ast.Name(name) | ast.arg(name) | ast.Attribute(attr=name) | ast.FunctionDef(name):
            words.add(name)
          case ast.ClassDef(name) | ast.keyword(arg=str(name)):
            words.add(name)
          case ast.Constant(value=str(text)) if ' ' not in text:
            words |= words_of(text)
  left = set().union(*map(words_of, after.values()))
  return frozenset(word for word in words - left if len(word) > 2)


def imported(sources: dict[str, str]) -> set[str]:
  """Returns the modules that other files import."""
  modules, found = {module_of(path): path for path in sources}, set()
  for path, source in sources.items():
    names = {
      '.'.join(x.split('.')[:n]) for x in _read(path, source).bound.values() for n in (2, 3, 4, 5)
    }
    found |= {name for name in names if name in modules and modules[name] != path}
  return found


class _File:
  def __init__(self, path, source):
    self.module, self.tree = module_of(path), ast.parse(source)
    package = self.module if path.endswith('__init__.py') else self.module.rpartition('.')[0]
    self.used = _names(self.tree)
    self.keys = set()  # of entries that were taken out of tables
    self.bound = {}  # what each name of the module means, by its full name
    for node in ast.walk(self.tree):
      match node:
        case ast.Import(names):
          self.bound |= {x.asname: x.name for x in names if x.asname}
        case ast.ImportFrom(str(base), names):
          self.bound |= {x.asname or x.name: f'{base}.{x.name}' for x in names}
    for node in self.tree.body:
      self.bound |= {name: f'{self.module}.{name}' for name in _bound_by(node)}
    # A file may make the names of its package's modules, as f'{__name__}.{name}'.
    makes = re.search(rf"f'({{__name__}}|{re.escape(package)})\.{{", source)
    self.prefix = f'{package}.' if makes else ''

  def text(self):
    unused = self.used - _names(self.tree)
    for node in [x for x in self.tree.body if isinstance(x, (ast.Import, ast.ImportFrom))]:
      node.names = [x for x in node.names if (x.asname or x.name) not in unused]
      if not node.names:
        self.tree.body.remove(node)
    return ast.unparse(ast.fix_missing_locations(self.tree)) + '\n'

  @functools.cached_property
  def mentioned(self):
    """The full names and the texts that the file may use, whatever hides them."""
    names = {*self.bound.values()}
    for node in ast.walk(self.tree):
      match node:
        case ast.Attribute() | ast.Subscript() if dotted := _dotted(node, self.bound):
          names.add(dotted)
        case ast.Import(imported):
          names |= {x.name for x in imported}
        case ast.arg(name):
          names |= self._fixtures(name)
        case ast.Constant(value=str(text)):
          names |= {text.replace(':', '.'), self.prefix + text}
    return names

  def delete(self, gone, words):
    """Deletes what uses the names and words, to which it adds the names that this bound.

    Returns whether it did.
    """
    at, changed = 0, False
    while at < len(self.tree.body):  # what is deleted is within a statement
      statement = self.tree.body[at]
      names = {f'{self.module}.{name}' for name in _bound_by(statement)}
      chain = self._find([self.tree, statement], self.bound, gone, words)
      if not names.isdisjoint(gone):
        self.tree.body.remove(statement)
        gone |= names
        changed = True
      elif chain is None:
        at += 1
      else:
        gone |= {f'{self.module}.{name}' for name in self._remove(chain)}
        changed = True
    return changed

  def _find(self, chain, bound, gone, words):
    # Returns the first node that uses a name, after its parents.
    node, dotted = chain[-1], ''
    match node:
      case ast.Import(names):
        hit = next((x for x in names if _is_gone(x.name, gone)), None)
        return hit and [*chain, hit]
      case ast.ImportFrom(str(base), names):
        hit = next((x for x in names if _is_gone(f'{base}.{x.name}', gone)), None)
        return hit and [*chain, hit]
      case ast.Name(ctx=ast.Load()) | ast.Attribute() | ast.Subscript():
        dotted = _dotted(node, bound)
      case ast.Constant(value=str(text)) if not isinstance(chain[-2], ast.Expr):
        if words and (text in self.keys or not words.isdisjoint(words_of(text))):
          return chain
        dotted = self.prefix + text if self.prefix and text.isidentifier() else text
      case ast.arg(name) if not self._fixtures(name).isdisjoint(gone):
        return chain
    if dotted and _is_gone(dotted.replace(':', '.'), gone):
      return chain
    if isinstance(node, _SCOPES):
      local = {x.arg for x in ast.walk(node) if isinstance(x, ast.arg)} | _stored(node)
      bound = {name: x for name, x in bound.items() if name not in local}
    for child in ast.iter_child_nodes(node):
      if found := self._find([*chain, child], bound, gone, words):
        return found
    return None

  def _fixtures(self, name):
    # Returns the full names of the fixtures that an argument of a test may be.
    parts = self.module.split('.')
    places = [self.module, *('.'.join([*parts[:n], 'conftest']) for n in range(1, len(parts)))]
    return {f'{place}.{name}' for place in places if parts[0] == 'tests'}

  def _remove(self, chain):
    # Removes the smallest thing around the last of a chain of nodes; returns the names it bound.
    *_, parent, node = chain
    if isinstance(node, ast.alias):
      parent.names.remove(node)
      if not parent.names:
        _drop(chain[-3], parent)
      return {node.asname or node.name}
    function = next((i for i, x in enumerate(chain) if isinstance(x, ast.FunctionDef)), None)
    if function is None or chain[function + 1] not in chain[function].body:
      for i in range(len(chain) - 1, 1, -1):
        if _take(chain[i - 1], chain[i], chain[i - 2], keys := set()):
          self.keys |= keys
          return {f'{name}[{key}]' for name in _bound_by(chain[1]) for key in keys}
    else:
      at = max(i for i, x in enumerate(chain) if isinstance(x, ast.stmt))
      guard = chain[at - 1]
      if isinstance(guard, ast.If) and guard.body == [chain[at]] and not guard.orelse:
        _drop(chain[at - 2], guard)
        return set()
    self.tree.body.remove(chain[1])
    return _bound_by(chain[1])


@functools.cache
def _read(path, source):
  return _File(path, source)


def _drop(block, statement):
  for name in ('body', 'orelse', 'finalbody'):
    body = getattr(block, name, None)
    if isinstance(body, list) and statement in body:
      body.remove(statement)
      if name == 'body' and not body and not isinstance(block, ast.Module):
        body.append(ast.Pass())


def _take(parent, node, above, keys):
  # Takes an entry out of a table; returns whether it is one, and adds its key to `keys`.
  match parent:
    case ast.Dict():
      i = [node in pair for pair in zip(parent.keys, parent.values, strict=True)].index(True)
      keys |= {x.value for x in parent.keys[i : i + 1] if isinstance(x, ast.Constant)}
      del parent.keys[i], parent.values[i]
      return True
    case ast.Tuple() if isinstance(above, (*_SEQUENCES, ast.Dict, ast.Call, ast.Starred)):
      return False  # a row, which goes as a whole
    case ast.Tuple() if isinstance(above, ast.Assign) and isinstance(above.targets[0], ast.Tuple):
      return False  # as many values as names
    case ast.Tuple() | ast.List() | ast.Set() if len(parent.elts) > 1:
      parent.elts.remove(node)
      return True
    case ast.Call(func=ast.Name('named')) if len(parent.args) > 1 and node in parent.args:
      parent.args.remove(node)
      return True
  return False


def _dotted(node, bound):
  match node:
    case ast.Name(name):
      return bound.get(name, '')
    case ast.Attribute(value, name):
      base = _dotted(value, bound)
      return base and f'{base}.{name}'
    case ast.Subscript(value, ast.Constant(key)):
      base = _dotted(value, bound)
      return base and f'{base}[{key}]'
  return ''


def _is_gone(name, gone):
  parts = name.split('.')
  return any('.'.join(parts[:i]) in gone for i in range(len(parts), 0, -1))


def _bound_by(node):
  match node:
    case ast.FunctionDef(name) | ast.ClassDef(name):
      return {name}
    case ast.Assign() | ast.AnnAssign():
      return _stored(node)
  return set()


def _stored(node):
  return {x.id for x in ast.walk(node) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)}


def _names(tree):
  return {x.id for x in ast.walk(tree) if isinstance(x, ast.Name)}
