"""What a coupling changes: how straight flows are, and the law of each class.

  python -m benchmarks.couplings                      # noise to two moons
  python -m benchmarks.couplings --source=gaussians   # eight Gaussians to two moons
  python -m benchmarks.couplings --source=gaussians --classes

The laws are torchcfm's (Tong et al. 2023): Gaussians of the covariance
0.1^(1/2) I on a circle of radius 5, and 3 (moons + a shift by u (1, 1), u ~
U(0, 0.2)) - 1. Flow matching trains the MLP of `benchmarks.flow_maps` (4 x 128)
by Adam, 1e-3 on a cosine, batches of 256, an average of 0.999. `schrodinger` is
the bridge of diffusion 1, by the ODE and, in a second row, by the diffusion.

Figures are the 2-Wasserstein distance of 1,000 samples in 1, 2, 4, 8 and 100
steps of Euler's method, or of the bridge, to as many draws of the data, by the
best assignment (`floor`: of two sets of draws), and the normalised path energy
of 100 steps, |E[integral of |v|^2 dt] - W2^2(source, data)| / W2^2(source,
data). With --classes the network sees the moon, and distances are means over
the moons.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import diffusion_jax as dj
from benchmarks.flow_maps import SCHEDULE, first_params, mlp
from diffusion_jax.bridges import objective as bridges
from diffusion_jax.bridges.equations import (
  bridge_error,
  bridge_sample,
)
from diffusion_jax.bridges.sampler import bridge_sampler
from diffusion_jax.core.couplings import squared_distances
from diffusion_jax.training import couplings

CHUNK, BATCH, DRAWS, STEPS = 250, 256, 1000, (1, 2, 4, 8, 100)
# name: the coupling, and whether it sees the classes
METHODS = {
  'independent': (None, False),
  'exact': (couplings.exact_coupling(), False),
  'sinkhorn': (couplings.sinkhorn_coupling(), False),
  'exact_of_class': (couplings.exact_coupling(), True),
  'schrodinger': (bridges.schrodinger_coupling(1.0), False),
}
# of methods that are not flow matching
DIFFUSION = {'schrodinger': 1.0}


def moons(key, count):
  """Draws x0 [count, 2] and the moon of each, [count]."""
  moon_key, angle_key, shift_key = jax.random.split(key, 3)
  label = jax.random.randint(moon_key, (count,), 0, 2)
  angle = jnp.pi * jax.random.uniform(angle_key, (count,))
  outer = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
  inner = jnp.array([[1.0, 0.5]]) - outer
  shift = 0.2 * jax.random.uniform(shift_key, (count, 1))
  return 3.0 * (jnp.where(label[:, None] == 0, outer, inner) + shift) - 1.0, label


def gaussians(key, count):
  """Draws from eight Gaussians on a circle, [count, 2]."""
  mode_key, key = jax.random.split(key)
  angle = 0.25 * jnp.pi * jax.random.randint(mode_key, (count,), 0, 8)
  centre = 5.0 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
  return centre + 0.1**0.25 * jax.random.normal(key, (count, 2))


def noise(key, count):
  """Draws standard normal noise, [count, 2]."""
  return jax.random.normal(key, (count, 2))


SOURCES = {'noise': noise, 'gaussians': gaussians}


def velocity(params, x, t, label):
  """Computes dx/dt of x [B, 2]; the class is the network's second number.

  For a bridge the output has z too, [B, 4].
  """
  return mlp(params, x, jnp.broadcast_to(t, label.shape), {'elapsed': label.astype(float)})


def train(method, source, classes, seed, steps):
  """Returns averaged parameters and seconds of processor time."""
  coupling, sees_classes = METHODS[method]
  diffusion = DIFFUSION.get(method, 0.0)
  adam = optax.adam(optax.cosine_decay_schedule(1e-3, steps))

  def loss(params, key):
    data_key, source_key, pair_key, time_key = jax.random.split(key, 4)
    x0, label = moons(data_key, BATCH)
    y = source(source_key, BATCH)
    if coupling is not None:
      y = y[coupling(pair_key, x0, y, {'label': label} if sees_classes else {})]
    t = jax.random.uniform(time_key, (BATCH,))
    z = jax.random.normal(jax.random.fold_in(time_key, 1), y.shape) if diffusion else 0.0 * y
    xt = bridge_sample(x0, y, z, t, diffusion)
    output = velocity(params, xt, t, label if classes else jnp.zeros_like(label))
    return jnp.mean(bridge_error(bridges.predicted(output, diffusion), x0, y, z))

  def step(carry, key):
    params, state, average = carry
    changes, state = adam.update(jax.grad(loss)(params, key), state)
    params = optax.apply_updates(params, changes)
    return (params, state, optax.incremental_update(params, average, 1e-3)), None

  @jax.jit
  def chunk(carry, key):
    return jax.lax.scan(step, carry, jax.random.split(key, CHUNK))[0]

  params = first_params(jax.random.key(seed), 4 if diffusion else 2)
  begin = time.process_time()
  carry = params, adam.init(params), params
  for key in jax.random.split(jax.random.key(seed + 1), steps // CHUNK):
    carry = jax.block_until_ready(chunk(carry, key))
  return carry[2], time.process_time() - begin


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def paths(params, y, label, steps, diffusion=0.0, stochastic=False):
  """Follows the flow from y [B, 2] to data; returns x [steps + 1, B, 2]."""

  def predict(x, t):
    return bridges.predicted(velocity(params, x, t, label), diffusion)

  levels = dj.level_grid(SCHEDULE, steps)
  return dj.trajectory(
    jax.random.key(98), predict, bridge_sampler(diffusion, stochastic), levels, y
  )


def wasserstein(x, y):
  """Computes W2 of two sets of as many points by their best assignment."""
  cost = squared_distances(x, y)
  return float(jnp.sqrt(jnp.mean(cost[jnp.arange(len(x)), couplings.exact(cost)])))


def figures(params, source, classes, *how):
  """Returns {steps: W2} and the normalised path energy; how: see `paths`."""
  keys = jax.random.split(jax.random.key(99), 3)
  (x0, label), y = moons(keys[0], DRAWS), source(keys[1], DRAWS)
  other, other_label = moons(keys[2], DRAWS)
  groups = [(label == k, other_label == k) for k in range(2)] if classes else [(label >= 0,) * 2]

  def distance(x):
    parts = [(x[a], other[b]) for a, b in groups]
    sizes = [min(map(len, part)) for part in parts]
    return np.mean([wasserstein(a[:n], b[:n]) for (a, b), n in zip(parts, sizes, strict=True)])

  seen = label if classes else jnp.zeros_like(label)
  table = {n: distance(paths(params, y, seen, n, *how)[-1]) for n in STEPS}
  way = paths(params, y, seen, STEPS[-1], *how)
  energy = STEPS[-1] * np.mean(np.sum(np.square(np.diff(way, axis=0)), axis=(0, 2)))
  least = wasserstein(y, x0) ** 2
  return table | {'floor': distance(x0)}, abs(energy - least) / least


def main():
  """Prints a row for each method."""
  parser = argparse.ArgumentParser(prog='python -m benchmarks.couplings')
  parser.add_argument('--source', choices=SOURCES, default='noise')
  parser.add_argument('--classes', action='store_true', help='the network sees the moon')
  parser.add_argument('--methods', nargs='+', choices=METHODS, default=METHODS)
  parser.add_argument('--steps', type=int, default=2000, help='of each training')
  parser.add_argument('--seeds', type=int, default=1, help='number of trainings')
  args = parser.parse_args()
  source = SOURCES[args.source]
  for method in args.methods:
    for seed in range(args.seeds):
      params, seconds = train(method, source, args.classes, seed, args.steps)
      for stochastic in (False, True)[: 1 + (method in DIFFUSION)]:
        diffusion = DIFFUSION.get(method, 0.0)
        table, energy = figures(params, source, args.classes, diffusion, stochastic)
        row = '  '.join(f'{n}: {x:.3f}' for n, x in table.items())
        row += f'  path energy {energy:.3f}' * (not stochastic)
        print(f'{method:15} {seconds:.0f} s  W2 {row}', flush=True)


if __name__ == '__main__':
  main()
