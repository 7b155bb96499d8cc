"""Is noise in the target why models generalise (Bertrand et al. 2025, arXiv 2506.03719)?

Flow matching fits eps - x_0, whose mean given x_t over the training set is known in closed form.
The same network is fitted to both. With targets that have no noise it could only learn the field
that memorises; the authors find that it generalises as well. Here the data are a mixture with a
known denoiser, so that the error on new data is exact.

  python -m benchmarks.claims closed_target
"""

import jax
import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.core.denoiser import Prediction
from diffusion_jax.testing import oracles
from diffusion_jax.training import objectives
from diffusion_jax.training.objectives import Objective
from examples.papers.fitting import fit, small_mlp

SIZE, EXAMPLES, SCHEDULE = 8, 256, dj.RectifiedFlowSchedule()


def memorised(examples) -> dj.Denoiser:
  """Returns the denoiser E[x_0 | x_t] of a training set [N, D]."""

  def denoise(xt, level):
    at = level.expand_to(xt)
    apart = xt[:, None] - at.alpha[..., None] * examples[None]
    logits = -0.5 * jnp.square(apart).sum(axis=-1) / jnp.square(at.sigma)
    return Prediction(jax.nn.softmax(logits, axis=1) @ examples)

  return denoise


def objective(network: dj.Network, schedule: dj.Schedule, *, examples=None) -> Objective:
  """Makes |v - (eps - x_0)|^2, or |v - E[eps - x_0 | x_t]|^2 over a training set."""

  def draw(key, batch, context):
    return objectives.draw_inputs(key, batch, schedule, network, dj.uniform_times)

  def loss(params, context, inputs, keys):
    xt, level, x0, eps = inputs.xt, inputs.level, inputs.x0, inputs.eps
    if examples is not None:
      x0 = memorised(examples)(xt, level).x0
      eps = dj.eps_from_x0(x0, xt, level)
    v = network.output(params['network'], xt, level, inputs.cond, keys[0])
    return objectives.mean_loss(jnp.square(v - (eps - x0)).mean(axis=1), level.t)

  return Objective(draw, loss)


def mixture(key) -> oracles.Mixture:
  """Draws the law of the data: six normals of deviation 0.3 in R^D."""
  means = jax.random.normal(key, (6, SIZE))
  covs = jnp.broadcast_to(jnp.eye(SIZE), (6, SIZE, SIZE))
  return oracles.Mixture(jnp.ones(6) / 6, means, jnp.full((6, SIZE), 0.09), covs)


def distance(key, oracle: oracles.Mixture, denoise: dj.Denoiser):
  """Returns log E|x_0_hat - E[x_0 | x_t]|^2 on new data, over t in (0.1, 1]."""
  inputs, _ = objectives.draw_inputs(
    key, {'x': oracle.sample(key, 4000)}, SCHEDULE, small_mlp(1, SIZE)[0],
    lambda key, n, schedule: dj.uniform_times(key, n, schedule, 0.1),
  )  # fmt: skip
  error = denoise(inputs.xt, inputs.level).x0 - oracle.denoise(inputs.xt, inputs.level).x0
  return jnp.log(jnp.square(error).sum(axis=1).mean())


@jax.jit
def distances(key):
  """Trains with both targets, and with the noisy one and another key."""
  law_key, data_key, init_key, test_key, key, again = jax.random.split(key, 6)
  oracle, (network, init) = mixture(law_key), small_mlp(64, SIZE)
  x = oracle.sample(data_key, EXAMPLES)
  found = {'memorised': distance(test_key, oracle, memorised(x))}

  def batch(key):
    return {'x': jax.random.choice(key, x, (128,))}

  for name, at, target in (('noisy', key, None), ('again', again, None), ('closed', key, x)):
    params = fit(at, objective(network, SCHEDULE, examples=target), init(init_key), batch, 1000)
    found[name] = distance(test_key, oracle, network.denoiser(params))
  return found


def track(seed: int) -> dict[str, float]:
  """Measures log distances to the exact denoiser on new data."""
  return {name: float(x) for name, x in distances(jax.random.key(seed)).items()}
