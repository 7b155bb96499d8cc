"""Planted faults are of the kinds that are said, and a test catches those that change a result."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import planted

ROOT = Path(__file__).parent.parent


def changes(source):
  """Returns {(kind, what is replaced, by what)} of a text's faults."""
  data = source.encode()
  return {(x.kind, data[x.start : x.end].decode(), x.text.decode()) for x in planted.faults(source)}


# A line of a function, and the faults of it: what is replaced, and by what.
LINES = {
  'return a + b': ['operator:  +  =>  - ', 'operand: a + b => a', 'operand: a + b => b'],
  'return (a * b) ** 2': [
    *('operator: ) **  => ) * ', 'operand: (a * b) ** 2 => (a * b)'),
    *('operand: (a * b) ** 2 => 2', 'operator:  *  =>  / ', 'operand: a * b => a'),
    *('operand: a * b => b', 'constant: 2 => 3', 'constant: 2 => -2'),
  ],
  'return a < b': ['comparison:  <  =>  <= '],
  'return a not in b': ['comparison:  not in  =>  in '],
  "return a is not 'b'": ['comparison:  is not  =>  is ', "word: 'b' => 'b?'"],
  'return a and b': ['and or:  and  =>  or ', 'operand: a and b => a', 'operand: a and b => b'],
  'return not a': ['sign: not a => a'],
  'return -a if b else c': [
    *('branch: -a if b else c => (-a)', 'branch: -a if b else c => c', 'sign: -a => a'),
  ],
  'if a: b()': ['condition: a => True', 'condition: a => False', 'statement: b() => pass'],
  'return [x for x in a if x]': ['condition: x => True', 'condition: x => False'],
  'return True, 0.5': [
    *('constant: True => False', 'constant: 0.5 => 1.5', 'constant: 0.5 => -0.5'),
    'order: True, 0.5 => 0.5, True',
  ],
  'return f(a, b, c=d)': [
    *('keyword: , c=d => ', 'order: a, b => b, a', 'wrapper: f(a, b, c=d) => a'),
  ],
  'return jnp.log(a)': ['wrapper: jnp.log(a) => a', 'alike: jnp.log => jnp.log1p'],
  'return a.strip()': ['wrapper: a.strip() => a'],
  "return {'x': a, **b, 'y': c}": ["element: 'x': a, => ", "element: , 'y': c => "],
  'return [a, 1]': [
    'element: a,  => ',
    'element: , 1 => ',
    'constant: 1 => 2',
    'constant: 1 => -1',
  ],
  'return a[1:]': ['subscript: a[1:] => a', 'constant: 1 => 2', 'constant: 1 => -1'],
  'a += b': ['operator:  +=  =>  -= ', 'statement: a += b => pass'],
  'a: Literal[1] = b': [],
  'F = Callable[[Array], Array]': [],
  "raise ValueError(f'{a + 1} is not 2')": [],
  "print(f'{a - 1}')\n  'a + b'": [
    "statement: print(f'{a - 1}') => pass",
    "wrapper: print(f'{a - 1}') => (f'{a - 1}')",
  ],
  "return 'é', a + b": [
    *('operator:  +  =>  - ', 'operand: a + b => a', 'operand: a + b => b'),
  ],
}


@pytest.mark.parametrize('line', LINES)
def test_the_faults_of_a_line(line):
  source = f'import jnp\n\n@g(1)\ndef f(a: Literal[1], é):\n  """Adds 1 + 1."""\n  {line}\n'
  assert {f'{kind}: {old} => {new}' for kind, old, new in changes(source)} == {*LINES[line]}


TINY = """'''Numbers.'''


def half(x):
  return x / 2


def positive(x):
  return 0 if x < 0 else x
"""
BEGIN = """
import sys
from pathlib import Path
from tests import planted

planted.ROOT, planted.LOADED = Path(sys.argv.pop(1)), ['pytest']
"""
EACH = f"""
plants = [planted.Plant('tiny.py', x, 'test_tiny.py') for x in planted.faults({TINY!r})]
for plant, outcome in zip(plants, planted.outcomes(plants, 1e6)):
  print(outcome, planted.described(plant), flush=True)
"""
MAIN = """
planted.ENOUGH = int(sys.argv.pop(1))
sys.argv[1:] = ['tiny.py', '--plants=2', '--seed=0']
sys.exit(planted.main())
"""


@pytest.mark.slow
def test_what_changes_a_result_is_caught(tmp_path):
  """Only a fault that changes nothing survives."""
  for folder in 'diffusion_jax', 'tests':
    (tmp_path / folder).mkdir()
    (tmp_path / folder / '__init__.py').touch()
  module, test = tmp_path / 'diffusion_jax/tiny.py', tmp_path / 'tests/test_tiny.py'
  module.write_text(TINY)
  # The other plugins would be imported for each fault.
  env = os.environ | {'PYTEST_DISABLE_PLUGIN_AUTOLOAD': '1', 'PYTEST_PLUGINS': 'xdist.plugin'}

  def run(program, body, enough=()):
    head = 'from diffusion_jax.tiny import half, positive\n\n'
    test.write_text(f'{head}def test_numbers():\n  assert {body}\n')
    command = [sys.executable, '-c', BEGIN + program, str(tmp_path), *enough]
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert module.read_text() == TINY
    return result.returncode, result.stdout.splitlines(), result.stderr

  code, lines, error = run(EACH, 'half(3) == 1.5 and [*map(positive, (-2, 0.5))] == [0, 0.5]')
  survived = [x for x in lines if not x.startswith('caught')]
  assert survived == ['survived diffusion_jax/tiny.py:9 comparison: < -> <='], error
  assert len(lines) == 10 and code == 0
  code, lines, error = run(MAIN, 'half and positive', ['2'])
  assert lines[-1] == '0 caught, 2 survived, 0 no time' and code == 1, error
  assert run(MAIN, 'half and positive', ['3'])[0] == 0
  code, lines, error = run(MAIN, 'False', ['9'])
  assert lines == [] and code == 1 and 'test_tiny.py fails without a fault' in error


def test_faults_by_hand_are_of_code_that_is_there():
  """What a row of tests/faults.txt replaces is in its file once; its keyword names a test."""
  plants = planted.listed('')
  assert len(plants) > 50
  for plant in plants:
    tests = re.findall(r'def (test_\w+)', (ROOT / 'tests' / plant.test).read_text())
    words = {*re.findall(r'\w+', plant.keyword)} - {'and', 'or', 'not'}
    assert any(word in name for word in words for name in tests), plant


def test_lines_that_commits_changed(monkeypatch):
  diff = """+++ b/core/process.py
@@ -3 +3,2 @@ def f():
@@ -9,4 +10,0 @@
+++ b/gone.py
@@ -1 +1 @@"""
  monkeypatch.setattr(planted, 'git', lambda *words: diff)
  assert planted.changed('main') == {'core/process.py': {3, 4}}
