"""Simulations run once: kept in a folder, in any number of processes."""

import functools
import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.data import simulations as kept
from diffusion_jax.data.simulated import of_simulator
from diffusion_jax.paths import WritePath

CODE = """
import os
import numpy as np
import {name}_helper as helper
from diffusion_jax.paths import WritePath

def simulate(rng, n, calls: WritePath = '', scale: float = 1.0, table: str = ''):
  # a comment
  with open(calls, 'a') as file:
    file.write(f'{{n}} {{os.getpid()}}\\n')
  x = scale * helper.FACTOR * rng.normal(size=(n, 2))
  x[::10, 1] = np.nan
  return {{'x': x, 'context': x + rng.normal(size=(n, 2))}}
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
  """Writes a module with a helper, and returns a function that imports it."""
  monkeypatch.syspath_prepend(tmp_path)
  name = f'decay_{tmp_path.name}'

  def imported(factor=1.0, edit=lambda code: code):
    code = CODE.format(name=name)
    (tmp_path / f'{name}.py').write_text(edit(code))
    (tmp_path / f'{name}_helper.py').write_text(f'FACTOR = {factor}\n')
    for each in (name, f'{name}_helper'):
      sys.modules.pop(each, None)
    importlib.invalidate_caches()
    return importlib.import_module(name)

  monkeypatch.setattr(sys, 'dont_write_bytecode', True)
  return imported


def calls_of(path):
  lines = path.read_text().split('\n') if path.exists() else []
  return [int(line.split()[0]) for line in lines if line]


def read(module, folder, simulate=None, **fields):
  fields = {'num_examples': 250} | fields
  fields |= {'kept_in': folder / 'simulations'}
  function = functools.partial(simulate or module.simulate, calls=str(folder / 'calls'))
  source = of_simulator(function, **fields)
  return source.read(np.arange(len(source)))


def assert_same(a, b):
  for name in a:
    assert_array_equal(a[name], b[name])


def test_each_simulation_runs_once(module, tmp_path, capsys):
  decay = module()
  first = read(decay, tmp_path)
  assert len(first['x']) == 225
  assert sorted(calls_of(tmp_path / 'calls')) == [50, 100, 100]
  assert '25 of 250 simulations have NaN' in capsys.readouterr().out
  assert_same(first, read(decay, tmp_path))
  assert_same(read(decay, tmp_path, num_examples=200), {name: x[:180] for name, x in first.items()})
  joint = read(decay, tmp_path, joint=True)['x']
  assert_array_equal(joint, np.concatenate([*first.values()], 1))
  assert 'NaN' not in capsys.readouterr().out
  assert len(calls_of(tmp_path / 'calls')) == 3
  more = read(decay, tmp_path, num_examples=300)  # the last block had 50
  assert_same(
    more,
    of_simulator(functools.partial(decay.simulate, calls=os.devnull), num_examples=300).read(
      np.arange(270)
    ),
  )
  assert calls_of(tmp_path / 'calls')[3:] == [100]
  assert_same(more, read(decay, tmp_path, num_examples=300))
  read(decay, tmp_path, split='test', num_test=30)
  assert calls_of(tmp_path / 'calls')[4:] == [30]
  names = [x.name for x in (tmp_path / 'simulations').iterdir()]
  assert sorted(n.partition('-')[0] for n in names) == ['test', 'train']


def test_what_changes_the_simulations_is_noticed(module, tmp_path):
  count = lambda: len(calls_of(tmp_path / 'calls'))
  first = read(module(), tmp_path)
  comments = lambda code: code.replace('# a comment', '# other words\n')
  assert_same(first, read(module(edit=comments), tmp_path))
  assert count() == 3
  other = lambda code: code.replace('[::10, 1]', '[1::10, 1]')
  for changed in (
    read(module(2.0), tmp_path),  # of another module
    read(module(edit=other), tmp_path),
    read(module(), tmp_path, draws=1),
    read(None, tmp_path, functools.partial(module().simulate, scale=3.0)),
  ):
    assert not np.isin(changed['context'], first['context']).all()
  assert count() == 15
  assert_same(first, read(module(), tmp_path))  # the first ones are there
  assert count() == 15


def test_functions_that_one_function_returns_are_not_kept(tmp_path):
  """Closures of one function are not kept: their code does not say what it was given."""

  def shifted(by):
    return lambda rng, n: {'x': rng.normal(by, 1.0, (n, 1))}

  def read(by):
    return of_simulator(shifted(by), num_examples=90, kept_in=tmp_path).read(np.arange(90))['x']

  assert abs(read(0.0).mean()) < 1.0 < read(9.0).mean()
  assert_array_equal(read(9.0), read(9.0))
  assert not [*tmp_path.iterdir()]


def test_another_version_simulates_again(module, tmp_path):
  first = read(module(), tmp_path)
  assert_same(first, read(module(), tmp_path, version=2))
  assert len(calls_of(tmp_path / 'calls')) == 6


def test_any_number_of_processes_simulates_the_same(module, tmp_path):
  alone = read(module(), tmp_path)
  (tmp_path / 'two').mkdir()
  assert_same(alone, read(module(), tmp_path / 'two', workers=2))
  lines = (tmp_path / 'two' / 'calls').read_text().split('\n')
  assert len(lines) == 4 and str(os.getpid()) not in {line.split()[1] for line in lines if line}
  with pytest.raises(ValueError, match='workers=2 needs a simulator that'):
    of_simulator(lambda rng, n: {'x': rng.normal(size=(n, 1))}, workers=2)


def test_an_interrupted_simulation_continues(module, tmp_path):
  def fails(rng, n, calls: WritePath):
    if len(calls_of(Path(calls))) == 2:
      raise KeyboardInterrupt
    return decay.simulate(rng, n, calls)

  decay = module()
  fails.__module__, fails.__qualname__ = decay.__name__, 'simulate'
  with pytest.raises(KeyboardInterrupt):
    read(decay, tmp_path, fails)
  assert len([*(tmp_path / 'simulations').iterdir()]) == 2
  arrays = read(decay, tmp_path)
  assert sorted(calls_of(tmp_path / 'calls')) == [50, 100, 100]
  (whole,) = (tmp_path / 'simulations').iterdir()
  (tmp_path / 'other').mkdir()
  assert_same(arrays, read(decay, tmp_path / 'other'))
  whole.write_bytes(whole.read_bytes()[:300])  # not by a kill
  assert_same(arrays, read(decay, tmp_path))
  assert len(calls_of(tmp_path / 'calls')) == 6


def test_large_simulations_are_not_kept(module, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(kept, 'MOST_KEPT', 250 * 32 - 1)
  decay = module()
  first = read(decay, tmp_path)
  assert 'are too large to be kept in' in capsys.readouterr().out
  assert not [*(tmp_path / 'simulations').iterdir()]
  assert_same(first, read(decay, tmp_path))
  monkeypatch.setattr(kept, 'MOST_KEPT', 250 * 32)
  read(decay, tmp_path)
  assert 'are kept in' in capsys.readouterr().out


def test_nothing_is_written_through_a_link(module, tmp_path):
  (tmp_path / 'elsewhere').mkdir()
  (tmp_path / 'simulations').symlink_to(tmp_path / 'elsewhere')
  with pytest.raises(ValueError, match='a link: remove it'):
    read(module(), tmp_path)
  assert not [*(tmp_path / 'elsewhere').iterdir()]
