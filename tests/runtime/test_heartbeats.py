"""The first process's conclusions from heartbeats; JAX without its store."""

import importlib
import sys

import jax
import pytest

from diffusion_jax.runtime import heartbeats, processes


def test_a_process_is_lost_when_its_heartbeat_does_not_change():
  last = {}

  def failure(count, now):
    return heartbeats.failure(last, {'x/1': f'{count} node7, process 5'}, 5.0, now)

  assert failure(0, 0.0) == ''
  assert failure(1, 8.0) == ''
  assert failure(1, 13.0) == ''
  assert failure(1, 14.0) == 'host 1 (node7, process 5) is lost, silent for 6 s'
  assert failure(2, 14.0) == ''


def test_last_heartbeats():
  last, done = {}, {'x/1': f'{heartbeats.DONE} a, process 5'}
  for now in (0.0, 50.0):  # silent for 50 s
    assert heartbeats.failure(last, done, 5.0, now) == ''
  message = heartbeats.failure(last, {'x/2': f'{heartbeats.FAILED} b, process 6'}, 5.0, 100.0)
  assert 'host 2 (b, process 6) has failed' in message


class OtherStore:
  """A client of the store whose methods have other arguments."""

  def key_value_set(self, key, value):
    pass


@pytest.fixture(params=['no module', 'no name', 'no client', 'other methods'])
def without_store(request, monkeypatch):
  private = sys.modules['jax._src.distributed']
  with monkeypatch.context() as patch:
    if request.param == 'no module':
      patch.delattr(sys.modules['jax._src'], 'distributed')
      patch.setitem(sys.modules, 'jax._src.distributed', None)
    elif request.param == 'no name':
      patch.delattr(private, 'global_state')
    elif request.param == 'no client':
      patch.setattr(private, 'global_state', object())
    else:
      patch.setattr(private.global_state, 'client', OtherStore())
    importlib.reload(heartbeats)
    yield request.param
  importlib.reload(heartbeats)
  assert heartbeats.available


def test_without_the_store_heartbeats_of_jax_remain(without_store, monkeypatch, capsys):
  """JAX's own heartbeats get the user's timeout; no thread starts, and one line says so."""
  given = {}
  monkeypatch.setattr(jax.distributed, 'initialize', lambda *_, **options: given.update(options))
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  # Other methods are only noticed when the processes are connected.
  assert heartbeats.available == (without_store == 'other methods')
  processes.start('localhost:1', 2, 0, 30)
  factor = 2 if heartbeats.available else 1
  assert given['heartbeat_timeout_seconds'] == 30 * factor
  assert not heartbeats._threads
  (line,) = capsys.readouterr().out.splitlines()
  assert line.startswith("only JAX's heartbeats work")
  heartbeats.report_failure(1)
