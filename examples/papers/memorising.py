"""Memorising takes time in proportion to n (Bonnaire et al. 2025, arXiv 2505.17638).

Networks of one size are trained on n examples with batches of one size. The share of a loss on the
training set is 0 as by the exact denoiser of the law, and 1 as by the denoiser that memorises; the
time of memorising is the step at which it passes 0.1. If it depends on step / n, the slope of log
time over log n is 1.

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

SIZE, SIZES, CHUNKS, SCHEDULE = 8, (16, 32, 64), 28, dj.RectifiedFlowSchedule()


def first_time(shares, times, level: float = 0.1):
  """Returns when a curve [M] first reaches a level, between its times [M]; the last if never."""
  i = jnp.where((shares >= level).any(), jnp.argmax(shares >= level), len(shares) - 1)
  before = jnp.maximum(i - 1, 0)
  rise = jnp.where(i > 0, shares[i] - shares[before], 1.0)
  part = jnp.clip((level - shares[before]) / rise, 0.0, 1.0)
  return jnp.where(i > 0, times[before] + part * (times[i] - times[before]), times[0])


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


def memorising_time(key, fit_key, n: int):
  """Trains on n examples, and returns the step at which the share passes 0.1, and shares [M]."""
  law_key, data_key, init_key, test_key = jax.random.split(key, 4)
  oracle, (network, init) = mixture(law_key), small_mlp(128, SIZE)
  x = oracle.sample(data_key, n)
  objective = objectives.denoising(network, SCHEDULE, times=dj.uniform_times, weight=dj.flow_weight)
  adam, _ = optimizer.optimizer_and_rate(1, learning_rate=1.0)
  step = make_train_step(objective, adam, optimizer.ema_decay(0.95))

  def body(state, i):
    batch_key, step_key = jax.random.split(jax.random.fold_in(fit_key, i))
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
def slope_of_times(key, fit_key):
  """Returns the slope of log time over log n."""
  times = jnp.stack([memorising_time(key, fit_key, n)[0] for n in SIZES])
  return slope(jnp.log(jnp.array(SIZES, float)), jnp.log(times))


def track(seed: int) -> dict[str, float]:
  """Measures the slope for two keys of the training on the same examples."""
  key, first, second = jax.random.split(jax.random.key(seed), 3)
  found = {name: float(slope_of_times(key, k)) for name, k in (('slope', first), ('again', second))}
  return found | {'nothing': 0.0}
