"""A process: its start, memory and end; test_multihost.py starts several."""

import subprocess
import sys

import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.runtime import processes
from tests.conftest import HANG_SECONDS


def test_one_process_is_the_first_and_has_no_name():
  assert not processes.started()
  assert processes.is_first() and processes.name() == ''
  assert processes.broadcast([True, False]).tolist() == [True, False]
  with pytest.raises(SystemExit) as end:
    processes.exit_all(3)
  assert end.value.code == 3


def test_one_process_leaves_while_a_thread_works():
  code = (
    'import threading, time\n'
    'from diffusion_jax.runtime import processes\n'
    f'threading.Thread(target=time.sleep, args=({HANG_SECONDS},)).start()\n'
    "print('saved')\n"
    'processes.leave(42)'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True)
  assert (done.returncode, done.stdout) == (42, b'saved\n')


def test_an_address_that_nobody_answers_is_refused_at_once():
  for address in ('localhost:1', 'node-0.a_b.svc:65535', '10.0.0.1:1234', '[fe80::1%eth0]:1234'):
    processes.check(address, 2, 1)
  wrong = 'http://node0:1234', 'a b:1', ':1234', 'u@node0:1', 'localhost', '[::1]', ''
  for address in (*wrong, *(f'localhost:{port}' for port in ('', '0', '65536', 'x', '1:2', '1/a'))):
    with pytest.raises(UserError, match='is not host:port'):
      processes.check(address, 2, 1)
