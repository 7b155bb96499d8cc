"""Two real processes of four simulated devices against one of eight."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.app.modes import MODES
from diffusion_jax.runtime import profiling, sharding
from diffusion_jax.weights import checkpoints, load
from tests.app import two_processes
from tests.app.conftest import kept, lines_of, params_of, smoke
from tests.conftest import HANG_SECONDS
from tests.runtime import test_sharding as plain

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures('signals')]

ROOT = Path(__file__).parents[2]


def free_port():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def environment(devices=4):
  flags = [f for f in os.environ['XLA_FLAGS'].split() if 'device_count' not in f]
  flags = [f'--xla_force_host_platform_device_count={devices}', *flags]
  return os.environ | {'XLA_FLAGS': ' '.join(flags), 'PYTHONPATH': str(ROOT)}


def start(*args, cwd=ROOT):
  return subprocess.Popen(
    [sys.executable, *map(str, args)],
    cwd=cwd,
    env=environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def wait(processes):
  """Returns [(return code, stdout, stderr)] of both processes."""
  try:
    said = [p.communicate(timeout=HANG_SECONDS) for p in processes]
  finally:
    for p in processes:
      p.kill()
  return [(p.returncode, *s) for p, s in zip(processes, said, strict=True)]


def run_both(what, folder):
  """Runs a function of two_processes.py in both processes."""
  port, module = free_port(), ('-m', 'tests.app.two_processes')
  return wait([start(*module, what, host, port, folder) for host in range(2)])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Runs two processes and one, in the folders two and one."""
  folder = tmp_path_factory.mktemp('multihost')
  first, second = run_both('everything', folder / 'two')
  # In the end the second process is killed.
  assert (first[0], second[0]) == (1, -9), first[2][-3000:] + second[2][-3000:]
  (folder / 'two' / 'errors').write_text(first[2])
  assert 'trained 2 steps' in first[1] and 'report.html: open it' in first[1]
  assert 'trained' not in second[1]  # the second process is silent
  with checkpoints.open_manager(folder / 'two' / 'run') as manager:
    steps = {'training.num_steps': manager.latest_step()}
  config = smoke(**two_processes.FIELDS | steps)
  run = folder / 'one' / 'run'
  MODES['train'](config, run)
  MODES['evaluate'](config, run)
  return folder


def largest_difference(a, b):
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return max(np.abs(np.asarray(x) - np.asarray(y)).max() for x, y in pairs)


def test_loss_and_gradients_are_those_of_one_device(folder):
  params, stored, _ = load.open(folder / 'two' / 'step', 'raw')
  expected, metrics = plain.alone()
  assert largest_difference(params, expected.params) < 1e-6  # the gradients
  loss = metrics['loss'].total / metrics['loss'].count
  assert_allclose(stored['loss'], loss, rtol=0, atol=1e-6)


@pytest.mark.parametrize('shape', [(1, 8), (2, 1), (1, 1)])
def test_what_two_processes_saved_is_restored_on_any_mesh(folder, shape):
  """Arrays are equal bit for bit, and split as requested."""
  mesh = sharding.make_mesh(*shape)
  state = plain.first_state()
  like = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    state,
    sharding.fsdp_sharding(mesh, state, min_size=64),
  )
  with checkpoints.open_manager(folder / 'two' / 'step') as manager:
    found = checkpoints.restore_latest(manager, like)
  whole = params_of(folder / 'two' / 'step', 'raw')
  assert largest_difference(found.params, whole) == 0.0
  places = [x.sharding for x in jax.tree.leaves(found)]
  assert places == [x.sharding for x in jax.tree.leaves(like)]


def test_a_run_of_two_processes_is_that_of_one(folder):
  one, two = (lines_of(folder / which / 'run') for which in ('one', 'two'))
  assert [line['step'] for line in two][:6] == [1, 2, 2, 3, 4, 4]
  for name in ('loss', 'test_loss'):  # of steps 1 to 4, and of step 4
    values = lambda lines, name=name: [
      line[name] for line in lines if name in line and line['step'] <= 4
    ]
    expected = values(one)
    found = values(two)[-len(expected) :]
    assert_allclose(found, expected, rtol=0, atol=1e-6)
  difference = largest_difference(*(params_of(folder / which / 'run') for which in ('one', 'two')))
  assert difference < 1e-4  # Adam's, whose sign of a gradient of 0 is noise


def test_each_process_writes_its_trace(folder):
  (trace,) = (folder / 'two' / 'run' / profiling.FOLDER).iterdir()
  assert trace.name == 'steps_2-2'
  assert {path.name for path in trace.iterdir()} == {'host_0.xplane.pb', 'host_1.xplane.pb'}


def test_an_image_of_two_processes_is_that_of_one(folder):
  """The checkpoint is the same; images are not rounded to grey levels."""
  two = np.load(folder / 'two' / 'images.npy')
  one = two_processes.images(folder / 'two' / 'run')
  assert_allclose(two, one, rtol=0, atol=1e-5)
  assert np.abs(two[0] - two[1]).max() > 0.1


def test_samples_and_bounds_of_two_processes_are_those_of_one(folder):
  evaluations = [folder / which / 'run/evaluation' for which in ('one', 'two')]
  one, two = (np.load(*x.glob('drawn/samples-????????.npz'))['arr_0'] for x in evaluations)
  assert one.shape == (16, 8, 8, 1)
  assert (one != two).mean() < 0.01  # of 17 grey levels
  one, two = (json.loads((kept(x, 'elbo-test') / 'result.json').read_text()) for x in evaluations)
  assert one['examples'] == two['examples'] == 20
  one, two = (x['metrics']['elbo']['value'] for x in (one, two))
  assert_allclose(one, two, rtol=1e-4)


def test_sigterm_to_one_process_stops_both_and_a_lost_one_is_named(folder):
  said = [(folder / 'two' / f'stopped{i}').read_text() for i in range(2)]
  assert said[0] == said[1]
  with checkpoints.open_manager(folder / 'two' / 'run') as manager:
    step = manager.latest_step()
  assert said[0].startswith(f'stopped by SIGTERM at step {step}, saved')
  assert 4 <= step < 10_000
  lines = (folder / 'two' / 'errors').read_text().splitlines()
  lines = [x for x in lines if x.startswith('error: ')]
  assert len(lines) == 1 and 'host 1 (' in lines[0] and 'is lost' in lines[0]


def test_an_error_in_one_process_ends_both(tmp_path):
  first, second = run_both('fail', tmp_path)
  assert first[0] == second[0] == 1
  assert 'RuntimeError: a bug' in second[2]
  assert 'error on host 1 of 2: stopped by the exception above' in second[2]
  assert 'error: host 1 (' in first[2] and 'has failed' in first[2]
