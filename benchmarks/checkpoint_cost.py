"""Time of a checkpoint: the waiting loop, the disk, the checksums.

  python -m benchmarks.checkpoint_cost                   # 35.7 M parameters
  python -m benchmarks.checkpoint_cost --config=digits --folder=/scratch/x

The state is that of the config (weights, average, both moments of Adam), filled
with random numbers, which do not compress as the zeros of a first step do. Each
round saves it once, as training does, with nothing else being saved.
"""

import importlib
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from diffusion_jax import build, families
from diffusion_jax.programs import train
from diffusion_jax.training import checkpoints, checksums

flags.DEFINE_string('config', 'cifar10', 'A file of configs/.')
flags.DEFINE_string('folder', None, 'Where to write; default: a temporary one.')
flags.DEFINE_integer('rounds', 5, 'Saves.')


def random_state(config):
  """Returns a state of the config's shapes on one device."""
  optimizer = build.build_optimizer(config)
  decays = build.build_ema_decays(config)
  mesh = build.build_mesh(config)
  objective = families.of(config).objective(config)
  _, like = train.state_maker(config, objective, optimizer, decays, mesh)
  rng = np.random.default_rng(0)

  def fill(x):
    if not np.issubdtype(x.dtype, np.floating):
      return jax.device_put(np.ones(x.shape, x.dtype), x.sharding)
    values = rng.standard_normal(x.shape, np.float32).astype(x.dtype)
    return jax.device_put(values, x.sharding)

  return jax.tree.map(fill, like), like


def seconds(function, *args):
  """Returns (the result of a call, its seconds)."""
  begin = time.perf_counter()
  result = function(*args)
  return result, time.perf_counter() - begin


def measure(config, folder, rounds):
  """Prints the times of saving and restoring one state."""
  state, like = random_state(config)
  leaves = jax.tree.leaves(state)
  count = sum(x.size for x in jax.tree.leaves(state.params))
  size = sum(x.nbytes for x in leaves)
  print(f'{count:,} parameters, {len(leaves)} arrays, {size / 1e6:.0f} MB')
  times = {'the loop waits': [], 'until it is complete': [], 'of it sums': []}
  manager = checkpoints.open_manager(folder, keep=1)
  saved = Path(manager.directory)
  for i in range(1, rounds + 1):
    step = jax.device_put(np.int32(i), state.step.sharding)
    state = jax.block_until_ready(state._replace(step=step))
    _, blocked = seconds(checkpoints.save, manager, state, {})
    _, rest = seconds(manager.wait_until_finished)
    saved = Path(manager.directory) / str(i)
    _, sums = seconds(checksums.write, saved)
    for name, x in zip(times, (blocked, blocked + rest, sums), strict=True):
      times[name].append(x)
  checkpoints.finish(manager)
  on_disk = sum(p.stat().st_size for p in saved.rglob('*') if p.is_file())
  print(f'on disk {on_disk / 1e6:.0f} MB')
  manager, times['checked'] = _listed(
    *seconds(checkpoints.open_manager, folder, 1)
  )
  restore = checkpoints.restore_latest
  found, times['restored'] = _listed(*seconds(restore, manager, like))
  jax.tree.map(np.testing.assert_array_equal, found, state)
  for name, x in times.items():
    print(
      f'{name}: median {statistics.median(x):.3f} s, '
      f'{min(x):.3f}..{max(x):.3f} of {len(x)}'
    )


def _listed(result, time):
  return result, [time]


def main(_):
  """Measures the checkpoints of a config."""
  name = flags.FLAGS.config
  config = importlib.import_module(f'configs.{name}').get_config()
  config.training.mesh = (1, 1)
  with tempfile.TemporaryDirectory(dir=flags.FLAGS.folder) as folder:
    measure(config, folder, flags.FLAGS.rounds)


if __name__ == '__main__':
  app.run(main)
