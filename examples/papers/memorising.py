"""Memorising takes time in proportion to n (Bonnaire et al. 2025, arXiv 2505.17638).

Networks of one size are trained on n examples with batches of one size. The loss on the training set
is between that of the exact denoiser of the law, share 0, and that of the denoiser that memorises,
share 1; the time of memorising is the step at which the share passes 0.1. If it depends on step / n
alone, the slope of log time over log n is 1.

  python -m benchmarks.claims memorising
"""

import jax
import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.training import objectives, optimizer
from diffusion_jax.training.state import init_state
from diffusion_jax.training.step import make_train_step
from examples.papers.closed_target import memorised, mixture
from examples.papers.fitting import small_mlp

SIZE, SIZES, CHUNKS, SCHEDULE = 8, (16, 32, 64), 50, dj.RectifiedFlowSchedule()


def first_time(gaps, times, level: float = 0.2):
  """Returns when a curve [M] first reaches a level, between its times [M]; inf if never."""
  i = jnp.argmax(gaps >= level)
  before, after = jnp.maximum(i - 1, 0), i
  share = (level - gaps[before]) / jnp.where(after > before, gaps[after] - gaps[before], 1.0)
  time = times[before] + share * (times[after] - times[before])
  return jnp.where((gaps >= level).any(), jnp.where(i > 0, time, times[0]), jnp.inf)


def slope(x, y):
  """Returns the slope of the least-squares line through points, [M] each."""
  x, y = x - x.mean(), y - y.mean()
  return (x * y).sum() / jnp.square(x).sum()


def share(denoise: dj.Denoiser, oracle, x, key):
  """Returns where the loss of a denoiser on examples x [N, D] is: 0 as exact, 1 as memorised."""
  rows = jnp.tile(x, (1024 // len(x), 1))
  t = jnp.linspace(0.1, 1.0, len(rows))
  xt = dj.q_sample(rows, jax.random.normal(key, rows.shape), SCHEDULE(t))

  def loss(denoise):
    error = denoise(xt, SCHEDULE(t)).x0 - rows
    return (jnp.square(error).sum(axis=1) / t**2).mean()

  exact, least = loss(oracle.denoise), loss(memorised(x))
  return (exact - loss(denoise)) / (exact - least)


def memorising_time(key, n: int):
  """Trains on n examples, and returns the step at which the share passes 0.1, and shares [M]."""
  law_key, data_key, init_key, test_key, key = jax.random.split(key, 5)
  oracle, (network, init) = mixture(law_key), small_mlp(128, SIZE)
  x = oracle.sample(data_key, n)
  objective = objectives.denoising(
    network, SCHEDULE, times=dj.uniform_times, weight=dj.flow_weight
  )
  adam, _ = optimizer.optimizer_and_rate(1, learning_rate=1.0)
  step = make_train_step(objective, adam, optimizer.ema_decay(0.95))

  def body(state, i):
    batch_key, step_key = jax.random.split(jax.random.fold_in(key, i))
    batch = {'x': jax.random.choice(batch_key, x, (32,))}
    return step(state, batch, step_key, rate=1e-3)[0], None

  def chunk(state, i):
    state, _ = jax.lax.scan(body, state, i)
    denoise = network.denoiser(state.ema_params['network'])
    return state, share(denoise, oracle, x, test_key)

  steps = jnp.arange(CHUNKS * n).reshape(CHUNKS, n)
  _, shares = jax.lax.scan(chunk, init_state({'network': init(init_key)}, adam), steps)
  return first_time(shares, steps[:, -1] + 1.0), shares


@jax.jit
def of_sizes(key):
  times = jnp.stack([memorising_time(key, n)[0] for n in SIZES])
  return slope(jnp.log(jnp.array(SIZES, float)), jnp.log(times)), times
