"""Equilibrium Matching (Wang & Du 2025, arXiv 2510.02300): what law does its descent reach?

A field without time is fitted to c(t) (eps - x_0), which vanishes at clean data, and a sample is
where its descent rests. On N(0, s^2 I_D) the minimum is f(x) = g(|x|) x in closed form: the mean of
that target over the posterior of t. It points away from the mean everywhere, so that its descent
ends there, and not at the law.

  python -m benchmarks.claims equilibrium
"""

import jax
import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.training import objectives
from diffusion_jax.training.objectives import Objective
from examples.papers.fitting import draw, fit, small_mlp

SIZE, STD = 4, 0.5


def slope(t, start: float = 0.8, scale: float = 4.0):
  """Computes c(t) = scale min(1, t / (1 - start)), 0 at clean data."""
  return scale * jnp.minimum(1.0, t / (1.0 - start))


def objective(network: dj.Network, schedule: dj.Schedule) -> Objective:
  """Makes |f(x_t) - c(t) (eps - x_0)|^2."""

  def draw(key, batch, context):
    return objectives.draw_inputs(key, batch, schedule, network, dj.uniform_times)

  def loss(params, context, inputs, keys):
    field = network.output(params['network'], inputs.xt, inputs.level, inputs.cond, keys[0])
    target = slope(inputs.level.expand_to(field).sigma) * (inputs.eps - inputs.x0)
    return objectives.mean_loss(jnp.square(field - target).mean(axis=1), inputs.level.t)

  return Objective(draw, loss)


def exact_field(x, std: float = STD):
  """Computes the minimum of the loss for data N(0, std^2 I), [B, D]."""
  t = (jnp.arange(2000.0) + 0.5) / 2000
  variance = (1.0 - t) ** 2 * std**2 + t**2
  square = jnp.square(x).sum(axis=1, keepdims=True)
  log_joint = -0.5 * (square / variance[None] + x.shape[1] * jnp.log(variance)[None])
  gain = slope(t) * (t - (1.0 - t) * std**2) / variance  # of E[c (eps - x_0) | x_t, t]
  return x * (jax.nn.softmax(log_joint, axis=1) * gain[None]).sum(axis=1, keepdims=True)


def descend(field, x, steps: int, rate: float = 0.003):
  """Takes steps x - rate f(x); the authors' sampler takes 250 of this rate."""
  return jax.lax.fori_loop(0, steps, lambda i, x: x - rate * field(x), x)


def spread(x):
  """Returns log of the standard deviation of |x|, over its rows."""
  return jnp.log(jnp.std(jnp.linalg.norm(x, axis=1)))


@jax.jit
def spreads(key):
  """Trains EqM and flow matching on N(0, STD^2 I), and returns the spreads of draws."""
  init_key, fit_key, again_key, noise_key = jax.random.split(key, 4)
  schedule, noise = dj.RectifiedFlowSchedule(), jax.random.normal(noise_key, (1000, SIZE))
  found = {'data': spread(STD * noise), 'exact': spread(descend(exact_field, noise, 500))}

  def batch(key):
    return {'x': STD * jax.random.normal(key, (128, SIZE))}

  network, init = small_mlp(32, SIZE)
  flow = objectives.denoising(network, schedule, times=dj.uniform_times, weight=dj.flow_weight)
  for name, at in {'flow': fit_key, 'again': again_key}.items():
    params = fit(at, flow, init(init_key), batch, steps=1500)
    found[name] = spread(draw(network, params, noise))
  blind, _ = small_mlp(32, SIZE, noise_input=lambda level: jnp.zeros_like(level.t))
  params = fit(fit_key, objective(blind, schedule), init(init_key), batch, steps=1500)

  def field(x):
    return blind.output(params, x, schedule(0.0))

  return found | {str(n): spread(descend(field, noise, n)) for n in (250, 500)}


def track(seed: int) -> dict[str, float]:
  """Measures log spreads of the norm: of data, of flow matching, of EqM after 250 and 500 steps."""
  return {name: float(x) for name, x in spreads(jax.random.key(seed)).items()}
