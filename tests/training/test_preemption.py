"""Signals in one process; tests/test_survival.py sends some to real runs."""

import contextlib
import functools
import hashlib
import os
import pty
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest

from diffusion_jax.errors import Preempted
from diffusion_jax.training import preemption

pytestmark = pytest.mark.usefixtures('signals')


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGHUP', 'SIGUSR1'])
def test_a_signal_stops_after_the_step_and_later_ones_are_ignored(name):
  """SIGHUP is of a terminal that is closed, SIGUSR1 of SLURM and others."""
  with preemption.watch() as stop:
    assert not stop(0)
    os.kill(os.getpid(), signal.Signals[name])
    assert stop(1) == stop(2) == preemption.SIGTERM
  os.kill(os.getpid(), signal.Signals[name])  # while a checkpoint is written


@pytest.mark.parametrize('number', [signal.SIGHUP, signal.SIGINT])
def test_a_job_in_the_background_or_under_nohup_goes_on(number):
  """Shells start background jobs without Ctrl-C."""
  signal.signal(number, signal.SIG_IGN)
  with preemption.watch() as stop:
    assert not stop(0)
    os.kill(os.getpid(), number)
    assert not stop(1)
  assert signal.getsignal(number) is signal.SIG_IGN


CLOSED = """
import sys, time
from diffusion_jax.training import preemption

with preemption.watch() as stop:
  stop(0)
  print('begun', flush=True)
  for _ in range(3000):
    time.sleep(0.02)
    if stop(1):
      print('step', file=sys.stderr, flush=True)
      sys.exit(7)
"""


def test_nothing_is_written_to_a_terminal_that_is_closed():
  """The process saves instead of ending at an error of its next line."""
  child, terminal = pty.fork()
  if not child:
    os.execv(sys.executable, [sys.executable, '-c', CLOSED])
  assert b'begun' in os.read(terminal, 100)
  os.close(terminal)
  assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize('begun', [False, True])
def test_a_signal_is_answered_while_the_main_thread_waits(begun, monkeypatch):
  """The handler itself comes later, as after a compilation."""
  noted = []
  monkeypatch.setattr(preemption.os, 'write', lambda _, text: noted.append((text, monotonic())))
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


def test_without_a_signal_the_handlers_before_are_back(signals):
  for number in signal.SIGTERM, signal.SIGINT:
    with preemption.watch() as stop:
      assert not stop(0)
      assert signal.getsignal(number) is not signals[number]
    assert signal.getsignal(number) is signals[number]


def test_ctrl_c_before_the_first_step_ends_at_once():
  with pytest.raises(KeyboardInterrupt), preemption.watch():
    os.kill(os.getpid(), signal.SIGINT)


def test_a_second_ctrl_c_ends_the_process(capfd):
  """The second ctrl-c has the system's default handler, which needs no Python."""
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
