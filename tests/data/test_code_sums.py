"""The code around a function, of which results are kept."""

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


@pytest.mark.parametrize('name', ['parts.simulator', 'outer.parts.simulator'])
def test_a_change_below_the_folder_of_a_simulator_is_noticed(name, tmp_path, monkeypatch, capsys):
  """Of a package all is seen, also what is beside a sub-package."""
  monkeypatch.syspath_prepend(tmp_path)
  names = {*sys.modules}
  top = tmp_path / 'outer' if name.startswith('outer') else tmp_path
  for file, text in PACKAGE.items():
    (top / file).parent.mkdir(parents=True, exist_ok=True)
    (top / file).write_text(text)

  def code():
    code_sums.code_of.cache_clear()
    return code_sums.code_of(module.simulate)

  importlib.invalidate_caches()
  module = importlib.import_module(name)
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
  monkeypatch.setattr(code_sums, 'MOST_FILES', 1)
  assert code() != first
  assert 'simulations run again after a change of those next to' in capsys.readouterr().out
  for new in {*sys.modules} - names:
    del sys.modules[new]
