"""Two processes that do not do the same work, as on two hosts."""

import re

import numpy as np
import pytest

from diffusion_jax.runtime import hosts
from tests.app.test_multihost import ROOT, free_port, start, wait

WORKDIR = '--workdir={folder}/run'
CASES = {  # the flags of both processes, and what both say of process 1
  'folders': (
    ['--config=configs/digits.py:smoke', '--workdir={folder}/run{host}'],
    'does not see what host 0 .* writes in .*/run1: all hosts need one run folder. Give a '
    '--workdir that they share',
  ),
  'rates': (
    ['--config=configs/digits.py:smoke', WORKDIR, '--config.optimizer.learning_rate=1e-{host}'],
    'has other settings than host 0 .*: optimizer.learning_rate is 0.1, not 1.0. Start the same ',
  ),
  'steps': (
    ['--config=configs/digits.py:smoke', WORKDIR, '--config.training.num_steps=1{host}'],
    'has other settings than host 0 .*: training.num_steps is 11, not 10. Start the same ',
  ),
  'data': (
    ['--config=configs/vectors.py:smoke', WORKDIR, '--config.data.path=table.npz'],
    'has other data than host 0 .*: checksum is .*; x.mean is .*; x.std is ',
  ),
}


@pytest.mark.processes
@pytest.mark.parametrize(
  'name', [x if x == 'folders' else pytest.param(x, marks=pytest.mark.slow) for x in CASES]
)
def test_hosts_that_differ_say_how_and_end(name, tmp_path):
  flags, message = CASES[name]
  port, processes = free_port(), []
  for host in range(2):
    folder = tmp_path / f'host{host}'  # with a table of its own
    folder.mkdir()
    np.savez(folder / 'table.npz', x=np.random.default_rng(host).normal(size=(200, 2)))
    own = [flag.format(folder=tmp_path, host=host) for flag in flags]
    where = f'--coordinator=localhost:{port}', '--num_hosts=2', f'--host={host}'
    processes.append(start(ROOT / 'launch.py', '--multihost', *where, *own, cwd=folder))
  for host, (code, printed, errors) in enumerate(wait(processes)):
    assert code == 2, errors
    line = errors.splitlines()[-1]
    assert re.search(rf'^error on host {host} of 2: host 1 \(.*\) {message}', line), line
    assert 'step 0' not in printed
  if name != 'data':
    assert not list(tmp_path.rglob('config.json'))
  assert not list(tmp_path.rglob('*.tmp'))


def test_differences_name_the_fields():
  first, other = {'a': 1, 'b': [1, 2], 'c': 0.5}, {'a': 1, 'b': [1, 3], 'd': 'x'}
  expected = 'b is [1, 3], not [1, 2]; c is absent, not 0.5; d is x, not absent'
  assert hosts._differences(first, other) == expected
  assert hosts._differences(first, other, 2) == f'{expected.rpartition(";")[0]}; and 1 more'
  assert hosts._differences(first, first) == ''
