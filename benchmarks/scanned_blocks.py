"""Time to compile a transformer of 4 and of 28 blocks, which are scanned.

  python -m benchmarks.scanned_blocks

Compiles the gradient of a loss of DiT-S/2's width on 8x8 images, in turns, and
prints the CPU time of each and the ratio of the medians.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from diffusion_jax.networks.transformer import DiT


def compile_time(depth):
  """Returns the seconds of CPU time to trace and compile a gradient."""
  network = DiT(384, depth, 6, 2, 1, num_classes=10)
  x, noise = jnp.zeros((2, 8, 8, 1)), jnp.zeros(2)
  cond = {'label': jnp.zeros(2, int)}
  params = jax.eval_shape(network.init, jax.random.key(0), x, noise, cond)

  def loss(params):
    out: Any = network.apply(params, x, noise, cond)
    return jnp.sum(out**2)

  jax.clear_caches()
  start = time.process_time()
  jax.jit(jax.grad(loss)).lower(params).compile()
  return time.process_time() - start


def main(argv):
  """Measures five times each, in turns."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  found = {4: [], 28: []}
  for i in range(6):
    for depth, times in found.items():
      seconds = compile_time(depth)
      if i:  # the first warms up
        times.append(seconds)
  middle = {depth: np.median(times) for depth, times in found.items()}
  for depth, times in found.items():
    print(f'{depth} blocks: {middle[depth]:.2f} s', np.round(times, 2))
  print(f'28 blocks / 4 blocks: {middle[28] / middle[4]:.2f}')


if __name__ == '__main__':
  app.run(main)
