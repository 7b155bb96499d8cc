"""Signals in one process; tests/test_survival.py sends some to real runs."""

import contextlib
import functools
import hashlib
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest

from diffusion_jax.errors import Preempted
from diffusion_jax.training import preemption


@pytest.fixture(autouse=True)
def handlers():
  """Restores the handlers of signals."""
  numbers = signal.SIGTERM, signal.SIGINT
  before = [signal.getsignal(number) for number in numbers]
  yield before
  for number, handler in zip(numbers, before, strict=True):
    signal.signal(number, handler)


def test_a_signal_stops_after_the_step_and_later_ones_are_ignored():
  with preemption.watch() as stop:
    assert not stop(0)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop(1) == stop(2) == preemption.SIGTERM
  os.kill(os.getpid(), signal.SIGTERM)  # while the checkpoint is written


@pytest.mark.parametrize('begun', [False, True])
def test_a_signal_is_answered_while_the_main_thread_waits(begun, monkeypatch):
  """The handler itself comes later, as after a compilation."""
  noted = []
  monkeypatch.setattr(
    preemption.os, 'write', lambda _, text: noted.append((text, monotonic()))
  )
  kill = functools.partial(os.kill, os.getpid(), signal.SIGTERM)
  timer = threading.Timer(0.1, kill)
  error = contextlib.nullcontext() if begun else pytest.raises(Preempted)
  with error, preemption.watch() as stop:
    assert not begun or not stop(0)
    timer.start()
    hashlib.pbkdf2_hmac('sha256', b'a', b'a', 2_000_000)  # in C, about 0.7 s
  returned = monotonic()
  [(text, time)] = noted
  assert (b'stops after this step' if begun else b'ends when the pres') in text
  assert time < returned - 0.2


def test_without_a_signal_the_handlers_before_are_back(handlers):
  now = lambda: [*map(signal.getsignal, (signal.SIGTERM, signal.SIGINT))]
  with preemption.watch() as stop:
    assert not stop(0)
    assert all(x is not y for x, y in zip(now(), handlers, strict=True))
  assert now() == handlers


def test_ctrl_c_before_the_first_step_ends_at_once():
  with pytest.raises(KeyboardInterrupt), preemption.watch():
    os.kill(os.getpid(), signal.SIGINT)


def test_a_process_that_ignores_ctrl_c_goes_on():
  """Shells start background jobs in this way."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  with preemption.watch() as stop:
    assert not stop(0)
    os.kill(os.getpid(), signal.SIGINT)
    assert not stop(1)
  assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


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
  def train():
    with preemption.watch() as stop:
      return stop(0)

  with ThreadPoolExecutor(1) as pool:
    assert pool.submit(train).result() == ''
