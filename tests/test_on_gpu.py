"""The order, the rows and the tables of benchmarks.on_gpu, without programs."""

import json
import math
import signal
import threading
import time

import pytest
from jax.profiler import ProfileData

from benchmarks import on_gpu, operations, turns
from benchmarks.turns import Case, Failed

KEY = {'sources': 'abc', 'versions': {'jax': '1'}, 'device': 'H100'}
TIMED = {'ms': 1.0}
OUTSIDE = 0.01


def test_rows_of_other_sources_or_with_errors_are_measured_again(tmp_path):
  path = tmp_path / 'rows.jsonl'
  assert on_gpu.stored(path, KEY) == {}
  rows = [
    KEY | {'part': 'a', 'ours': TIMED, 'torch': TIMED},
    KEY | {'part': 'b', 'ours': TIMED, 'torch': {'error': 'out of memory'}},
    KEY | {'part': 'c', 'ours': TIMED, 'versions': {'jax': '2'}},
    KEY | {'part': 'd', 'ours': TIMED, 'sources': 'def'},
    KEY | {'part': 'e', 'ours': TIMED},
  ]
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  assert on_gpu.stored(path, KEY) == {'a': rows[0], 'e': rows[4]}


class Fake:
  """A `turns.Worker` without a process. Part `bad` has no torch side."""

  live = []
  memory = []  # that all processes may take, each time that one opens

  def __init__(self, module):
    self.is_torch, self.is_stopped = 'torch' in module, False
    self.case, self.killed = Case('', 0), threading.Event()
    Fake.live.append(self)

  def call(self, name, *args):
    if name == 'open':
      (self.case,) = args
      Fake.memory.append(sum(x.case.memory + OUTSIDE for x in Fake.live))
    if self.case.network == 'bad' and self.is_torch:
      raise Failed('no such network')
    if self.case.network == 'slow' and name == 'ready':
      self.killed.wait()
      raise Failed('killed')
    if name == 'seconds':
      running = [x for x in Fake.live if not x.is_stopped]
      assert {x.case.network for x in running} == {self.case.network}
      return (0.2, 0.2) if self.is_torch else (0.1, 0.1)
    return {'ready': {'compile_seconds': 1.0}, 'peak': 2e9}.get(name, 4e12)

  def signal(self, number):
    self.is_stopped = number == signal.SIGSTOP

  def kill(self):
    self.killed.set()
    Fake.live.remove(self)


def measure(monkeypatch, memory, seconds=math.inf):
  monkeypatch.setattr(on_gpu, 'Worker', Fake)
  monkeypatch.setattr(turns.time, 'sleep', lambda seconds: None)
  monkeypatch.setattr(on_gpu, 'LIVE', 3)
  parts = {
    name: (dict.fromkeys(('ours', 'torch'), Case(name, 8, memory=x)), 'train')
    for name, x in memory.items()
  }
  end = time.monotonic() + seconds
  rows = on_gpu.measure(parts, OUTSIDE, end)
  return {row['part']: row for row in rows}


def test_parts_are_timed_alone_within_the_memory(monkeypatch):
  memory = {'a': 0.1, 'b': 0.2, 'bad': 0.1, 'large': 0.45, 'c': 0.1}
  rows = measure(monkeypatch, memory)
  assert rows.keys() == memory.keys() and not Fake.live
  assert 0.5 < max(Fake.memory) <= 1.0
  ours = rows['c']['ours']
  assert ours['ms'] == 100.0 and ours['images_per_s'] == 80.0
  assert ours['tflop_per_s'] == pytest.approx(3 * 4.0 / 0.1)
  assert rows['bad']['torch'] == {'error': 'no such network'}
  line = on_gpu.line(rows['c'] | {'after': 5.0})
  expected = '| c, 8 | 100 ms | 200 ms | **2.00** | 80; 120 | 2.0; 2.0 | 5 |'
  assert line == expected
  line = on_gpu.line(rows['bad'] | {'after': 5.0})
  assert '| 100 ms | no such network | - | 80; 120 |' in line


def test_at_the_end_of_the_budget_no_process_is_left(monkeypatch):
  rows = measure(monkeypatch, {'a': 0.1, 'slow': 0.1}, seconds=0.3)
  assert 'slow' not in rows and not Fake.live


def test_a_wrong_name_is_one_line(capsys):
  for option in ('--only=dit_train,dit_tran', '--profile=dit_tran'):
    with pytest.raises(SystemExit):
      on_gpu.main([option])
    error = capsys.readouterr().err.splitlines()[-1]
    assert "'dit_tran' is not a part; the parts are dit_forward, dit_train" in error


PROGRAM = """
  %gemm.1 = bf16[8,8]{1,0} custom-call(%a), metadata={op_name="jit(step)/qkv"}
  ROOT fusion = bf16[8]{0} fusion(%gemm.1), metadata={op_name="jit(step)/norm"}
"""


def event(metadata_id, ps, op=0):
  stat = f'stats {{ metadata_id: 1 ref_value: {op} }}' if op else ''
  return f'events {{ metadata_id: {metadata_id} duration_ps: {ps} {stat} }}'


def test_operations_are_sorted_by_their_time_on_the_gpu():
  """Two calls: a product of 2 ms, a sum in two launches, a copy."""
  names = {1: 'nvjet_gemm', 2: 'reduce_kernel', 3: 'MemcpyD2D'}
  known = ' '.join(
    f'event_metadata {{ key: {i} value {{ id: {i} name: "{name}" }} }}' for i, name in names.items()
  )
  for i, name in {1: 'hlo_op', 2: 'gemm.1', 3: 'fusion'}.items():
    known += f' stat_metadata {{ key: {i} value {{ id: {i} name: "{name}" }} }}'
  ms = 10**9  # in ps
  stream = [event(2, ms // 2, 3)] * 4 + [event(1, 2 * ms, 2)] * 2
  stream += [event(3, ms)] * 2
  other = f'lines {{ name: "Launches" {event(2, 99 * ms, 3)} }} {known}'
  profile = ProfileData.from_text_proto(f"""
    planes {{ name: "/device:GPU:0" lines {{ name: "Stream #13"
      {' '.join(stream)} }} {other} }}
    planes {{ name: "/host:CPU" {other} }}
  """)
  table = operations.table(profile, PROGRAM, calls=2).splitlines()
  assert [line.split() for line in table] == [
    ['4.000', 'ms', '100.0%', 'x4', 'all', '3', 'operations'],
    ['2.000', 'ms', '50.0%', 'x1', 'gemm.1', 'nvjet_gemm', 'jit(step)/qkv'],
    ['1.000', 'ms', '25.0%', 'x2', 'fusion', 'reduce_kernel', 'jit(step)/norm'],
    ['1.000', 'ms', '25.0%', 'x1', 'MemcpyD2D', 'MemcpyD2D'],
  ]
  assert len(operations.table(profile, PROGRAM, 2, most=1).splitlines()) == 2
