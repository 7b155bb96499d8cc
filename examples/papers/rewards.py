"""DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117) and Flow-GRPO (arXiv 2505.05470).

The model draws from N(0, 1) exactly, and the reward is x. With a linear optimality r the minimum
of DiffusionNFT's loss is the velocity of a shifted Gaussian, which is the law tilted by exp(a r):
N(0, 1) moves by its 2 (dr/dx) / beta an iteration, and keeps its standard deviation 1. Both methods
get the same reward calls; how far their draws are from the tilted law with their mean is exact.

  python -m benchmarks.claims rewards
"""

import jax
import jax.numpy as jnp
import optax

import diffusion_jax as dj
from diffusion_jax.training import objectives
from examples.papers.fitting import draw, normal_quantiles, small_mlp

CALLS, ITERATIONS, UPDATES, STEPS = 64, 8, 16, 10  # rewards of an iteration; of a draw
SCHEDULE = dj.RectifiedFlowSchedule()


def policy():
  """Returns the velocity (params, x, t) of N(0, 1) and a network's change, 0 at first."""
  network, init = small_mlp(32, 1)

  def velocity(params, x, t):
    at = SCHEDULE(t).expand_to(x)
    exact = x * (at.sigma - at.alpha) / (at.sigma**2 + at.alpha**2)
    return exact + network.output(params, x, SCHEDULE(t))

  def apply(params, x, noise, cond, *, key=None):
    return velocity(params, x, noise)

  return dj.Network(apply, dj.time_input(1.0), parametrization='flow'), velocity, init


def nft_losses(v, old, u, r, beta: float = 1.0):
  """Computes r |v+ - u|^2 + (1 - r) |v- - u|^2, [B]: v+ and v- are old +- beta (v - old)."""
  positive, negative = old + beta * (v - old), old - beta * (v - old)
  return (r * jnp.square(positive - u) + (1.0 - r) * jnp.square(negative - u)).mean(axis=1)


def updated(loss, params, key, rate):
  """Takes UPDATES steps of Adam of loss(params, key)."""
  adam = optax.adam(rate)

  def body(carry, key):
    params, moments = carry
    grads = jax.grad(loss)(params, key)
    updates, moments = adam.update(grads, moments)
    return (optax.apply_updates(params, updates), moments), None

  return jax.lax.scan(body, (params, adam.init(params)), jax.random.split(key, UPDATES))[0][0]


def nft(key, params, rate, scale: float = 1.0):
  """Takes one iteration of DiffusionNFT: draws by the ODE, rewards, fits."""
  network, velocity, _ = policy()
  x0 = draw(network, params, jax.random.normal(key, (CALLS, 1)), STEPS)
  r = 0.5 + 0.5 * jnp.clip((x0 - x0.mean()) / scale, -1.0, 1.0)

  def loss(new, key):
    inputs, _ = objectives.draw_inputs(key, {'x': x0}, SCHEDULE, network, dj.uniform_times)
    v, old = (velocity(p, inputs.xt, inputs.level.t) for p in (new, params))
    return nft_losses(v, old, inputs.eps - x0, r).mean()

  return updated(loss, params, key, rate)


def grpo(key, params, rate, noise: float = 0.7, clip: float = 0.2, kl: float = 0.04):
  """Takes one iteration of Flow-GRPO: paths of its SDE, rewards, clipped ratios and a KL."""
  _, velocity, init = policy()
  times = 1.0 - jnp.arange(STEPS) / STEPS
  start = jax.tree.map(jnp.zeros_like, params)  # the change 0

  def variance(t):  # sigma^2 = noise^2 t / (1 - t), of the second time at the first
    return noise**2 * t / (1.0 - jnp.minimum(t, times[1]))

  def mean(params, x, t):
    v = velocity(params, x, t)
    return x - (v + variance(t) / (2.0 * t) * (x + (1.0 - t) * v)) / STEPS

  def step(x, inputs):
    key, t = inputs
    std = jnp.sqrt(variance(t) / STEPS)
    y = mean(params, x, t) + std * jax.random.normal(key, x.shape)
    return y, (x, y, t, std)

  first, key = jax.random.split(key)
  x = jax.random.normal(first, (CALLS, 1))
  x, path = jax.lax.scan(step, x, (jax.random.split(key, STEPS), times))
  advantage = (x - x.mean()) / x.std()

  def loss(new, key):
    def of_step(x, y, t, std):
      after, before, origin = (mean(p, x, t) for p in (new, params, start))
      ratio = jnp.exp((jnp.square(y - before) - jnp.square(y - after)) / (2.0 * std**2))
      gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)
      return (kl * jnp.square(after - origin) / (2.0 * std**2) - gain).mean()

    return jax.vmap(of_step)(*path).mean()

  return updated(loss, params, key, rate)


def outcome(key, iterate, rate):
  """Returns the mean reward, and log KL (of normals) to the tilted law of it, N(mean, 1)."""
  network, _, init = policy()
  init_key, key = jax.random.split(key)

  def body(params, key):
    return iterate(key, params, rate), None

  params, _ = jax.lax.scan(body, init(init_key), jax.random.split(key, ITERATIONS))
  x = draw(network, params, normal_quantiles(500))
  return x.mean(), jnp.log(0.5 * (x.var() - 1.0 - jnp.log(x.var())))


RATES = {'nft': (nft, 3e-2), 'grpo': (grpo, 3e-2)}  # of 1e-3, 3e-3, 1e-2, 3e-2, the highest reward
_outcome = jax.jit(outcome, static_argnums=1)


def track(seed: int) -> dict[str, float]:
  """Measures the reward and log KL of both methods after CALLS * ITERATIONS calls."""
  keys, found = jax.random.split(jax.random.key(seed)), {}
  for name, key, method in (('nft', 0, 'nft'), ('again', 1, 'nft'), ('grpo', 0, 'grpo')):
    reward, off = _outcome(keys[key], *RATES[method])
    found |= {name: float(reward), f'{name}, KL': float(off)}
  return found
