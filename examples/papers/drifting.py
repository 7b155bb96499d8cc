"""Drifting (Deng et al. 2026, as we understand arXiv 2602.04770): one call, fitted in pixels.

A generator x = f(eps) is moved along a field V of its batch, |x - sg(x + V(x))|^2: V attracts to
real examples near x and repels from generated ones, with weights of a softmax over both axes. V is
antisymmetric, so that it vanishes where both sets are the same. The data are the digits of
scikit-learn, 64 pixels; the error is the energy distance of 1,000 draws to held-out digits, and of
rectified flow with the same network, steps and batch.

  python -m benchmarks.claims drifting
"""

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.data import small_sets
from diffusion_jax.training import objectives
from diffusion_jax.training.objectives import Objective
from examples.papers.fitting import draw, fit, small_mlp

SIZE, BATCH, STEPS, SCHEDULE = 64, 128, 600, dj.RectifiedFlowSchedule()


def digits(split: str):
  """Returns the pixels of a split in [-1, 1], [N, 64]."""
  source = small_sets.digits(split)
  x = source.facts.x.encode(source.read(np.arange(len(source)))['x'])
  return jnp.asarray(x).reshape(len(source), SIZE)


def distances(x, y):
  """Returns |x - y| of all pairs, [N, M]."""
  square = jnp.square(x).sum(axis=1)[:, None] + jnp.square(y).sum(axis=1)[None] - 2.0 * x @ y.T
  return jnp.sqrt(jnp.maximum(square, 1e-12))


def field(x, real, temperature: float = 0.1):
  """Computes V [B, D] of generated x [B, D] towards real ones [M, D]."""
  scale = -1.0 / (temperature * x.shape[1] ** 0.5)
  itself = jnp.eye(len(x), dtype=bool)
  joint = [scale * distances(x, real), jnp.where(itself, -1e9, scale * distances(x, x))]
  joint = jnp.concatenate(joint, axis=1)
  weight = jnp.sqrt(jax.nn.softmax(joint, axis=1) * jax.nn.softmax(joint, axis=0))
  pull, push = weight[:, : len(real)], weight[:, len(real) :]
  pull, push = pull * push.sum(axis=1, keepdims=True), push * pull.sum(axis=1, keepdims=True)
  return pull @ real - push @ x


def objective(network: dj.Network, schedule: dj.Schedule) -> Objective:
  """Makes |x - sg(x + V(x))|^2 for x = f(eps), the network's x_0 at t = 1."""

  def draw(key, batch, context):
    return (batch['x'], jax.random.normal(key, batch['x'].shape)), ()

  def loss(params, context, inputs, keys):
    real, eps = inputs
    x = generate(network, params['network'], eps)
    target = jax.lax.stop_gradient(x + field(x, real))
    square = jnp.square(x - target).mean()
    return square, (objectives.means(loss=square), ())

  return Objective(draw, loss, separable=False)


def generate(network: dj.Network, params, eps):
  """Draws in one call, x = f(eps)."""
  return network.to_x0(network.output(params, eps, SCHEDULE(1.0)), eps, SCHEDULE(1.0))


def energy_distance(x, y):
  """Computes 2 E|x - y| - E|x - x'| - E|y - y'| of two sets [N, D], without bias."""
  n, m = len(x), len(y)
  within = distances(x, x).sum() / (n * (n - 1)) + distances(y, y).sum() / (m * (m - 1))
  return 2.0 * distances(x, y).mean() - within


@jax.jit
def errors(key, x, new):
  """Returns log energy distances of both methods, by the number of calls."""
  init_key, key, again, noise_key = jax.random.split(key, 4)
  noise = jax.random.normal(noise_key, (1000, SIZE))

  def batch(key):
    return {'x': jax.random.choice(key, x, (BATCH,))}

  network, init = small_mlp(128, SIZE)
  flow = objectives.denoising(network, SCHEDULE, times=dj.uniform_times, weight=dj.flow_weight)
  params = fit(key, flow, init(init_key), batch, STEPS, 1e-3)
  found = {'flow, 1': generate(network, params, noise), 'flow, 47': draw(network, params, noise)}
  network, _ = small_mlp(128, SIZE, parametrization='x0')
  for name, key_of in (('drifting', key), ('again', again)):
    params = fit(key_of, objective(network, SCHEDULE), init(init_key), batch, STEPS, 1e-3)
    found[name] = generate(network, params, noise)
  return {name: jnp.log(energy_distance(found[name], new)) for name in found}


def track(seed: int) -> dict[str, float]:
  """Measures log energy distances of drifting in one call, and of flows in 1 and 47."""
  found = errors(jax.random.key(seed), digits('train'), digits('test'))
  return {name: float(x) for name, x in found.items()}
