"""Signals in one process; tests/test_survival.py sends some to real runs."""

import os
import signal
import threading

import pytest

from diffusion_jax.training import preemption


def test_a_signal_stops_after_the_step_and_later_ones_are_ignored():
  before = signal.getsignal(signal.SIGTERM)
  try:
    with preemption.watch() as stop:
      assert not stop(0)
      os.kill(os.getpid(), signal.SIGTERM)
      assert stop(1) == stop(2) == preemption.SIGTERM
    os.kill(os.getpid(), signal.SIGTERM)  # while the checkpoint is written
  finally:
    signal.signal(signal.SIGTERM, before)


def test_without_a_signal_the_handlers_before_are_back():
  numbers = signal.SIGTERM, signal.SIGINT
  before = [signal.getsignal(number) for number in numbers]
  with preemption.watch() as stop:
    assert not stop(0)
    within = [signal.getsignal(number) for number in numbers]
    assert all(x is not y for x, y in zip(within, before, strict=True))
  assert [signal.getsignal(number) for number in numbers] == before


def test_ctrl_c_before_the_first_step_ends_at_once():
  with pytest.raises(KeyboardInterrupt), preemption.watch():
    os.kill(os.getpid(), signal.SIGINT)


def test_a_process_that_ignores_ctrl_c_goes_on():
  """Shells start background jobs in this way."""
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with preemption.watch() as stop:
      assert not stop(0)
      os.kill(os.getpid(), signal.SIGINT)
      assert not stop(1)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
  finally:
    signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_ends_the_process(capfd):
  """It has the system's default then, which needs no Python."""
  with preemption.watch() as stop:
    assert not stop(0)
    os.kill(os.getpid(), signal.SIGINT)
    assert stop(1) == preemption.CTRL_C
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
  assert 'Ctrl-C again ends at once' in capfd.readouterr().err


def test_another_thread_is_not_stopped():
  found = []

  def train():
    with preemption.watch() as stop:
      found.append(stop(0))

  thread = threading.Thread(target=train)
  thread.start()
  thread.join()
  assert found == ['']
