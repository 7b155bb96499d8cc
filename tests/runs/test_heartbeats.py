"""Heartbeats: what the first process concludes, and JAX without its store."""

import importlib
import itertools
import sys

import jax
import pytest

from diffusion_jax.runs import heartbeats, processes


def test_a_process_is_lost_when_its_heartbeat_does_not_change():
  now = 0.0
  monitor = heartbeats.Monitor(lambda: now)

  def failure(count):
    values = {'x/1': f'{count} node7, process 5'}
    return monitor.failure(values, timeout=5.0)

  assert failure(0) == ''
  now = 8.0
  assert failure(1) == ''  # a new one, after however long
  now = 13.0
  assert failure(1) == ''
  now = 14.0
  assert failure(1) == 'host 1 (node7, process 5) is lost, silent for 6 s'
  assert failure(2) == ''


def test_last_heartbeats():
  times = itertools.count(0.0, 50.0)
  monitor = heartbeats.Monitor(lambda: next(times))
  done = {'x/1': f'{heartbeats.DONE} a, process 5'}
  assert monitor.failure(done, 5.0) == ''
  assert monitor.failure(done, 5.0) == ''  # silent for 50 s and more
  failed = {'x/2': f'{heartbeats.FAILED} b, process 6'}
  assert 'host 2 (b, process 6) has failed' in monitor.failure(failed, 5.0)


@pytest.fixture
def without_store(monkeypatch):
  """A JAX whose private module with the store has gone."""
  with monkeypatch.context() as patch:
    patch.delattr(sys.modules['jax._src'], 'distributed')
    patch.setitem(sys.modules, 'jax._src.distributed', None)
    importlib.reload(heartbeats)
    yield
  importlib.reload(heartbeats)
  assert heartbeats.available


def test_without_the_store_heartbeats_of_jax_remain(without_store, monkeypatch):
  """They get the user's time itself, and nothing of ours is started."""
  found = {}
  monkeypatch.setattr(
    jax.distributed, 'initialize', lambda *_, **options: found.update(options)
  )
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  assert not heartbeats.available
  processes.start('localhost:1', 2, 0, 30)
  assert found['heartbeat_timeout_seconds'] == 30
  assert not heartbeats._threads
  heartbeats.report_failure(1)
