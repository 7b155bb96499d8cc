"""The files of cluster/: the SLURM script is run, the others are validated."""

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
# Of v1alpha2, api/jobset/v1alpha2/jobset_types.go in the repository of JobSet.
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
  """Runs the script as SLURM does; returns (result, arguments of scontrol)."""
  log = tmp_path / 'scontrol'
  env = environment() | {
    'PATH': f'{HERE}:{os.environ["PATH"]}',
    'SCONTROL_LOG': str(log),
    'SLURM_SUBMIT_DIR': str(ROOT),
    # JAX derives the port from the job's number.
    'SLURM_JOB_ID': str(random.randrange(4096)),
    **variables,
  }
  result = subprocess.run(
    ['bash', SCRIPT, *args], cwd=ROOT, env=env, capture_output=True, text=True, timeout=HANG_SECONDS
  )
  return result, log.read_text().split() if log.exists() else []


def instead(tmp_path, text):
  """Returns a program that replaces python."""
  path = tmp_path / 'python'
  path.write_text(f'#!/bin/bash\n{text}\n')
  path.chmod(0o755)
  return str(path)


SOON, LATE = {'STARTUP_SECONDS': '0'}, {'STARTUP_SECONDS': '60'}
ARRAY = {'SLURM_ARRAY_JOB_ID': '70', 'SLURM_ARRAY_TASK_ID': '3'}
REFUSED = {'SCONTROL_REFUSES': '1'}


# losses in the job's comment (None: without one) before, and after
@pytest.mark.parametrize(
  'code, before, variables, again, after',
  [
    *((code, 0, SOON, '', 0) for code in (0, 1, 2, 13, 126, 127)),
    *((code, n, SOON, '70', n) for code in (42, 143) for n in (0, 5)),
    *((code, 0, LATE, '70', 1) for code in (42, 143)),
    *((code, 5, LATE, '', 5) for code in (42, 143)),
    (134, 0, SOON, '70', 1),
    (137, 4, SOON, '70', 5),
    (137, 5, SOON, '', 5),
    # A loss that cannot be counted could be queued again for ever.
    (137, None, SOON | REFUSED, '', 1),
    # The last task's SLURM_JOB_ID is the number of the array.
    (42, None, SOON | ARRAY, '70_3', None),
    (137, None, SOON | ARRAY, '70_3', 1),
  ],
)
def test_a_job_is_queued_again_if_that_helps(tmp_path, code, before, variables, again, after):
  """Preemptions, which SLURM counts among its restarts, do not matter."""
  # One task ends with the code, the other with 0.
  python = instead(tmp_path, f'exit $((SLURM_PROCID * {code}))')
  comment = tmp_path / 'scontrol.comment'
  if before is not None:
    comment.write_text(f'losses={before}\n')
  result, asked = submit(
    tmp_path, PYTHON=python, SLURM_RESTART_COUNT='99', SLURM_JOB_ID='70', **variables
  )
  assert result.returncode == code
  assert asked == (['requeue', again] if again else [])
  found = comment.read_text() if comment.exists() else None
  assert found == (None if after is None else f'losses={after}\n')


@pytest.mark.parametrize('array', [{}, ARRAY])
def test_tasks_get_the_arguments_the_index_of_a_sweep_and_cpus(tmp_path, array):
  text = 'echo "$SLURM_PROCID, $SLURM_CPUS_PER_TASK CPUs: $*"'
  result, _ = submit(
    tmp_path, '--config=a b', PYTHON=instead(tmp_path, text), SLURM_CPUS_PER_TASK='8', **array
  )
  index = ' --sweep_index=3' if array else ''
  assert sorted(result.stdout.splitlines()) == [
    f'{i}, 8 CPUs: launch.py --multihost --config=a b{index}' for i in range(2)
  ]


@pytest.mark.processes
def test_jax_detects_the_tasks_of_slurm(tmp_path):
  python = instead(tmp_path, f'exec {sys.executable} -m tests.cluster.detect')
  result, _ = submit(tmp_path, PYTHON=python)
  assert result.returncode == 0, result.stderr
  assert '2 processes, 8 devices' in result.stdout


@pytest.mark.parametrize(
  'path',
  [
    SCRIPT,
    '.ci/run',
    '.ci/compilers',
    *(str(HERE / name) for name in ('srun', 'scontrol', 'squeue')),
  ],
)
def test_shellcheck_has_no_complaint(path):
  command = ['shellcheck', '--shell=bash', path]
  result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == 0, result.stdout


@pytest.mark.parametrize('name', ['jobset.yaml', 'jobset_tpu.yaml'])
def test_a_jobset_fits_the_schema_of_kubernetes(name):
  """Checks its jobs strictly, and the names of JobSet's own fields."""
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
    kubernetes_validate.validate(whole, kubernetes_validate.latest_version(), strict=True)
    work = job['template']['spec']
    assert work['parallelism'] == work['completions']  # all work at once


def test_the_coordinator_of_the_jobset_is_its_first_pod():
  """The name of a pod is <jobset>-<replicated job>-<job>-<pod>.<jobset>."""
  jobset = yaml.safe_load((ROOT / 'cluster' / 'jobset.yaml').read_text())
  (job,) = jobset['spec']['replicatedJobs']
  name = jobset['metadata']['name']
  container = job['template']['spec']['template']['spec']['containers'][0]
  port = container['ports'][0]['containerPort']
  words = container['args'][0].split()
  assert f'--coordinator={name}-{job["name"]}-0-0.{name}:{port}' in words
  assert f'--num_hosts={job["template"]["spec"]["completions"]}' in words
