"""What the same bits on any number of devices cost: `training.machine.fixed_parts`.

  python -m benchmarks.fixed_parts configs/digits.py --devices=1,8
  python -m benchmarks.fixed_parts configs/digits_dit.py --devices=1,8 --batch_size=32

Compiles a config's training step without and with fixed parts, and runs both in
turn on simulated devices of the CPU. Printed for each number of devices: the least
processor time of a step, seconds, of all devices together; and XLA's temporary
memory of a device, MiB, beside the state and the batch.
"""

import argparse
import os
import time

import numpy as np

PARTS = 8


def main(config: str, batch_size: int, devices: list[int], rounds: int, parts: int) -> None:
  """Prints a line for each number of devices."""
  import jax
  import jax.numpy as jnp

  import diffusion_jax as dj
  from diffusion_jax.runtime import sharding

  def filled(shape):
    # Returns an array of small numbers, so that no gradient is 0.
    if not hasattr(shape, 'dtype'):
      return shape
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
      return jax.random.key(0)
    values = np.random.default_rng(0).standard_normal(shape.shape)
    return jax.device_put((0.05 * values).astype(shape.dtype), shape.sharding)

  for count in devices:
    mesh, steps = sharding.make_mesh(count, 1), {}
    for fixed in (None, parts):
      fields = {'training.batch_size': batch_size, 'training.machine.mesh': (count, 1)}
      fields |= {'training.machine.fixed_parts': fixed} if fixed else {}
      step, shapes = dj.training_step(config, fields, mesh)
      memory = step.lower(*shapes).compile().memory_analysis()
      assert memory is not None  # XLA:CPU says it
      steps[fixed] = step, jax.tree.map(filled, shapes), memory.temp_size_in_bytes / 2**20
    seconds = {fixed: [] for fixed in steps}
    for _ in range(rounds):
      for fixed, (step, (state, *others), _) in steps.items():
        state = jax.block_until_ready(jax.tree.map(_copy, state))  # the step takes its arrays
        start = time.process_time()
        jax.block_until_ready(step(state, *others))
        seconds[fixed].append(time.process_time() - start)
    plain, fixed = min(seconds[None]), min(seconds[parts])
    print(
      f'{config}, batch {batch_size}, {count} device{"s" * (count > 1)}: {plain:.3f} s', end=' '
    )
    print(f'and {fixed:.3f} s with fixed_parts={parts} ({fixed / plain:.2f} times),', end=' ')
    print(f'{steps[None][-1]:.0f} and {steps[parts][-1]:.0f} MiB', flush=True)


def _copy(x):
  return x.copy() if hasattr(x, 'copy') else x


if __name__ == '__main__':
  parser = argparse.ArgumentParser(prog='python -m benchmarks.fixed_parts')
  parser.add_argument('config', help='a file of configs/')
  parser.add_argument('--batch_size', type=int, default=64, help='examples of a step')
  parser.add_argument('--devices', default='1,8', help='numbers of simulated devices')
  parser.add_argument('--rounds', type=int, default=8, help='steps of each, of which the least')
  parser.add_argument('--parts', type=int, default=PARTS, help='fixed_parts')
  flags = parser.parse_args()
  devices = [int(x) for x in flags.devices.split(',')]
  # One thread for each device: so the time of waiting threads is not counted.
  os.environ['XLA_FLAGS'] = ' '.join(
    [
      os.environ.get('XLA_FLAGS', ''),
      f'--xla_force_host_platform_device_count={max(devices)}',
      '--xla_cpu_multi_thread_eigen=false',
    ]
  )
  main(flags.config, flags.batch_size, devices, flags.rounds, flags.parts)
