"""Runs in buckets of real servers: continued, killed, and used by other modes."""

import os
import resource
import subprocess
import sys
import time

import pytest

import diffusion_jax as dj
from diffusion_jax.app.modes import MODES
from diffusion_jax.runtime import run_folder
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.twins import DONE
from tests.app.conftest import arrays_of, as_flags, assert_same, lines_of, of_run, params_of, smoke
from tests.app.fields import within
from tests.app.test_multihost import environment
from tests.bucket_server import Amazon, Google, free_port, running
from tests.conftest import HANG_SECONDS
from tests.test_survival import FIELDS, ROOT

pytestmark = pytest.mark.processes

# A checkpoint takes seconds to upload, and a lock ends soon.
PROGRAM = """
import time
from diffusion_jax.runtime import run_folder, twins
run_folder.POLL, twins.PATIENCE, twins.LEASE = 0.05, {patience}, 3.0
put = twins.Twin._put
def slow(*args):
  time.sleep({pause})
  return put(*args)
twins.Twin._put = slow
from diffusion_jax.app import cli
cli.run()
"""
ADDRESS = 'gs://bucket/runs/digits'
SAVED = 'runs/digits/checkpoints'
SAMPLED = {'sampling.num_steps': 3, 'sampling.num_samples': 4}


@pytest.fixture(scope='module', params=[Google, pytest.param(Amazon, marks=pytest.mark.slow)])
def either(request, tmp_path_factory):
  with running(request.param, tmp_path_factory.mktemp('server')) as server:
    yield server


@pytest.fixture
def server(tmp_path):
  with running(Google, tmp_path / 'server') as server:
    yield server


def in_mode(mode, address, **changes):
  """Runs a mode on a machine that has no file of the run."""
  run_folder._twins.clear()
  run = RunFolder.at(address).path
  config = smoke(**changes) if mode == 'train' else of_run(run, **changes)
  with run_folder.copying(run):
    MODES[mode](config, run)


def test_every_mode_works_in_a_bucket(either, tmp_path, capsys):
  """The numbers equal the numbers of a folder, bit for bit."""
  address, local = f'{either.scheme}://bucket/runs/digits', tmp_path / 'local'
  fields = {'training.log_every': 1, 'training.checkpoints.every': 2}
  for steps in 4, 6:
    MODES['train'](smoke(**fields, **{'training.num_steps': steps}), local)
    in_mode('train', address, **fields, **{'training.num_steps': steps})
  MODES['sample'](of_run(local, **SAMPLED), local)
  in_mode('sample', address, **SAMPLED)
  in_mode('evaluate', address, **{'evaluation.metrics': ('elbo',), 'evaluation.num_images': 4})
  in_mode('report', address)
  assert str(RunFolder.at(address).path) not in capsys.readouterr().out
  run_folder._twins.clear()
  run = RunFolder.at(address).path
  assert lines_of(run, 'loss') == lines_of(local, 'loss')
  assert_same(params_of(address), params_of(local))
  name = 'samples-num_samples=4,num_steps=3'
  assert_same(arrays_of(run, name)['arr_0'], arrays_of(local, name)['arr_0'])
  assert (run / 'report.html').stat().st_size and [*(run / 'evaluation').rglob('result.json')]
  assert {path.name for path in (run / 'checkpoints').glob('*')} == {'4', '6'}
  opened = dj.open_run(address, num_steps=3)
  assert_same(opened.draw(4), arrays_of(local, name)['arr_0'])
  fields['training.num_steps'] = 4
  MODES['train'](smoke(**fields, **{'training.start.run': address}), tmp_path / 'begun')
  assert f'weights of {address}:' in capsys.readouterr().out


def start(machine, workdir, *flags, fields=(), patience=60, pause=0.05):
  """Starts a training on a machine of its own, with its output in a file."""
  machine.mkdir()
  usual = within('training', machine__mesh=(1, 1), checkpoints__every=20, checkpoints__keep=9)
  fields = FIELDS | usual | dict(fields)
  command = [sys.executable, '-u', '-c', PROGRAM.format(patience=patience, pause=pause)]
  command += [f'--config={ROOT}/configs/digits.py:smoke', f'--workdir={workdir}']
  command += [*(f'--config.{name}={value}' for name, value in as_flags(fields)), *flags]
  env = environment(devices=1) | {'TMPDIR': str(machine)}
  with (machine / 'output').open('w') as out:
    return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)


def wait_until(process, ready):
  end = time.monotonic() + HANG_SECONDS
  while not ready():
    assert process.poll() is None and time.monotonic() < end
    time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_run_continues_on_an_empty_machine(server, tmp_path):
  """The last loss equals a whole run's, bit for bit; one process trains."""
  saved = server.folder / SAVED

  def steps(pattern=f'*/{DONE}'):
    return {path.relative_to(saved).parts[0] for path in saved.glob(pattern)}

  whole = start(tmp_path / 'whole', tmp_path / 'run')
  first = start(tmp_path / 'first', ADDRESS, pause=0.5)
  wait_until(first, steps)
  second = start(tmp_path / 'second', ADDRESS)
  assert second.wait(HANG_SECONDS) == 2
  said = (tmp_path / 'second' / 'output').read_text()
  assert f'{ADDRESS} is being trained by process {first.pid} on ' in said
  assert len([line for line in said.splitlines() if line.startswith('error')]) == 1
  wait_until(first, lambda: steps('*/params') - steps())
  first.kill()  # within the upload of a checkpoint
  first.wait()
  before = steps()
  third = start(tmp_path / 'third', ADDRESS)
  wait_until(third, lambda: steps() - before)
  third.kill()  # after the upload of a checkpoint
  third.wait()
  last = start(tmp_path / 'last', ADDRESS)
  assert last.wait(HANG_SECONDS) == 0, (tmp_path / 'last' / 'output').read_text()[-2000:]
  said = (tmp_path / 'last' / 'output').read_text()
  assert 'does not renew its lock, which is taken over' in said and f'{ADDRESS}: step ' in said
  assert whole.wait(HANG_SECONDS) == 0
  run_folder._twins.clear()
  assert_same(params_of(ADDRESS, 'raw'), params_of(tmp_path / 'run', 'raw'))
  assert lines_of(RunFolder.at(ADDRESS).path)[-1]['loss'] == lines_of(tmp_path / 'run')[-1]['loss']
  assert os.listdir(tmp_path / 'last') == ['output']


@pytest.mark.slow
@pytest.mark.parametrize('returns', [True, False])
def test_a_server_that_does_not_answer(server, tmp_path, returns):
  """The training goes on; it ends in one line if the server does not return."""
  saved, output = server.folder / SAVED, tmp_path / 'machine' / 'output'
  process = start(tmp_path / 'machine', ADDRESS, patience=120 if returns else 1)
  wait_until(process, (saved / '20').exists)
  server.stop()
  if returns:
    wait_until(process, lambda: 'it is tried again' in output.read_text())
    server.start()
  assert process.wait(HANG_SECONDS) == 2 * (not returns)
  error = output.read_text().splitlines()[-1]
  if returns:
    assert (saved / '100' / DONE).exists()
  else:
    assert error.startswith(f'error: {ADDRESS} cannot be written: Cannot connect to host')
    assert 'the same command continues' not in error
    run = error.rpartition('the files are kept in ')[2]
    assert params_of(run)


@pytest.mark.slow
def test_a_full_server(server, tmp_path):
  resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
  process = start(tmp_path / 'machine', ADDRESS, patience=1)
  assert process.wait(HANG_SECONDS) == 2
  error = (tmp_path / 'machine' / 'output').read_text().splitlines()[-1]
  assert error.startswith(f'error: {ADDRESS} cannot be written: ')
  assert params_of(error.rpartition('the files are kept in ')[2])


@pytest.mark.slow
def test_several_processes_write_into_a_bucket(server, tmp_path):
  """Several processes without a common folder write a run, and one process continues it."""
  port = free_port()
  where = '--multihost', f'--coordinator=localhost:{port}', '--num_hosts=2'
  fields = within('training', num_steps=40, machine__mesh=(-1, 1))
  names = 'one', 'other'
  both = [
    start(tmp_path / name, ADDRESS, *where, f'--host={host}', fields=fields)
    for host, name in enumerate(names)
  ]
  for process, name in zip(both, names, strict=True):
    said = (tmp_path / name / 'output').read_text
    assert process.wait(HANG_SECONDS) == 0, said()[-2000:]
    assert os.listdir(tmp_path / name) == ['output']
  saved = server.folder / SAVED
  assert {path.parent.name for path in saved.glob(f'*/{DONE}')} == {'20', '40'}
  assert [*saved.glob('40/params/ocdbt.process_1/*')]
  assert [x['step'] for x in lines_of(server.folder / 'runs/digits') if 'loss' in x] == [20, 40]
  last = start(tmp_path / 'last', ADDRESS)
  assert last.wait(HANG_SECONDS) == 0
  assert f'{ADDRESS}: step 40 of 100' in (tmp_path / 'last' / 'output').read_text()
