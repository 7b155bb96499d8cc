"""Arguments of several processes; test_multihost.py starts real ones."""

import subprocess
import sys

import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.runtime import processes
from tests.conftest import HANG_SECONDS


@pytest.mark.parametrize('arguments, message', [
  (('localhost:1', 2, None), 'needs all of --coordinator'),
  ((None, None, 0), 'needs all of --coordinator'),
  (('localhost', 2, 0), '--coordinator=localhost is not host:port'),
  (('localhost:123456', 2, 0), 'is not host:port'),
  (('localhost:1', 2, 2), 'it must be in 0..1'),
  (('localhost:1', 0, 0), '--num_hosts=0'),
])  # fmt: skip
def test_wrong_arguments_are_refused_before_anything_starts(arguments, message):
  with pytest.raises(UserError, match=message):
    processes.check(*arguments)


def test_right_arguments_are_accepted():
  processes.check(None, None, None)
  processes.check('node-7:65000', 4, 3)


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
