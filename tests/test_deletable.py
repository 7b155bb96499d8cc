"""What docs/architecture.md lists of a thing is all that there is to delete of it."""

import functools
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import diffusion_jax as dj
from diffusion_jax.app.config import experiments
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds import schemas, store
from tests import deletion
from tests.test_architecture import ROOT, tracked_files

pytestmark = pytest.mark.sources
PACKAGE = 'diffusion_jax'
HEADER = '| to delete | its files, in `diffusion_jax/` or `configs/` | its rows and names in |'


def table():
  """Returns (files and folders, files with rows or names, configs) of each thing, from the page."""
  page = (ROOT / 'docs/architecture.md').read_text()
  things = {}
  for line in page[page.index(HEADER) :].partition('\n\n')[0].splitlines()[2:]:
    name, *cells = line.strip('| ').split(' | ')
    files, rows = (tuple(re.findall('`(.+?)`', cell)) for cell in cells)
    of_configs = [x for x in files if x.startswith('configs/')]
    bands = [x for x in of_configs if x.endswith('.json')]
    assert all((ROOT / path).exists() for path in bands)
    configs = tuple(x.removeprefix('configs/') for x in of_configs if x not in bands)
    things[name] = tuple(x for x in files if not x.startswith('configs/')), rows, configs
  return things


TABLE = table()


@functools.cache
def sources(folder):
  """Returns the sources of a folder's Python files by their paths."""
  files = sorted((ROOT / folder).rglob('*.py'))
  return {x.relative_to(ROOT).as_posix(): x.read_text() for x in files}


def files_of(paths):
  """Returns the Python files of the package among files and folders."""
  full = [f'{PACKAGE}/{path}' for path in paths]
  assert all((ROOT / path).exists() for path in full)
  found = {
    x for x in sources(PACKAGE) if any(x == f or x.startswith(f'{f.rstrip("/")}/') for f in full)
  }
  assert found
  return found


def configs_of(patterns):
  """Returns the names of the configs, each of whose patterns fits one."""
  names = [path.removeprefix('configs/') for path in sources('configs')]
  found = {pattern: {n for n in names if fnmatch(n, pattern)} for pattern in patterns}
  assert all(found.values()), found
  return set().union(*found.values())


def constructors(node):
  """Yields the modules of a section's constructor and of those within it."""
  if node.constructor is not None:
    function = node.constructor
    while inner := getattr(function, 'func', None) or getattr(function, '__wrapped__', None):
      function = inner
    yield function.__module__
  for value in node.values():
    if isinstance(value, Node):
      yield from constructors(value)


@functools.cache
def modules_of_configs():
  """Returns the modules that each config and its kind of model choose."""
  kinds = {module.SCHEMA.kind: module.__name__ for module in schemas.MODULES}
  found = {}
  for path in sources('configs'):
    if not path.endswith('__init__.py'):
      config = store.completed(experiments.from_file(str(ROOT / path)))
      found[path.removeprefix('configs/')] = {*constructors(config), kinds[config.schema.kind]}
  return found


@functools.cache
def deleted(paths, rows=(), configs=()):
  """Returns the new sources of what uses these files and folders, and the names that go.

  rows: files, or a file and one of its names, as metrics/table.py:METRICS, which goes too.
  """
  files = files_of(paths) | {f'configs/{name}' for name in configs_of(configs)}
  split = [row.split(':') for row in rows if ':' in row]
  gone = {f'{deletion.module_of(f"{PACKAGE}/{file}")}.{name}' for file, name in split}
  return deletion.without(sources(PACKAGE) | sources('configs'), files, gone), gone


@pytest.mark.parametrize('thing', TABLE)
def test_the_page_names_the_files_of(thing):
  """A family is imported nowhere else and has no other row, and no file is listed in vain."""
  paths, rows, configs = TABLE[thing]
  files, (changed, _) = files_of(paths), deleted(paths, rows, configs)
  assert {*changed} == {f'{PACKAGE}/{row.partition(":")[0]}' for row in rows}
  # Another file than the thing's own is listed because it uses the thing, or nothing else uses it.
  left = {x: changed.get(x, text) for x, text in sources(PACKAGE).items() if x not in files}
  alone = deletion.imported(sources(PACKAGE)) - deletion.imported(left)
  first, _ = deleted(paths[:1])
  for i, path in enumerate(paths[1:], 1):
    each = files_of([path])
    uses = each & first.keys() or {*map(deletion.module_of, each)} <= alone
    assert uses or each & deleted(paths[:i])[0].keys(), path  # It uses another that is listed.
  assert alone <= {*map(deletion.module_of, files)}
  # The configs that choose it are those that its deletion breaks.
  modules = {deletion.module_of(file) for file in files}
  assert configs_of(configs) == {n for n, used in modules_of_configs().items() if used & modules}


def test_names_that_the_page_gives_are_there():
  """A reader finds `file.py:name` in that file, as a function or a class."""
  places = re.findall(r'`([\w/]+\.py):(\w+)`', (ROOT / 'docs/architecture.md').read_text())
  assert len(places) > 4
  for file, name in places:
    text = sources(PACKAGE)[f'{PACKAGE}/{file}']
    assert re.search(rf'^(def|class) {name}\b', text, re.M), (file, name)


# Runs in a copy without things of the table.
PROGRAM = """
import importlib, pkgutil, sys
from pathlib import Path
import diffusion_jax as dj
from diffusion_jax.app import cli, help
from diffusion_jax.app.config import experiments
from diffusion_jax.app.kinds import store
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.smoke import shrunk
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder

assert dj.__file__.startswith(sys.argv[1])
print('names:', *vars(dj))
for module in pkgutil.walk_packages(dj.__path__, 'diffusion_jax.'):
  if '__main__' not in module.name:
    importlib.import_module(module.name)
for path in sorted(Path('configs').glob('*.py')):
  if path.name != '__init__.py':
    try:
      store.completed(experiments.from_file(str(path)))
    except UserError as error:
      print('refused:', path.name, error)
digits = store.completed(experiments.from_file('configs/digits.py'))
assert all(help.mode_help(mode, digits, 'configs/digits.py') for mode in MODES)
trial = shrunk(digits)
flags = [('training.num_steps', '2'), ('training.sample_every', '0'), ('training.held_out', 'None')]
flags += [('network', 'mlp')]  # Its step is compiled in a tenth of the U-Net's time.
run = RunFolder.at('run')
cli.start(MODES['train'], store.with_flags(trial, flags), run)
assert list(Path('run').rglob('metrics.jsonl'))
"""


def without(things):
  """Returns the files that things of the table are, their configs, what changes, and the names."""
  paths, rows, configs = (sum((TABLE[thing][i] for thing in things), ()) for i in range(3))
  changed, gone = deleted(paths, rows, configs)
  return files_of(paths), configs_of(configs), changed, gone


def copied(place, names, files, changed):
  """Copies files of the checkout, with those that change, without those that are deleted."""
  for name in names:
    if name not in files:
      (place / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(ROOT / name, place / name)
  for name, text in changed.items():
    (place / name).write_text(text)


def run_in(copy, *command):
  env = {'PYTHONPATH': str(copy), 'JAX_PLATFORMS': 'cpu', 'PYTHONDONTWRITEBYTECODE': '1'}
  return subprocess.run(command, cwd=copy, capture_output=True, text=True, env=os.environ | env)


@pytest.mark.slow
@pytest.mark.parametrize('things', [[*TABLE], *([thing] for thing in TABLE)], ids=['all', *TABLE])
def test_the_rest_works_without(things, tmp_path):
  """Modules are imported, configs and the modes' helps are made, and digits are learned.

  The configs stay in the copy: those that chose what is gone are refused.
  """
  files, broken, changed, gone = without(things)
  names = [x for x in tracked_files() if x.startswith((f'{PACKAGE}/', 'configs/'))]
  copied(tmp_path, names, files, changed)
  found = run_in(tmp_path, sys.executable, '-c', PROGRAM, str(tmp_path))
  assert found.returncode == 0, found.stderr[-3000:]
  names = re.search('^names: (.*)', found.stdout, re.M)[1].split()
  whole = {n for n in sources(PACKAGE)[f'{PACKAGE}/__init__.py'].split() if n.isidentifier()}
  assert {n for n in vars(dj) if n in whole and f'{PACKAGE}.{n}' not in gone} <= {*names}
  refused = re.findall(r'^refused: (\S+) config\.', found.stdout, re.M)
  assert {*refused} == broken, found.stdout
  lint = ('--isolated', '--select=F821,F811')
  assert run_in(tmp_path, 'ruff', 'check', *lint, PACKAGE).returncode == 0


# Tests of what pages and pyproject.toml say, and tests that name what is gone by a word that has
# other meanings too, as `vae` or `latent`.
OF_PAGES = """
test_commands.py test_site.py test_readme.py::test_equations_index
test_names.py::test_fields_of_the_page test_architecture.py::test_import_arrows
test_architecture.py::test_planted_faults
"""
OF_COMMON_WORDS = """
app/config/test_overrides.py::test_a_part_that_is_none
app/config/test_trust.py::test_a_run_that_another_reads
app/edit/test_methods.py::test_known_pixels app/evaluate/test_mode.py::test_what_is_not_a_number
app/kinds/test_roles.py::test_the_commands app/modes/test_joint.py::test_a_restored_vector
app/test_help.py::test_a_section_has app/test_help.py::test_all_configs_are_listed
app/test_streams.py::test_every_key core/test_products.py::test_no_product_is_fused
interop/test_diffusers.py::test_the_transformer_of_a_pipeline laws/test_any_mesh.py
laws/test_compiled_rightly.py laws/test_numbers_say_of_what.py::test_options_that_differ
networks/test_inputs.py::test_a_network_refuses networks/test_refusals.py
"""


def mirrors(files):
  """Returns the tests of deleted files and folders, by their places."""
  every = {x.parent if x.name == '__init__.py' else x for x in map(Path, files)}
  for path in every:
    place = Path('tests', *path.parts[1:])
    yield place.with_name(f'test_{place.stem}.py').as_posix()
    yield f'{place}/'


@pytest.mark.slow
def test_the_rest_of_the_tests_pass_without_all(tmp_path):
  """Tests that name what is gone, in code or as a word, go too; the others take many minutes."""
  files, configs, changed, gone = without(TABLE)
  files |= {f'configs/{name}' for name in configs}
  before = sources(PACKAGE) | sources('configs')
  after = {path: changed.get(path, text) for path, text in before.items() if path not in files}
  words = deletion.lost_words(before, after) | {name.removesuffix('.py') for name in configs}
  tests = sources('tests') | sources('benchmarks') | sources('examples') | sources('docs')
  places = ('tests/test_deletable.py', *mirrors(x for x in files if x.startswith(PACKAGE)))
  files |= {path for path in tests if path.startswith(places)}
  changed = changed | deletion.without(tests, files & tests.keys(), {*gone}, words)
  copied(tmp_path, [x for x in tracked_files() if (ROOT / x).is_file()], files, changed)
  for command in ('init', 'add .', '-c user.name=a -c user.email=a@b.c commit -m a'):
    assert run_in(tmp_path, 'git', *command.split()).returncode == 0
  left_out = [f'--deselect=tests/{x}' for x in (OF_PAGES + OF_COMMON_WORDS).split()]
  found = run_in(tmp_path, sys.executable, '-m', 'pytest', '-q', '--tb=short', *left_out)
  assert found.returncode == 0, found.stdout[-3000:]
  assert int(re.search(r'(\d+) passed', found.stdout)[1]) > 3500
