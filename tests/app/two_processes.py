"""Each of two processes of test_multihost.py; argv is the name of a function,
the number of the process, the port and a folder."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np

from diffusion_jax.app import cli
from diffusion_jax.app.kinds.model import make_mesh
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run import weights
from diffusion_jax.app.run.drawing import generate
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.train import mode as train
from diffusion_jax.errors import Preempted
from diffusion_jax.runtime import processes, sharding
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training.step import make_train_step
from diffusion_jax.weights import checkpoints
from tests.app.conftest import smoke
from tests.runtime import test_sharding as plain

MESH = (2, 4)
IDLE = 300  # seconds that the first process waits for the end of the second
FIELDS = {
  'training.machine.mesh': (8, 1),  # parameters split as well: a minute more
  'training.held_out.every': 4,  # and at the last step
  'optimizer.decay_steps': 10_000,
  'sampling.batch_size': 12,  # not a multiple of the devices, and in two parts
  'sampling.num_steps': 3,
  'evaluation.metrics': ('elbo', 'fd'),
  'evaluation.features': 'pixels',
  'evaluation.num_generated': 16,
  'evaluation.num_images': 20,
  'evaluation.batch_size': 12,
  'evaluation.elbo.num_steps': 3,
}


def everything(folder):
  """Takes one step; trains, resumes, evaluates and samples; dies."""
  step(folder)
  run = folder / 'run'
  fields = {
    'training.num_steps': 2,
    'report.after_training': True,
    'training.machine.trace.first': 2,
    'training.machine.trace.steps': 1,
  }
  MODES['train'](smoke(**FIELDS, **fields), run)
  stop(run)
  MODES['evaluate'](smoke(**FIELDS), run)
  x = images(run)
  if processes.is_first():
    np.save(folder / 'images.npy', x)
  processes.wait_for_all('the images are saved')
  die()


def stop(run):
  """Trains; the second process gets SIGTERM after step 4."""
  fields = {'training.num_steps': 10_000, 'training.checkpoints.every': 10_000}

  def send():
    while '"step": 4,' not in (run / 'metrics.jsonl').read_text():
      time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)

  if not processes.is_first():
    threading.Thread(target=send, daemon=True).start()
  try:
    MODES['train'](smoke(**FIELDS, **fields), run)
  except Preempted as error:
    name = f'stopped{jax.process_index()}'
    (run.parent / name).write_text(f'{error}\n')


def images(run):
  """Returns samples of a run before they are rounded to grey levels."""
  config = smoke(**FIELDS)
  mesh, model = make_mesh(config), make_model(config, RunFolder.at(run))
  params = sharding.replicate(mesh, weights.restore(model)[0])
  index = np.arange(12)
  return generate(model, mesh)(params, index, {'label': index % 10})[0]


def step(folder):
  """Saves the step of test_sharding.py, with params split over processes."""
  mesh = sharding.make_mesh(*MESH)
  batch = plain.batch()
  rows = sharding.local_rows(mesh, 16)
  assert rows == slice(8 * jax.process_index(), 8 * jax.process_index() + 8)
  state = jax.device_get(plain.first_state())
  places = sharding.fsdp_sharding(mesh, state, min_size=64)
  state = jax.jit(lambda: state, out_shardings=places)()
  replicated = sharding.replicated(mesh)
  train_step = jax.jit(
    make_train_step(plain.OBJECTIVE, plain.DESCENT, lambda step: 0.25),
    out_shardings=(places, replicated),
  )
  mine = {name: x[rows] for name, x in batch.items()}
  key = jax.jit(lambda: jax.random.key(3), out_shardings=replicated)()
  state, metrics = train_step(state, sharding.to_global(mesh, mine), key)
  with checkpoints.open_manager(folder / 'step') as manager:
    loss = jax.device_get(metrics['loss'])
    checkpoints.save(manager, state, {'loss': float(loss.total / loss.count)})


def die():
  """Kills the second process while the first one waits."""
  if jax.process_index() == 1:
    os.kill(os.getpid(), signal.SIGKILL)
  time.sleep(IDLE)


def fail(folder):
  """Raises an internal error in the second process."""

  def program(config, workdir):
    if jax.process_index() == 1:
      raise RuntimeError('a bug')
    time.sleep(IDLE)

  train.main = program
  _, _, host, port, _ = sys.argv
  sys.argv = [
    'launch.py',
    '--config=configs/digits.py:smoke',
    f'--workdir={folder}',
    '--multihost',
    f'--coordinator=localhost:{port}',
    '--num_hosts=2',
    f'--host={host}',
  ]
  cli.run()


if __name__ == '__main__':
  what, host, port, folder = sys.argv[1:]
  if what == 'everything':
    processes.start(f'localhost:{port}', 2, int(host), 3)
  {'everything': everything, 'fail': fail}[what](Path(folder))
