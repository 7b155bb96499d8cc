"""SIGTERM in one process; tests/test_survival.py sends it to real runs."""

import os
import signal
import threading

from diffusion_jax.training import preemption


def test_a_signal_stops_after_the_step_and_later_ones_are_ignored():
  before = signal.getsignal(signal.SIGTERM)
  try:
    with preemption.watch() as stop:
      assert not stop(1)
      os.kill(os.getpid(), signal.SIGTERM)
      assert stop(2) and stop(3)
    os.kill(os.getpid(), signal.SIGTERM)  # while the checkpoint is written
  finally:
    signal.signal(signal.SIGTERM, before)


def test_without_a_signal_the_handler_before_is_back():
  before = signal.getsignal(signal.SIGTERM)
  with preemption.watch() as stop:
    assert not stop(1)
    assert signal.getsignal(signal.SIGTERM) is not before
  assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_is_not_stopped():
  found = []

  def train():
    with preemption.watch() as stop:
      found.append(stop(1))

  thread = threading.Thread(target=train)
  thread.start()
  thread.join()
  assert found == [False]
