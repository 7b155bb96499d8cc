"""A series that is continued: levels of its own for each number, in training and in sampling.

  python examples/rollout.py    # draws rollout.png

x_i = rho x_{i-1} + noise has a law that is known: h steps after the value a the mean is rho^h a
and the variance 1 - rho^{2 h}. configs/rollout.py:causal is the same with the program's options.
"""

import argparse

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import diffusion_jax as dj
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.training import optimizer

STEPS, BATCH = 3000, 128
WINDOW, RHO = 32, np.exp(-1 / 4)  # numbers that the network sees; their correlation
GIVEN, FURTHER, STRIDE = 8, 56, 16

schedule = dj.RectifiedFlowSchedule()
dit = DiT(channels=64, num_blocks=3, num_heads=4, patch_size=1, out_channels=1, causal=1)
root = np.linalg.cholesky(RHO ** np.abs(np.subtract.outer(*[np.arange(WINDOW)] * 2)))
adam, rate = optimizer.optimizer_and_rate(
  STEPS, learning_rate=2e-3, warmup_steps=100, decay='cosine'
)


def apply(params, x, noise, cond, *, key=None):
  """Evaluates the network; noise [B, T], or [B] with one level for an example."""
  return dit.apply({'params': params}, x, noise)


network = dj.Network(apply, dj.time_input(1000.0), parametrization='flow', level_axes=2)


def loss(params, key):
  """Computes |v - v_hat|^2 at independent levels (Chen et al. 2024, Alg. 1)."""
  x_key, level_key, eps_key = jax.random.split(key, 3)
  x0 = (jax.random.normal(x_key, (BATCH, WINDOW)) @ root.T)[..., None]
  draw = dj.independent_levels(clean=0.1)
  level, weight = draw(level_key, x0.shape[:2], dj.uniform_times, schedule)
  eps = jax.random.normal(eps_key, x0.shape)
  output = network.output(params, dj.q_sample(x0, eps, level), level)
  return (
    dj.denoising_loss('flow', output, x0, eps, level, dj.flow_weight).mean() / weight.sum(1).mean()
  )


@jax.jit
def step(state, i):
  """Takes one step of Adam, and of the average of the parameters."""
  params, average, moments = state
  value, grads = jax.value_and_grad(loss)(params, jax.random.fold_in(jax.random.key(0), i))
  updates, moments = adam.update(grads, moments, params)
  params = optax.apply_updates(params, jax.tree.map(lambda x: rate(i) * x, updates))
  average = optax.incremental_update(params, average, jnp.maximum(0.002, 1 / (1 + i)))
  return (params, average, moments), value


def train(steps=STEPS):
  """Returns the averaged parameters."""
  params = jax.jit(dit.init)(jax.random.key(1), jnp.zeros((1, WINDOW, 1)), jnp.zeros((1, WINDOW)))
  params = params['params']
  state = params, params, adam.init(params)
  for i in range(steps):
    state, value = step(state, i)
    if i % 500 == 499:
      print(f'step {i + 1}: loss {value:.3f}', flush=True)
  return state[1]


def continued(params, beginning, further, key):
  """Draws `further` numbers after a beginning [B, K, 1], one after another, window by window."""
  levels = dj.level_grid(schedule, 10)
  one_by_one = dj.staggered(levels, 10 * np.arange(WINDOW))
  denoise = network.denoiser(params)

  def draw(key, known):
    noise_key, key = jax.random.split(key)
    x = dj.prior_sample(noise_key, known.shape, levels.take(0))
    held = dj.hold_known(one_by_one, x, known)
    return dj.sample(key, denoise, dj.dpm_solver_pp(2), *held)

  known = jnp.pad(beginning, ((0, 0), (0, further), (0, 0)), constant_values=jnp.nan)
  return dj.roll_out(key, draw, known, window=WINDOW, stride=STRIDE)


def main(argv=None):
  """Trains, continues one beginning many times, and compares with the law."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--steps', type=int, default=STEPS)
  parser.add_argument('--draws', type=int, default=500)
  parser.add_argument('--out', default='rollout.png')
  given = parser.parse_args(argv)
  params = train(given.steps)
  beginning = root[:GIVEN, :GIVEN] @ np.random.default_rng(0).standard_normal(GIVEN)
  rows = jnp.broadcast_to(jnp.float32(beginning)[:, None], (given.draws, GIVEN, 1))
  x = jax.jit(continued, static_argnums=2)(params, rows, FURTHER, jax.random.key(2))
  x, h = np.asarray(x[..., 0]), np.arange(1, FURTHER + 1)
  mean, std = beginning[-1] * RHO**h, np.sqrt(1 - RHO ** (2 * h))
  ratio = x[:, GIVEN:].var(axis=0) / std**2
  print(f'variance over the exact one, by step: {ratio.min():.2f} to {ratio.max():.2f}')
  place = GIVEN - 1 + h
  plt.fill_between(
    place, mean - 2 * std, mean + 2 * std, color='0.85', label='exact, two deviations'
  )
  plt.plot(x[:20].T, lw=0.8)
  plt.plot(np.arange(GIVEN), beginning, 'k', lw=2.0, label='given')
  plt.legend()
  plt.savefig(given.out, dpi=120)
  print(given.out)


if __name__ == '__main__':
  main()
