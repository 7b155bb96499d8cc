"""Imports, names and folders of the project follow its rules."""

import ast
import collections
import fnmatch
import functools
import graphlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import diffusion_jax as dj

pytestmark = pytest.mark.sources
ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / 'diffusion_jax'
HEAVY = {
  *'orbax grain tensorflow_datasets tensorflow tensorboardX matplotlib'.split(),
  *'diffrax PIL scipy sklearn requests'.split(),
}


@functools.cache
def nodes_of(path):
  """Returns the nodes of a Python file."""
  return [*ast.walk(ast.parse(path.read_text()))]


def tracked_files():
  """Returns the paths of the files in the repository."""
  return subprocess.check_output(['git', 'ls-files'], cwd=ROOT, text=True).split()


def files_with(pattern, folder):
  """Returns the Python files of a folder that contain a pattern."""
  return {
    path.relative_to(folder).as_posix()
    for path in folder.rglob('*.py')
    if re.search(pattern, path.read_text().replace('files.write_text(', ''))
  }


def test_imports_are_late():
  """The package loads jax and NumPy only, a user's error none of HEAVY."""
  code = """
import sys, diffusion_jax
print(*sys.modules)
from diffusion_jax.app import cli
print(*sys.modules)"""
  result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  lines = result.stdout.splitlines()
  loaded, by_the_application = ({x.partition('.')[0] for x in line.split()} for line in lines)
  assert 'diffusion_jax' in loaded and not by_the_application & HEAVY
  assert not loaded & {*HEAVY, 'flax', 'absl', 'optax', 'ml_collections'}


def test_import_arrows():
  """Checks the contracts of pyproject.toml."""
  result = subprocess.run(['lint-imports', '--no-cache'], cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == 0, result.stdout


def imports_of(module, path, modules):
  """Returns the modules that a file imports, in functions and by strings too.

  `import diffusion_jax` is left out: the names for users.
  """
  names = set()
  for node in nodes_of(path):
    match node:
      case ast.Import():
        names |= {alias.name for alias in node.names}
      case ast.ImportFrom(module=str(base)):
        full = {f'{base}.{alias.name}' for alias in node.names}
        names |= {name if name in modules else base for name in full}
      case ast.Constant(value=str(text)) if re.fullmatch(r'diffusion_jax[.\w]+(:\w+)?', text):
        names.add(text.partition(':')[0])
      case ast.JoinedStr() if ast.unparse(node).startswith("f'{__name__}."):
        names |= {name for name in modules if name.startswith(f'{module}.')}
  own = {module, module.rpartition('.')[0]}  # its package, which holds its resources
  return (names & modules.keys()) - {'diffusion_jax'} - own


def test_no_circle_of_files():
  """import-linter does not see imports by a string."""
  files = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
    for path in PACKAGE.rglob('*.py')
  }
  graph = {module: imports_of(module, path, files) for module, path in files.items()}
  app = 'diffusion_jax.app.'
  assert f'{app}run.weights' in graph[f'{app}cli']  # opens the run, and then calls the mode
  below = [m for m in graph if m.startswith((f'{app}config', f'{app}kinds')) or m == f'{app}modes']
  assert not [m for m in below if any(x.startswith(f'{app}run') for x in graph[m])]
  assert 'diffusion_jax.app.train.mode' in graph['diffusion_jax.app.modes']
  graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_application_names_modules_of_the_user_in_one_place():
  """Only these files run code by the name that a user gives."""
  named = r'importlib\.import_module|\b(exec|eval)\('
  assert files_with(named, PACKAGE / 'app') == {'config/trust.py'}  # asks for permission


def test_files_are_written_by_drafts():
  """What is opened for writing by its path may be a link of a stranger."""
  by_path = (
    r"""\.write_(text|bytes)\(|open\(.*['"][wax]b?['"]|makedirs\(|mkdir\("""
    r'|savefig\((?!file)|np\.savez?\((?!file)|memmap\((?!file)|\.touch\('
  )
  assert files_with(by_path, PACKAGE) == {
    'atomic_files.py',
    'runtime/files.py',  # which all others use
    'training/loggers.py',  # appends to a file that it has made
    'interop/stablehlo.py',
    'interop/diffusers.py',  # a new folder
    # caches
    'runtime/compiling.py',
    'metrics/references.py',
    'app/config/trust.py',
    'app/modes/convert.py',  # a place that the user names
    'runtime/processes.py',  # /dev/null
    'metrics/judges/perceptrons.py',  # weights of the package
  }


def test_sampling_draws_its_noise_in_core_keys_alone():
  """Keys per example need all noise to come from there."""
  for path in (PACKAGE / 'sampling').glob('*.py'):
    used = {ast.unparse(node) for node in nodes_of(path) if isinstance(node, ast.Attribute)}
    assert not any(name.startswith('jax.random') for name in used), path


def test_no_file_refers_to_a_place_on_a_machine():
  for name in tracked_files():
    if Path(name).suffix in ('.py', '.md', '.toml', '.yml', ''):
      text = (ROOT / name).read_text()
      assert '../' + 'shared' not in text, name
      assert '/' + 'root/' not in text, name


def test_the_library_says_that_its_names_are_exported():
  # A checker refuses a name of a typed package that is imported without `as`.
  tree = ast.parse((ROOT / 'diffusion_jax/__init__.py').read_text())
  imported = [a for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names]
  assert imported
  assert [a.name for a in imported if a.asname != a.name] == []


def test_the_version_is_written_once():
  """The wheel reads it from the package; other files repeat it."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  assert 'version' not in project['project']
  assert project['tool']['hatch']['version'] == {'path': 'diffusion_jax/__init__.py'}
  assert re.search('^## ([\\d.]+)', (ROOT / 'CHANGELOG.md').read_text(), re.M)[1] == dj.__version__
  assert f'\nversion: {dj.__version__}\n' in (ROOT / 'CITATION.cff').read_text()
  for name in ('Dockerfile', 'cluster/jobset.yaml', 'cluster/jobset_tpu.yaml'):
    assert {*re.findall(r'diffusion_jax:([\d.]+)', (ROOT / name).read_text())} == {dj.__version__}


def test_every_folder_of_tests_is_collected(request):
  """Pytest ignores, by default, folders named build."""
  left_out = request.config.getini('norecursedirs')
  for path in (ROOT / 'tests').rglob('test_*.py'):
    for folder in path.relative_to(ROOT).parts[:-1]:
      assert not [p for p in left_out if fnmatch.fnmatch(folder, p)], path


def test_tests_mirror_the_package():
  """`core/process.py` has `tests/core/test_process.py`, for example.

  A small folder may have one file: `app/kinds/autoencoders/` has `test_autoencoders.py`. Modules
  without a function or class, as aliases.py, need no tests.
  """
  for path in files_with(r'(?m)^(def|class) ', PACKAGE):
    file = Path(path)
    folder = file.parent
    mirrors = file.with_name(f'test_{file.name}'), folder.parent / f'test_{folder.name}.py'
    has_one = any((ROOT / 'tests' / mirror).is_file() for mirror in mirrors)
    assert file.name == '__init__.py' or has_one, mirrors[0]


# Their arguments are a shape, pairs or types of exceptions, as many as there are.
_OF_MANY = 'reshape', 'zip', 'suppress', 'naming', 'add_subplot', 'bind'


def test_arguments_are_named_where_a_function_is_called():
  """No call splats a tuple or a dict that its function writes out for this call alone.

  The reader of `f(*parts)` does not see which argument is which. A dict that several
  calls share, or that is changed, may be splatted, and so may words of a command.
  """
  bags, places = [], ('diffusion_jax', 'tests', 'examples', 'configs')
  for path in (path for place in places for path in (ROOT / place).rglob('*.py')):
    splats = [line for node in nodes_of(path) for line in _splat(node)]
    for function in nodes_of(path):
      if isinstance(function, ast.FunctionDef) and any(
        function.lineno <= line <= (function.end_lineno or 0) for line in splats
      ):
        bags += [f'{path.name}: {ast.unparse(call)}' for call in _calls_with_bags(function)]
  assert bags == []


MOST = 6  # arguments of a call that a reader tells apart by their places
# Functions of as many things of one kind as there are, and of the arguments of another function.
_OF_ANY_NUMBER = 'named', '_chain', 'switch', 'pack', 'taken', 'applied', 'random_params'


def test_calls_have_six_arguments_by_position_at_most():
  """Words of a command do not count, and a splat is no way around: see the test above."""
  long = [
    f'{path.name}:{call.lineno}: {ast.unparse(call.func)}'
    for place in ('diffusion_jax', 'configs', 'examples', 'benchmarks', 'tests')
    for path in (ROOT / place).rglob('*.py')
    for call in nodes_of(path)
    if isinstance(call, ast.Call)
    and len([x for x in call.args if not _is_text(x)]) > MOST
    and ast.unparse(call.func).rpartition('.')[2] not in _OF_ANY_NUMBER
  ]
  assert long == []


def _calls_with_bags(function):
  nodes, written, uses = [*ast.walk(function)], {}, collections.Counter()
  for node in nodes:
    match node:
      case ast.Name(name):
        uses[name] += 1
      case ast.Assign([ast.Tuple(names)], ast.Tuple(values)):
        written |= {ast.unparse(x): value for x, value in zip(names, values, strict=False)}
      case ast.Assign(targets, value):
        written |= {ast.unparse(x): value for x in targets}
  for node in nodes:
    match node:
      case ast.Call(called, arguments, keywords):
        splatted = [ast.unparse(x.value) for x in arguments if isinstance(x, ast.Starred)]
        if ast.unparse(called).rpartition('.')[2] not in _OF_MANY:
          if any(x == 'self' or _is_bag(written.get(x)) for x in splatted):
            yield node
        for name in (ast.unparse(x.value) for x in keywords if x.arg is None):
          value, once = written.get(name), uses[name] == 2  # written and read
          if once and isinstance(value, ast.Dict) and all(map(_is_argument, value.keys)):
            yield node


def _splat(node):
  # Yields the line of a splat.
  if isinstance(node, ast.Starred) or isinstance(node, ast.keyword) and node.arg is None:
    yield node.value.lineno


def _is_bag(value):
  # A tuple that is not the words of a command line, which are texts.
  return isinstance(value, ast.Tuple) and not all(map(_is_text, value.elts))


def _is_text(value):
  return isinstance(value, ast.JoinedStr) or isinstance(getattr(value, 'value', None), str)


def _is_argument(key):
  return isinstance(key, ast.Constant) and str(key.value).isidentifier()
