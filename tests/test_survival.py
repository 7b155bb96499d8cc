"""Runs that end early, with real processes and signals."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusion_jax.app.config import folder
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import as_flags, assert_same, params_of, unet_smoke as smoke
from tests.app.fields import within
from tests.app.test_multihost import free_port
from tests.conftest import HANG_SECONDS

pytestmark = pytest.mark.usefixtures('signals')
ROOT = Path(__file__).parent.parent
STEPS = 400  # enough to stop a process before its end
COMPARED = 100  # the step to compare with an undisturbed run
# A few small arrays; starting processes and files take the time.
FIELDS = within('training', num_steps=COMPARED, log_every=20, checkpoints__every=STEPS)
FIELDS |= within('training', sample_every=0, held_out=None)
FIELDS |= within('network', multipliers=(1,), attention_resolutions=(), middle_attention='none')
FIELDS |= {'optimizer.decay_steps': STEPS}


def train(workdir, **fields):
  """Trains in this process."""
  MODES['train'](smoke(argument='', **FIELDS | within('training', **fields)), workdir)


def start(workdir, *args, said='output', env=None, **fields):
  """Starts a training in a new process, with its output in a file."""
  changes = FIELDS | within('training', **{'machine__mesh': (1, 1), 'num_steps': STEPS} | fields)
  command = [sys.executable, '-u', str(ROOT / 'launch.py'), f'--workdir={workdir}']
  command += [f'--config={ROOT}/configs/digits.py:smoke', *args]
  command += [f'--config.{name}={value}' for name, value in as_flags(changes)]
  workdir.mkdir(exist_ok=True)
  with (workdir / said).open('w') as file:
    return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env)


def wait_for(process, ready):
  """Waits until ready() or the end of the process."""
  end = time.monotonic() + HANG_SECONDS
  while process.poll() is None and not ready():
    assert time.monotonic() < end
    time.sleep(0.005)


def wait_for_text(process, workdir, text):
  wait_for(process, lambda: text in (workdir / 'output').read_text())
  assert text in (workdir / 'output').read_text()


def parameters(workdir):
  return [params_of(workdir, which) for which in ('average', 'raw')]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """Returns the parameters of an undisturbed run."""
  workdir = tmp_path_factory.mktemp('runs') / 'whole'
  train(workdir)
  return parameters(workdir)


def last_step(workdir):
  """Returns the step of the newest complete checkpoint in the folder."""
  names = [path.name for path in (workdir / 'checkpoints').glob('*')]
  return max([0, *(int(name) for name in names if name.isdecimal())])


def kill_again_and_again(workdir, times, seed):
  """Kills a run that saves at every step at random moments.

  Checks after each that nothing is lost but what was not saved; returns the
  steps at which the run was killed.
  """
  rng = random.Random(seed)
  saved, startup = [], 2.0
  for _ in range(times):
    before = last_step(workdir)
    begun = time.monotonic()
    process = start(workdir, checkpoints__every=1)
    folder, seen, more = workdir / 'checkpoints', set(), rng.randrange(1, 9)

    def enough(folder=folder, seen=seen, more=more):
      # a checkpoint has two names, one of them while it is written
      if folder.is_dir():
        seen |= set(os.listdir(folder))
      return len(seen) >= more

    if rng.random() < 0.2:  # also before there is anything to save
      time.sleep(rng.uniform(0.1, startup))
    else:
      seen |= set(os.listdir(folder)) if folder.is_dir() else set()
      more += len(seen)
      wait_for(process, enough)
      startup = time.monotonic() - begun
      time.sleep(rng.uniform(0.0, 0.3))
    process.kill()
    assert process.wait() == -signal.SIGKILL
    said = (workdir / 'output').read_text()
    assert 'is damaged' not in said and 'error' not in said
    if ': step' in said:  # it began where the last complete save was
      assert f': step {before} of {STEPS}' in said
    saved.append(last_step(workdir))
    assert saved[-1] >= before
  return saved


@pytest.mark.processes
def test_a_stopped_and_a_killed_run_lose_nothing(whole, tmp_path):
  """SIGTERM ends with 42. Meanwhile a second training is refused."""
  workdir = tmp_path / 'run'
  process = start(workdir, checkpoints__every=7, log_every=1)
  wait_for_text(process, workdir, 'step 3: ')
  who = f'run is being trained by process {process.pid} on '
  with pytest.raises(UserError, match=who + socket.gethostname()):
    train(workdir)
  seen = last_step(workdir)
  wait_for(process, lambda: last_step(workdir) > seen)
  for _ in range(3):  # later signals change nothing
    process.send_signal(signal.SIGTERM)
    time.sleep(0.02)
  assert process.wait(HANG_SECONDS) == 42
  step = last_step(workdir)
  assert seen < step < COMPARED
  said = (workdir / 'output').read_text()
  assert said.endswith(f'stopped by SIGTERM at step {step}, saved; the same command continues\n')
  assert 'Traceback' not in said and 'error' not in said
  assert kill_again_and_again(workdir, 1, seed=0)[0] >= step
  train(workdir)
  assert_same(parameters(workdir), whole)


@pytest.mark.slow
def test_a_hundred_kills(tmp_path):
  """Kills 100 times, which takes at least 7 minutes."""
  workdir = tmp_path / 'run'
  saved = kill_again_and_again(workdir, 100, seed=1)
  assert saved[-1] < STEPS
  print(f'100 kills, {len(set(saved))} different steps: {saved}')
  for place in (workdir, tmp_path / 'whole'):
    train(place, num_steps=STEPS)
  assert not (workdir / 'damaged').exists()
  assert_same(parameters(workdir), parameters(tmp_path / 'whole'))


def start_two(workdir, **fields):
  """Starts two processes of one device each; the first writes `output`."""
  port = free_port()
  one = '--xla_force_host_platform_device_count=1'
  flags = [f for f in os.environ['XLA_FLAGS'].split() if 'count' not in f]
  env = os.environ | {'XLA_FLAGS': ' '.join([one, *flags])}
  fields = {'machine__mesh': (2, 1), 'machine__heartbeat_timeout': 10, 'log_every': 1} | fields
  where = ('--multihost', f'--coordinator=localhost:{port}', '--num_hosts=2')
  return [
    start(workdir, *where, f'--host={host}', said=f'output{host or ""}', env=env, **fields)
    for host in range(2)
  ]


@pytest.mark.processes
def test_sigterm_ends_other_modes_of_several_processes(tmp_path):
  """jax.distributed would ignore it."""
  config = smoke()
  facts = make_model(config, RunFolder.at(tmp_path)).facts
  folder.write_config(RunFolder.at(tmp_path), config, facts)
  code = f"""
import os, signal, sys, time
from diffusion_jax.app import cli
from diffusion_jax.app.modes import sample

def program(run):
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(30)

sample.main = program
args = ['--config={ROOT}/configs/digits.py:smoke', '--mode=sample']
args += ['--workdir={tmp_path}', '--multihost', '--num_hosts=1', '--host=0']
args += ['--coordinator=localhost:{free_port()}']
sys.argv = ['launch.py', *args]
cli.run()
"""
  result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, timeout=HANG_SECONDS)
  assert result.returncode == -signal.SIGTERM


def end_one_of_two(workdir, which, number, **fields):
  """Signals one of two; returns the exit codes, seconds and outputs."""
  both = start_two(workdir, **fields)
  wait_for_text(both[0], workdir, 'step ' + str(last_step(workdir) + 2) + ': ')
  both[which].send_signal(number)
  begun = time.monotonic()
  codes = [process.wait(HANG_SECONDS) for process in both]
  said = [(workdir / name).read_text() for name in ('output', 'output1')]
  return codes, time.monotonic() - begun, said


@pytest.mark.slow
def test_two_processes_stopped_and_killed_one_after_the_other(tmp_path):
  """In the end the parameters equal the result of two undisturbed processes."""
  undisturbed, workdir = tmp_path / 'undisturbed', tmp_path / 'run'
  assert [p.wait(HANG_SECONDS) for p in start_two(undisturbed)] == [0, 0]
  for which in (0, 1):
    before = last_step(workdir)
    codes, _, said = end_one_of_two(workdir, which, signal.SIGTERM)
    assert codes == [42, 42] and before < last_step(workdir)
    step = f'step {last_step(workdir)}'
    assert said[0].endswith(f'stopped by SIGTERM at {step}, saved; the same command continues\n')
    assert 'Traceback' not in ''.join(said)
  for which in (1, 0):
    before = last_step(workdir)
    codes, seconds, said = end_one_of_two(workdir, which, signal.SIGKILL, checkpoints__every=1)
    assert codes[1 - which] != 0 and before <= last_step(workdir)
    assert which == 0 or ('error: host 1 (' in said[0] and 'is lost' in said[0])
    print(f'lost host {which}: {seconds:.1f} s, from step {before}; it says:', said[1 - which])
  assert [p.wait(HANG_SECONDS) for p in start_two(workdir)] == [0, 0]
  assert_same(parameters(workdir), parameters(undisturbed))
