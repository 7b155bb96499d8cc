"""What the papers share: a small network, and a training by Adam in one `lax.scan`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.networks.functional import network_fn
from diffusion_jax.networks.mlp import MLP
from diffusion_jax.training import optimizer
from diffusion_jax.training.objectives import Objective
from diffusion_jax.training.state import init_state
from diffusion_jax.training.step import make_train_step


def small_mlp(channels: int, size: int, **fields) -> tuple[dj.Network, Callable]:
  """Returns a network of vectors [B, size], and key -> its parameters.

  fields: of `dj.Network`, such as parametrization='x0'; by default it predicts the velocity
  eps - x_0 from x_t and t.
  """
  mlp = MLP(channels, 2, out_channels=size, noise_features=32)
  fields = {'noise_input': dj.time_input(1000.0), 'parametrization': 'flow'} | fields

  def init(key):
    return mlp.init(key, jnp.zeros((1, size)), jnp.zeros(1))['params']

  return dj.Network(network_fn(mlp), **fields), init


def fit(key, objective: Objective, params, draw_batch: Callable, steps: int, rate: float = 2e-3):
  """Returns the parameters of a network after some steps of Adam, whose rate falls to 0.

  draw_batch: key -> a batch, {'x': [B, ...]}. Call it under `jit`.
  """
  adam, schedule = optimizer.optimizer_and_rate(
    steps, learning_rate=rate, warmup_steps=steps // 20, decay='cosine'
  )
  step = make_train_step(objective, adam, optimizer.ema_decay(0.99))

  def body(state, i):
    batch_key, step_key = jax.random.split(jax.random.fold_in(key, i))
    return step(state, draw_batch(batch_key), step_key, rate=schedule(i))[0], None

  state = init_state({'network': params} | objective.parameters(key), adam)
  return jax.lax.scan(body, state, jnp.arange(steps))[0].params['network']


def normal_quantiles(n: int):
  """Returns n numbers that stand for N(0, 1) better than draws do, [n, 1]."""
  return jax.scipy.special.ndtri((jnp.arange(n) + 0.5) / n)[:, None]


def draw(network: dj.Network, params, noise, steps: int = 24):
  """Maps noise [B, ...] to draws of a network of the straight path, by Heun's method."""
  schedule = dj.RectifiedFlowSchedule()
  levels, key = dj.level_grid(schedule, steps), jax.random.key(0)  # an ODE: the key is not read
  return dj.sample(key, network.denoiser(params), dj.velocity_heun(schedule), levels, noise)
