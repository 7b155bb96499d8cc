"""Plants faults in lines of the package, one at a time; the tests of the file must catch them.

    python -m tests.planted                          # lines that the newest commits changed
    python -m tests.planted --commits=main           # lines that are not those of main
    python -m tests.planted core/process.py data     # all lines of a file or folder
    python -m tests.planted --listed                 # the faults of tests/faults.txt
    python -m tests.planted --listed=sums            # those of them that contain a word

Each of `--plants=20` faults is on a line of its own. In a copy of the tree with one fault runs the
test file that mirrors the changed file (a listed fault names its own); `caught` or `survived` is
printed. Some faults change no result, and some lines are tested elsewhere: read each survivor. The
exit code is 1 where none of `ENOUGH` faults is caught, where a listed fault survives, and where
tests fail without a fault.
"""

import argparse
import ast
import importlib
import importlib.util
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

from tests import environment  # noqa: F401  it is set before jax is imported

ROOT = Path(__file__).parent.parent
PACKAGE = 'diffusion_jax'
ENOUGH = 10  # faults, of which one must be caught; of 52 in all files and new lines 26 survived
IN_A_ROW = 4  # faults of a file, before those of the next one
HANG = 60  # seconds that a fault may add to the tests
# What most tests import; a process that is forked from this one has it.
LOADED = 'jax', 'numpy', 'scipy.stats', 'flax.linen', 'optax', 'diffrax', 'pytest'

SWAPS = {
  **{ast.Add: ('+', '-'), ast.Sub: ('-', '+'), ast.Mult: ('*', '/'), ast.Div: ('/', '*')},
  **{ast.Pow: ('**', '*'), ast.FloorDiv: ('//', '/'), ast.Mod: ('%', '//')},
  **{ast.BitAnd: ('&', '|'), ast.BitOr: ('|', '&'), ast.MatMult: ('@', '*')},
  **{ast.Lt: ('<', '<='), ast.LtE: ('<=', '<'), ast.Gt: ('>', '>='), ast.GtE: ('>=', '>')},
  **{ast.Eq: ('==', '!='), ast.NotEq: ('!=', '=='), ast.In: ('in', 'not in')},
  **{ast.NotIn: ('not in', 'in'), ast.Is: ('is', 'is not'), ast.IsNot: ('is not', 'is')},
  **{ast.And: ('and', 'or'), ast.Or: ('or', 'and')},
}
_PAIRS = (
  *('all any', 'max min', 'maximum minimum', 'argmax argmin', 'sin cos', 'exp expm1'),
  *('log log1p', 'rint floor', 'ceil floor', 'round int', 'sum mean', 'var std', 'square abs'),
  *('ones zeros', 'ones_like zeros_like', 'startswith endswith', 'split rsplit'),
)
ALIKE = {a: b for pair in _PAIRS for a, b in (pair.split(), pair.split()[::-1])}


class Fault(NamedTuple):
  """A piece of a file, from byte `start` to `end`, and what is put in its place."""

  start: int
  end: int
  line: int
  kind: str
  text: bytes


class Plant(NamedTuple):
  """A fault, the file of the package, and the test file and keyword that must catch it."""

  file: str
  fault: Fault
  test: str
  keyword: str = ''


def faults(source):
  """Returns the faults of a file's text, by their places.

  Docstrings, texts, annotations, decorators, imports, `__all__` and what is raised stay.
  """
  data = source.encode()
  starts = [0]
  for line in data.split(b'\n'):
    starts.append(starts[-1] + len(line) + 1)

  def at(node):
    end = starts[node.end_lineno - 1] + node.end_col_offset
    return starts[node.lineno - 1] + node.col_offset, end

  def of(node):  # what stands for an expression in the place of another
    text = data[slice(*at(node))]
    bare = isinstance(node, ast.Name | ast.Constant | ast.Attribute | ast.Call | ast.Subscript)
    return text if bare else b'(' + text + b')'

  def put(node, kind, *texts):
    texts = [x.encode() if isinstance(x, str) else x for x in texts]
    return [Fault(*at(node), node.lineno, kind, text) for text in texts]

  def between(a, b, kind, operator):  # what stands between two nodes has the operator
    (_, start), (end, _) = at(a), at(b)
    old, new = (x.encode() for x in SWAPS[type(operator)])
    gap, line = data[start:end], data.count(b'\n', 0, data.index(old, start)) + 1
    return [Fault(start, end, line, kind, gap.replace(old, new, 1))]

  def without(items, i, kind):  # an item and its comma
    (start, end), others = at(items[i]), [at(x) for x in items]
    start, end = (others[i - 1][1], end) if i else (start, others[1][0])
    return [Fault(start, end, items[i].lineno, kind, b'')]

  def swapped(items, kind):  # neighbours that look alike
    for a, b in zip(items, items[1:], strict=False):
      if type(a) is type(b) and of(a) != of(b) and not isinstance(a, ast.Starred):
        (start, first), (second, end) = at(a), at(b)
        texts = data[second:end], data[first:second], data[start:first]
        yield Fault(start, end, a.lineno, kind, b''.join(texts))

  def of_node(node):
    match node:
      case ast.BinOp(left, operator, right):
        if type(operator) in SWAPS:
          yield from between(left, right, 'operator', operator)
        yield from put(node, 'operand', of(left), of(right))
      case ast.AugAssign(target, operator, value):
        if type(operator) in SWAPS:
          yield from between(target, value, 'operator', operator)
        yield from put(node, 'statement', 'pass')
      case ast.BoolOp(operator, values):
        for a, b in zip(values, values[1:], strict=False):
          yield from between(a, b, 'and or', operator)
        for i in range(len(values)):
          rest = b' %s ' % SWAPS[type(operator)][0].encode()
          yield from put(node, 'operand', rest.join(of(x) for x in values if x is not values[i]))
      case ast.Compare(left, operators, rights):
        for a, operator, b in zip([left, *rights], operators, rights, strict=False):
          yield from between(a, b, 'comparison', operator)
        for text in (x for right in rights for x in [right, *getattr(right, 'elts', ())]):
          if isinstance(text, ast.Constant) and isinstance(text.value, str):
            yield from put(text, 'word', repr(f'{text.value}?'))
      case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
        yield from put(node, 'sign', of(operand))
      case ast.IfExp(_, first, second):
        yield from put(node, 'branch', of(first), of(second))
      case ast.If(test):
        yield from put(test, 'condition', 'True', 'False')
      case ast.While(test):
        yield from put(test, 'condition', 'False')
      case ast.comprehension(ifs=ifs):
        for test in ifs:
          yield from put(test, 'condition', 'True', 'False')
      case ast.Constant(bool(value)):
        yield from put(node, 'constant', str(not value))
      case ast.Constant(int(value) | float(value)):
        yield from put(node, 'constant', f'{value + 1}', *([f'-{value}'] if value else []))
      case ast.Call(function, arguments, keywords):
        items = sorted([*arguments, *keywords], key=at)
        for i, item in enumerate(items if len(items) > 1 else ()):
          if isinstance(item, ast.keyword) and item.arg:
            yield from without(items, i, 'keyword')
        yield from swapped(arguments, 'order')
        if arguments and not isinstance(arguments[0], ast.Starred | ast.GeneratorExp):
          yield from put(node, 'wrapper', of(arguments[0]))
        match function:
          case ast.Attribute(value, name):
            if not modules & {x.id for x in ast.walk(value) if isinstance(x, ast.Name)}:
              yield from put(node, 'wrapper', of(value))
            if name in ALIKE:
              yield from put(function, 'alike', of(value) + b'.' + ALIKE[name].encode())
          case ast.Name(name) if name in ALIKE:
            yield from put(function, 'alike', ALIKE[name])
      case ast.Expr(ast.Call()):
        yield from put(node, 'statement', 'pass')
      case ast.Tuple(items, ast.Load()) | ast.List(items, ast.Load()) | ast.Set(items):
        yield from swapped(items, 'order')
        for i in range(len(items) if len(items) > 1 + isinstance(node, ast.Tuple) else 0):
          yield from without(items, i, 'element')
      case ast.Dict(keys, values) if len(keys) > 1:
        ends = [at(x)[1] for x in values]
        for i, key in enumerate(keys):
          if key:
            comma = data.index(b',', ends[0]) + 1
            start, end = (ends[i - 1], ends[i]) if i else (at(key)[0], comma)
            yield Fault(start, end, key.lineno, 'element', b'')
      case ast.Subscript(value, _, ast.Load()):
        yield from put(node, 'subscript', of(value))

  def walk(node):
    yield from of_node(node)
    for name, value in ast.iter_fields(node):
      if name not in ('annotation', 'returns', 'decorator_list', 'type_comment', 'type_params'):
        for child in value if isinstance(value, list) else [value]:
          if isinstance(child, ast.AST) and not _stays(child):
            yield from walk(child)

  tree = ast.parse(source)
  imports = [x for x in ast.walk(tree) if isinstance(x, ast.Import | ast.ImportFrom)]
  modules = {(x.asname or x.name).partition('.')[0] for node in imports for x in node.names}
  return sorted({*walk(tree)})


def _stays(node):
  """Whether a part of a file is not changed."""
  match node:
    case ast.Subscript(ast.Name(name)) if name[0].isupper() and not name.isupper():
      return True  # a type, as Callable[[Array], Array]
    case ast.Raise() | ast.JoinedStr() | ast.Import() | ast.ImportFrom() | ast.Assert():
      return True
    case ast.Assign([ast.Name('__all__')]) | ast.Expr(ast.Constant()):
      return True
  return False


def _compiles(data):
  try:
    return ast.parse(data) is not None
  except SyntaxError:
    return False


def planted(data, fault):
  """Returns the bytes of a file with a fault."""
  return data[: fault.start] + fault.text + data[fault.end :]


def test_of(file):
  """Returns the test file of a file of the package: its mirror, or None."""
  path, folder = Path(file), Path(file).parent
  mirrors = path.with_name(f'test_{path.name}'), folder.parent / f'test_{folder.name}.py'
  return next((str(x) for x in mirrors if (ROOT / 'tests' / x).is_file()), None)


def git(*words):
  """Returns what git prints in the package."""
  return subprocess.check_output(['git', *words], cwd=ROOT / PACKAGE, text=True)


def _head():
  try:
    return git('rev-parse', 'HEAD')
  except (OSError, subprocess.CalledProcessError):
    return ''


def changed(commits):
  """Returns {file of the package: its lines that commits changed}."""
  lines, file = {}, None
  for line in git('diff', '--unified=0', '--relative', commits, '--', '*.py').splitlines():
    if line.startswith('+++ '):
      file = line.removeprefix('+++ b/')
    elif place := re.match(r'@@ \S+ \+(\d+),?(\d*) @@', line):
      start, count = int(place[1]), int(place[2] or 1)
      lines.setdefault(file, set()).update(range(start, start + count))
  return {x: numbers for x, numbers in lines.items() if (ROOT / PACKAGE / x).is_file()}


def plants_of(lines):
  """Returns {(file, line): plants} of {file: its lines, or None for all}."""
  places = {}
  for file in sorted(lines):
    wanted, test = lines[file], test_of(file)
    for fault in faults((ROOT / PACKAGE / file).read_text()) if test else ():
      if wanted is None or fault.line in wanted:
        places.setdefault((file, fault.line), []).append(Plant(file, fault, test))
  return places


def of_newest(count):
  """Returns `plants_of` the lines that the newest commits changed: five lines for each of a count.

  Where git has too few commits they are those of all lines.
  """
  for depth in (2**n for n in range(1, 10)):
    try:
      places = plants_of(changed(f'HEAD~{depth}'))
    except (OSError, subprocess.CalledProcessError):
      break
    if len(places) >= 5 * count:
      return places
  return plants_of(below(''))


def below(name):
  """Returns {file: None} of a file of the package, or of the files of a folder."""
  path = ROOT / PACKAGE / name
  files = [path] if path.is_file() else sorted(path.rglob('*.py'))
  if not files:
    sys.exit(f'{name} is no file or folder of {PACKAGE}/, such as core/process.py.')
  return {str(x.relative_to(ROOT / PACKAGE)): None for x in files}


def drawn(places, count, seed):
  """Returns plants on a count of places, drawn by a seed: `IN_A_ROW` of a file, then of the next.

  The kind of a fault is drawn first: a line has many wrappers.
  """
  rng, order, plants = random.Random(seed), [], []
  for file in sorted({file for file, _ in places}):
    lines, draw = [x for x in sorted(places) if x[0] == file], rng.random()
    order += [(i // IN_A_ROW, draw, x) for i, x in enumerate(rng.sample(lines, len(lines)))]
  for *_, place in sorted(order):
    data = (ROOT / PACKAGE / place[0]).read_bytes()
    draws = {kind: rng.random() for kind in sorted({x.fault.kind for x in places[place]})}
    choices = sorted(places[place], key=lambda x: (draws[x.fault.kind], rng.random()))
    plants += [x for x in choices if _compiles(planted(data, x.fault))][:1]
    if len(plants) == count:
      break
  return plants


def listed(word):
  """Returns the plants of the rows of tests/faults.txt that contain a word.

  A row is `file test-file keyword of the tests: text => replacement`.
  """
  plants = []
  for row in (ROOT / 'tests/faults.txt').read_text().splitlines():
    places, change = row.split(': ', 1)
    file, test, keyword = places.split(maxsplit=2)
    old, new = (x.strip().replace('\\n', '\n').encode() for x in change.split(' =>'))
    data = (ROOT / PACKAGE / file).read_bytes()
    if data.count(old) != 1:
      sys.exit(f'tests/faults.txt: {file} has the text {data.count(old)} times, not once: {row}')
    start = data.index(old)
    line = data.count(b'\n', 0, start) + 1
    fault = Fault(start, start + len(old), line, 'listed', new)
    plants += [Plant(file, fault, test, keyword)] if word in row else []
  return plants


def run_tests(tree, plant, seconds):
  """Returns pytest's exit code, or None where it takes longer, and what it printed.

  A forked process has loaded JAX, but neither the package nor tests: these are of the tree.
  """
  log = tree.parent / 'log'
  command = ['-x', '-q', '-n', '0', '-p', 'no:cacheprovider', '-W', 'ignore::pytest.PytestWarning']
  command += ['-k', plant.keyword, f'tests/{plant.test}']
  pid = os.fork()
  if not pid:
    os.setsid()
    out = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    for stream in 1, 2:
      os.dup2(out, stream)
    os.chdir(tree)
    os.environ['TMPDIR'] = tempfile.tempdir = str(tree.parent)
    sys.path[0] = str(tree)
    for name in [x for x in sys.modules if x.partition('.')[0] == 'tests']:
      del sys.modules[name]
    code = importlib.import_module('pytest').main(command)
    sys.stdout.flush()
    os._exit(code)
  end = time.monotonic() + seconds
  while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
    if time.monotonic() > end:
      os.killpg(pid, signal.SIGKILL)
      ended = os.waitpid(pid, 0)
      break
    time.sleep(0.02)
  shutil.rmtree(tree / '.jax_cache', ignore_errors=True)  # what the package keeps for the user
  code = os.waitstatus_to_exitcode(ended[1])
  return None if code == -signal.SIGKILL else code, log.read_text(errors='replace')


def attempt(tree, plant, seconds):
  """Returns what becomes of a fault; the file is restored."""
  path = tree / PACKAGE / plant.file
  original = path.read_bytes()
  # Bytecode of a file of the same size and second would be taken for its own.
  bytecode = Path(importlib.util.cache_from_source(path))
  for content in planted(original, plant.fault), original:
    bytecode.unlink(missing_ok=True)
    path.write_bytes(content)
    if content is not original:
      code, _ = run_tests(tree, plant, seconds)
  return 'survived' if code == 0 else 'caught'


def described(plant):
  """Returns file, line and kind of a fault, what it replaces, and by what."""
  file, fault = plant.file, plant.fault
  old = (ROOT / PACKAGE / file).read_bytes()[fault.start : fault.end]
  texts = (' '.join(x.decode().split()) or 'nothing' for x in (old, fault.text))
  return f'{PACKAGE}/{file}:{fault.line} {fault.kind}: ' + ' -> '.join(texts)


def outcomes(plants, budget):
  """Yields what becomes of each plant, for a number of seconds in all."""
  with tempfile.TemporaryDirectory() as folder:
    tree, took = Path(folder) / 'tree', {}
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns('.git', '.jax_cache'))
    end = time.monotonic() + budget
    for plant in plants:
      tests, start = (plant.test, plant.keyword), time.monotonic()
      if tests not in took and start < end:
        code, printed = run_tests(tree, plant, max(1, end - start))
        if code:
          sys.exit(f'tests/{plant.test} fails without a fault:\n{printed}')
        took[tests] = time.monotonic() - start if code == 0 else budget
      late = time.monotonic() + took.get(tests, 0) > end
      yield 'no time' if late else attempt(tree, plant, 3 * took[tests] + HANG)


def main():
  """Plants faults; returns the exit code."""
  parser = argparse.ArgumentParser(prog='python -m tests.planted')
  parser.add_argument('files', nargs='*', help=f'files and folders of {PACKAGE}/')
  parser.add_argument('--commits', help='plants in the lines that these commits changed')
  parser.add_argument('--listed', nargs='?', const='', help='plants the faults of tests/faults.txt')
  parser.add_argument('--plants', type=int, default=20)
  parser.add_argument('--seconds', type=float, default=1e6, help='tries no more after this time')
  parser.add_argument('--seed', default=None, help="the hash of git's HEAD, if it is not given")
  flags = parser.parse_args()
  warnings.simplefilter('ignore')  # of the syntax of faults, and of a fork after the import of JAX
  if flags.listed is not None:
    plants = listed(flags.listed)
  else:
    if flags.files:
      places = plants_of({x: None for name in flags.files for x in below(name)})
    else:
      places = plants_of(changed(flags.commits)) if flags.commits else of_newest(flags.plants)
    plants = drawn(places, flags.plants, flags.seed or _head())
  if not plants:
    sys.exit('There is no fault to plant: no line has one, no file a mirror, or no row the word.')
  for name in LOADED:
    importlib.import_module(name)
  counts = dict.fromkeys(('caught', 'survived', 'no time'), 0)
  for plant, outcome in zip(plants, outcomes(plants, flags.seconds), strict=True):
    counts[outcome] += 1
    print(outcome, described(plant), flush=True)
  print(', '.join(f'{n} {name}' for name, n in counts.items()))
  if flags.listed is not None:
    return int(counts['survived'] > 0)
  return int(counts['survived'] >= ENOUGH and not counts['caught'])


if __name__ == '__main__':
  sys.exit(main())
