"""A sum of the code that a function runs changes if that code does."""

import importlib
import sys

import pytest

from diffusion_jax.data import code_sums

PACKAGE = {
  'near.py': 'A = 1',
  'parts/__init__.py': '',
  'parts/deep/inner.py': 'B = 2',
  'parts/simulator.py': 'def simulate(rng, n):\n  return {"x": rng.normal(size=(n, 1))}',
  '.hidden/a.py': '',
  'venv/pyvenv.cfg': '',
  'venv/lib/a.py': '',
}


@pytest.fixture
def sum_of(monkeypatch):
  """Returns (folder, name of a module) -> a sum of its code, as a new process has it."""
  names = {*sys.modules}

  def of(folder, name):
    code_sums.of_module.cache_clear()
    for new in {*sys.modules} - names:
      del sys.modules[new]
    importlib.invalidate_caches()
    with monkeypatch.context() as patch:
      patch.syspath_prepend(folder)
      return code_sums.code_of(importlib.import_module(name).simulate)

  yield of
  for new in {*sys.modules} - names:
    del sys.modules[new]


def write(top, files):
  for file, text in files.items():
    (top / file).parent.mkdir(parents=True, exist_ok=True)
    (top / file).write_text(text)


@pytest.mark.parametrize('name', ['parts.simulator', 'outer.parts.simulator'])
def test_a_change_below_the_folder_of_a_simulator_is_noticed(name, tmp_path, sum_of):
  """The sum is of every module of the outermost package, and of no file that Python skips."""
  top = tmp_path / 'outer' if name.startswith('outer') else tmp_path
  write(top, PACKAGE)
  code = lambda: sum_of(tmp_path, name)
  first = code()
  seen = []
  for file, new in {
    'near.py': 'A = 3',
    'parts/deep/inner.py': 'B = 2.5',
    'parts/new.py': '',
    'parts/deep/inner.py ': 'this is = no code',
    '.hidden/a.py': 'A = 1',
    'venv/lib/a.py': 'A = 1',
    'parts/simulator.py': f'{PACKAGE["parts/simulator.py"]}  # the same',
  }.items():
    before = PACKAGE.get(file.strip())
    (top / file.strip()).write_text(new)
    seen.append(code() != first)
    if before is None:
      (top / file).unlink()
    else:
      (top / file.strip()).write_text(before)
  in_package = name.startswith('outer')
  assert seen == [in_package, True, True, True, False, False, False] and code() == first


IMPORTS = {
  'beside.py': 'C = 1',
  'outer/__init__.py': 'from outer.parts import base',
  'outer/parts/__init__.py': 'D = 1',
  'outer/parts/base.py': 'from ..near import A',
  'outer/near.py': 'A = 1',
  'outer/simulator.py': """
import numpy, beside, elsewhere as e
from .parts import *
def simulate(rng, n):
  from outer import late
""",
  'outer/late.py': 'from . import last',
  'outer/last.py': 'E = 1',
  'outer/unread.py': 'F = 1',
  '../lib/elsewhere.py': 'G = 1',
}


@pytest.mark.parametrize('most', [200, 0])
def test_a_change_of_what_is_imported_is_noticed(most, tmp_path, sum_of, monkeypatch):
  """An imported module counts next to the package, in another folder, and below many files.

  Files next to the simulator count even if nothing imports them.
  """
  monkeypatch.setattr(code_sums, 'MOST_FILES', most)
  monkeypatch.syspath_prepend(tmp_path / 'lib')
  here = tmp_path / 'here'
  write(here, IMPORTS)
  first = sum_of(here, 'outer.simulator')
  for file, text in IMPORTS.items():
    (here / file).write_text(f'{text}\nH = 1')
    assert sum_of(here, 'outer.simulator') != first, file
    (here / file).write_text(text)
  assert sum_of(here, 'outer.simulator') == first
