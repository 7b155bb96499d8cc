"""The files of cluster/: the SLURM script run, the others read by a schema."""

import os
import random
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.app.test_multihost import environment
from tests.conftest import HANG_SECONDS

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SCRIPT = 'cluster/slurm.sbatch'
# of JobSet's v1alpha2, api/jobset/v1alpha2/jobset_types.go
JOBSET_FIELDS = {
  '': {'replicatedJobs', 'network', 'successPolicy', 'failurePolicy', 'suspend',
       'startupPolicy', 'coordinator', 'managedBy', 'ttlSecondsAfterFinished',
       'volumeClaimPolicies'},
  'failurePolicy': {'maxRestarts', 'restartStrategy', 'rules'},
  'rule': {'name', 'action', 'onJobFailureReasons', 'targetReplicatedJobs',
           'onJobFailureMessagePatterns'},
  'replicatedJob': {'name', 'groupName', 'template', 'replicas', 'dependsOn'},
}  # fmt: skip


def submit(tmp_path, *args, **variables):
  """The script as SLURM runs it; (result, what scontrol was asked)."""
  log = tmp_path / 'scontrol'
  env = environment() | {
    'PATH': f'{HERE}:{os.environ["PATH"]}',
    'SCONTROL_LOG': str(log),
    'SLURM_SUBMIT_DIR': str(ROOT),
    # JAX takes the port from the job's number
    'SLURM_JOB_ID': str(random.randrange(4096)),
    **variables,
  }
  result = subprocess.run(
    ['bash', SCRIPT, *args],
    cwd=ROOT,
    env=env,
    capture_output=True,
    text=True,
    timeout=HANG_SECONDS,
  )
  asked = log.read_text().split() if log.exists() else []
  return result, asked, env['SLURM_JOB_ID']


def instead(tmp_path, text):
  """A program to stand for python."""
  path = tmp_path / 'python'
  path.write_text(f'#!/bin/bash\n{text}\n')
  path.chmod(0o755)
  return str(path)


CODES = {  # code, processes lost before: whether the job is queued again
  (0, 0): False,
  (1, 0): False,
  (2, 0): False,
  (42, 0): True,
  (42, 5): True,
  (134, 0): True,
  (137, 4): True,
  (137, 5): False,
}


@pytest.mark.parametrize('code, losses', CODES)
def test_a_job_is_queued_again_where_that_helps(tmp_path, code, losses):
  """However often it was preempted; SLURM counts these among its restarts."""
  # one task ends so, the other in peace
  python = instead(tmp_path, f'exit $((SLURM_PROCID * {code}))')
  comment = tmp_path / 'scontrol.comment'
  if losses:
    comment.write_text(f'losses={losses}')
  result, asked, job = submit(tmp_path, PYTHON=python, SLURM_RESTART_COUNT='99')
  assert result.returncode == code
  again = CODES[code, losses]
  assert asked == (['requeue', job] if again else [])
  counted = losses + (again and code != 42)
  found = comment.read_text().strip() if comment.exists() else 'losses=0'
  assert found == f'losses={counted}'


def test_a_loss_that_cannot_be_counted_ends_the_job(tmp_path):
  """Else it could be queued again for ever."""
  python = instead(tmp_path, 'exit 137')
  _, asked, _ = submit(tmp_path, PYTHON=python, SCONTROL_REFUSES='1')
  assert asked == []


@pytest.mark.parametrize('code', [42, 137])
def test_one_task_of_an_array_is_queued_again(tmp_path, code):
  """The last one's SLURM_JOB_ID is the number of the array."""
  python = instead(tmp_path, f'exit {code}')
  array = {'SLURM_ARRAY_JOB_ID': '70', 'SLURM_ARRAY_TASK_ID': '3'}
  _, asked, _ = submit(tmp_path, PYTHON=python, SLURM_JOB_ID='70', **array)
  assert asked == ['requeue', '70_3']


def test_arguments_reach_launch_and_an_array_is_a_sweep(tmp_path):
  python = instead(tmp_path, 'echo "$SLURM_PROCID: $*"')
  result, _, _ = submit(tmp_path, '--config=a b', PYTHON=python)
  lines = sorted(result.stdout.splitlines())
  assert lines == [f'{i}: launch.py --multihost --config=a b' for i in range(2)]
  result, _, _ = submit(
    tmp_path,
    '--config=c',
    PYTHON=python,
    SLURM_ARRAY_JOB_ID='70',
    SLURM_ARRAY_TASK_ID='3',
  )
  assert result.stdout.splitlines()[0].endswith(
    'launch.py --multihost --config=c --sweep_index=3'
  )


def test_jax_detects_the_tasks_of_slurm(tmp_path):
  python = instead(tmp_path, f'exec {sys.executable} -m tests.cluster.detect')
  result, _, _ = submit(tmp_path, PYTHON=python)
  assert result.returncode == 0, result.stderr
  assert '2 processes, 8 devices' in result.stdout


@pytest.mark.slow
def test_the_slurm_script_trains(tmp_path):
  args = '--config=configs/digits.py:smoke', f'--workdir={tmp_path}/run'
  result, asked, _ = submit(tmp_path, *args, PYTHON=sys.executable)
  assert result.returncode == 0 and not asked, result.stderr[-3000:]
  assert 'devices: 8x1' in result.stdout
  assert result.stdout.count('trained 4 steps') == 1
  assert (tmp_path / 'run' / 'checkpoints' / '4').is_dir()


@pytest.mark.parametrize('path', [SCRIPT, '.ci/run', *map(str, (
  HERE / 'srun', HERE / 'scontrol', HERE / 'squeue'
))])  # fmt: skip
def test_shellcheck_has_no_complaint(path):
  result = subprocess.run(
    ['shellcheck', '--shell=bash', path],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stdout


@pytest.mark.parametrize('name', ['jobset.yaml', 'jobset_tpu.yaml'])
def test_a_jobset_fits_the_schema_of_kubernetes(name):
  """Its jobs, strictly; of JobSet itself the names of fields."""
  jobset = yaml.safe_load((ROOT / 'cluster' / name).read_text())
  assert jobset['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  spec = jobset['spec']
  assert set(spec) <= JOBSET_FIELDS['']
  assert set(spec['failurePolicy']) <= JOBSET_FIELDS['failurePolicy']
  for rule in spec['failurePolicy']['rules']:
    assert set(rule) <= JOBSET_FIELDS['rule'] and rule['action'] == 'FailJobSet'
  for job in spec['replicatedJobs']:
    assert set(job) <= JOBSET_FIELDS['replicatedJob']
    whole = {'apiVersion': 'batch/v1', 'kind': 'Job', **job['template']}
    kubernetes_validate.validate(
      whole, kubernetes_validate.latest_version(), strict=True
    )
    work = job['template']['spec']
    assert work['parallelism'] == work['completions']  # all work at once


def test_the_schema_knows_a_misspelt_field():
  job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'spec': {'paralelism': 2}}
  with pytest.raises(kubernetes_validate.ValidationError):
    kubernetes_validate.validate(
      job, kubernetes_validate.latest_version(), strict=True
    )


def test_the_coordinator_of_the_jobset_is_its_first_pod():
  """<jobset>-<replicated job>-<job>-<pod>.<jobset>, of as many as there are."""
  jobset = yaml.safe_load((ROOT / 'cluster' / 'jobset.yaml').read_text())
  (job,) = jobset['spec']['replicatedJobs']
  name = jobset['metadata']['name']
  container = job['template']['spec']['template']['spec']['containers'][0]
  port = container['ports'][0]['containerPort']
  words = container['args'][0].split()
  assert f'--coordinator={name}-{job["name"]}-0-0.{name}:{port}' in words
  assert f'--num_hosts={job["template"]["spec"]["completions"]}' in words
