"""cluster/slurm.sbatch under a real SLURM with two nodes on one machine."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.app.conftest import assert_same, params_of
from tests.app.test_multihost import environment, free_port
from tests.cluster.test_cluster import ROOT, SCRIPT, instead
from tests.conftest import HANG_SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('signals')]
PROGRAMS = 'munged', 'slurmctld', 'slurmd', 'sbatch'
STEPS = 100
# JAX takes the first node as the coordinator, so its name must resolve, and the
# other node's name must sort after it.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=10
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=1
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16
NodeName={host}-b NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16
PartitionName=low Nodes=ALL Default=YES PriorityTier=1
PartitionName=high Nodes=ALL PriorityTier=2
"""


def run(*command, **variables):
  """Runs a command of SLURM; returns its output."""
  env = environment(devices=1) | variables
  result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  return result.stdout.strip()


@pytest.fixture(scope='module', autouse=True)
def cluster(tmp_path_factory):
  """Starts SLURM's daemons; the commands find them by SLURM_CONF."""
  missing = [name for name in PROGRAMS if not shutil.which(name)]
  if missing or os.geteuid():
    pytest.skip(
      f'SLURM needs root, and {", ".join(missing) or "nothing else"}: '
      'apt-get install slurm-wlm munge'
    )
  folder, host = tmp_path_factory.mktemp('slurm'), socket.gethostname()
  folder.chmod(0o755)
  (folder / 'state').mkdir()
  key = folder / 'munge.key'
  key.write_bytes(os.urandom(64))
  key.chmod(0o600)
  config = folder / 'slurm.conf'
  ports = [free_port() for _ in range(3)]
  config.write_text(CONFIG.format(folder=folder, host=host, ports=ports))
  munge = [
    f'--{name}={folder}/munge.{end}'
    for name, end in {
      'socket': 'socket',
      'key-file': 'key',
      'pid-file': 'pid',
      'log-file': 'log',
      'seed-file': 'seed',
    }.items()
  ]
  commands = (
    ['munged', '--force', '--foreground', *munge],
    ['slurmctld', '-D'],
    ['slurmd', '-D', '-N', host],
    ['slurmd', '-D', '-N', f'{host}-b'],
  )
  daemons = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('SLURM_CONF', str(config))
    try:
      for command in commands:
        daemons.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        time.sleep(1)
      wait_for(lambda: run('sinfo', '--noheader', '--format=%T') == 'idle')
      yield
    finally:
      subprocess.run(['scancel', '--user=root'])
      for daemon in reversed(daemons):
        daemon.terminate()
        daemon.wait(HANG_SECONDS)


def wait_for(ready):
  end = time.monotonic() + HANG_SECONDS
  while not ready():
    assert time.monotonic() < end
    time.sleep(0.5)


def submit(folder, *args, options=(), **variables):
  """Submits the script for two tasks without GPUs; returns the job's number."""
  return run(
    'sbatch', '--parsable', '--nodes=2', '--ntasks-per-node=1',
    '--cpus-per-task=2', '--gpus-per-node=0', f'--output={folder}/output-%a',
    *options, SCRIPT, *args, **variables,
  )  # fmt: skip


def states(job):
  """Returns the states of an array's tasks, or a job's state in a list."""
  return run(
    'squeue', '--states=all', '--array', '--noheader', '--format=%T', f'--jobs={job}'
  ).split()


def wait(job):
  """Waits for the end of a job; returns its states."""
  going = {'PENDING', 'RUNNING', 'COMPLETING', 'CONFIGURING', 'REQUEUED'}
  wait_for(lambda: not going & set(states(job)))
  return states(job)


def stand_in(folder, code):
  """Returns a program that prints its start and exits with `code` in bash."""
  folder.mkdir()
  text = 'echo "start on $SLURM_CPUS_PER_TASK CPUs: $*"'
  return instead(folder, f'{text}\nstarts=${{SLURM_RESTART_COUNT:-0}}\n{code}')


def starts(folder, name='output-4294967294'):
  """Counts the starts of the first task."""
  text = (folder / name).read_text()
  count = text.count('start on 2 CPUs: launch.py --multihost --config=c')
  return count // 2


def test_jobs_start_again_where_that_helps(tmp_path):
  """Two losses and two preemptions, an array, a python that cannot run."""
  codes = stand_in(tmp_path / 'codes', 'codes=(137 42 42 137 0)\nexit ${codes[starts]}')
  array = stand_in(
    tmp_path / 'array', 'sleep 3\n((SLURM_ARRAY_TASK_ID == 2 && starts == 0)) && kill -9 $$\nexit 0'
  )
  mistake = stand_in(tmp_path / 'mistake', '')
  Path(mistake).chmod(0o644)
  c, three = '--config=c', ['--array=0-2']
  jobs = [
    submit(tmp_path / 'codes', c, PYTHON=codes, MAX_RESTARTS='2', STARTUP_SECONDS='0'),
    submit(tmp_path / 'array', c, PYTHON=array, options=three),
    submit(tmp_path / 'mistake', PYTHON=mistake),
  ]
  done = ['COMPLETED']
  assert [wait(job) for job in jobs] == [done, done * 3, ['FAILED']]
  assert starts(tmp_path / 'codes') == 5
  counts = [starts(tmp_path / 'array', f'output-{i}') for i in range(3)]
  assert counts == [1, 1, 2]
  assert 'restart 1' not in (tmp_path / 'mistake/output-4294967294').read_text()


def process_of(job, task):
  """Returns the number of the process that is task `task` of a job."""
  marks = {
    f'{name}={value}'.encode()
    for name, value in {'SLURM_JOB_ID': job, 'SLURM_PROCID': task}.items()
  }
  for path in Path('/proc').glob('[0-9]*/environ'):
    try:
      command = (path.parent / 'cmdline').read_bytes()
      if b'launch.py' in command and marks <= set(path.read_bytes().split(b'\0')):
        return int(path.parent.name)
    except OSError:
      continue
  raise AssertionError(f'task {task} of job {job} does not run')


def train(folder):
  """Submits a training, with its output in a new folder."""
  folder.mkdir()
  fields = {
    'training.num_steps': STEPS,
    'training.log_every': 1,
    'training.checkpoints.every': 10,
    'training.sample_every': 0,
    'training.held_out': None,
    'training.machine.mesh': '2,1',
    'training.machine.heartbeat_timeout': 10,
    'report.after_training': False,
    'network.multipliers': '1,',
    'network.attention_resolutions': '',
    'network.middle_attention': 'none',
  }
  flags = [f'--config.{name}={value}' for name, value in fields.items()]
  return submit(
    folder,
    '--config=configs/digits.py:smoke',
    f'--workdir={folder}/run',
    *flags,
    PYTHON=sys.executable,
    STARTUP_SECONDS='0',
  )


def trained(folder):
  """Returns the number of steps in metrics.jsonl."""
  path = folder / 'run' / 'metrics.jsonl'
  return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_training_preempted_and_one_of_its_processes_killed(tmp_path):
  """The parameters equal an undisturbed job's, bit for bit."""
  undisturbed = train(tmp_path / 'whole')
  assert wait(undisturbed) == ['COMPLETED']
  folder = tmp_path / 'disturbed'
  job, output = train(folder), folder / 'output-4294967294'
  wait_for(lambda: trained(folder) > 3)
  run('sbatch', '--partition=high', '--nodes=2', '--exclusive', '--wrap=true')
  wait_for(lambda: 'stopped by SIGTERM' in output.read_text())
  before = trained(folder)
  assert before < STEPS
  wait_for(lambda: trained(folder) > before + 3)
  os.kill(process_of(job, 1), signal.SIGKILL)
  wait_for(lambda: 'counts as a lost process' in output.read_text())
  assert trained(folder) < STEPS
  assert wait(job) == ['COMPLETED']
  assert 'Comment=losses=1' in run('scontrol', 'show', 'job', job)
  for which in ('average', 'raw'):
    assert_same(params_of(tmp_path / 'whole' / 'run', which), params_of(folder / 'run', which))
