"""Few-step methods on a small problem: each trains the same MLP.

The data of `benchmarks.ring`, a network with a training of equal length for
each method, and the samplers of what was trained.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from diffusion_jax.training import (
  consistency,
  distillation,
  flow_maps,
  level_pairs,
)
from diffusion_jax.training.objectives import Network, denoising
from diffusion_jax.training.optimizer import ema_decay
from diffusion_jax.training.state import init_state
from diffusion_jax.training.step import make_train_step

RADIUS, SPREAD, MODES = 1.45, 0.2, 5
WIDTH, LAYERS, BATCH = 128, 4, 256
SCHEDULE = dj.RectifiedFlowSchedule()
TIME = dj.time_input(1.0)


def ring():
  """Returns the data, a mixture of five Gaussians on a circle."""
  angles = 2.0 * np.pi * np.arange(MODES) / MODES
  means = RADIUS * np.stack([np.cos(angles), np.sin(angles)], 1)
  covs = np.tile(SPREAD**2 * np.eye(2), (MODES, 1, 1))
  return oracles.mixture(np.ones(MODES), means, covs)


DATA = ring()
# Per coordinate: for networks with a boundary condition.
DEVIATION = float(np.sqrt(np.trace(np.asarray(DATA.cov)) / 2.0))


@jax.jit
def exact_map(noise):
  """Returns the exact map of noise [N, 2] to the clean end."""
  start = SCHEDULE(jnp.ones(()))
  return DATA.flow_map(noise, start, dj.clean_level(), rtol=1e-5, atol=1e-5)


def init(key):
  """Returns the layers of the MLP, LeCun-normal, the last one zero."""
  widths = [4] + [WIDTH] * LAYERS + [2]
  keys = jax.random.split(key, len(widths) - 1)
  layers = [
    (jax.random.normal(k, (a, b)) / np.sqrt(a), jnp.zeros(b))
    for k, a, b in zip(keys, widths[:-1], widths[1:], strict=True)
  ]
  return {'network': [*layers[:-1], jax.tree.map(jnp.zeros_like, layers[-1])]}


def network(params, x, noise, cond, *, key=None):
  """Computes the MLP of x [B, 2], the noise input and the time elapsed."""
  elapsed = (cond or {}).get('elapsed', jnp.zeros_like(noise))
  h = jnp.concatenate([x, noise[:, None], elapsed[:, None]], axis=1)
  for kernel, bias in params[:-1]:
    h = jax.nn.gelu(h @ kernel + bias[None])
  kernel, bias = params[-1]
  return h @ kernel + bias[None]


FLOW = Network(network, TIME, parametrization='flow')


def exact_teacher(frozen, cond):
  """Returns the best possible denoiser, as a teacher without parameters."""
  return DATA.denoise


def flow_denoiser(params, cond=None):
  """Returns the denoiser of a network of the velocity."""
  return dj.make_denoiser(
    network,
    params['network'],
    parametrization='flow',
    noise_input=TIME,
    cond=cond,
  )


def fit(objective, key, num_steps, params=None, frozen=(), batches=None):
  """Returns the averaged parameters of one training.

  batches: key -> batch, by default draws of the data.
  """
  rate = optax.cosine_decay_schedule(2e-3, num_steps)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
  step = make_train_step(objective, optimizer, ema_decay(0.999))
  init_key, batch_key, step_key = jax.random.split(key, 3)
  state = init_state(init(init_key) if params is None else params, optimizer)

  def draw(key):
    return {'image': DATA.sample(key, BATCH)}

  batches = batches or draw

  def body(state, _):
    batch = batches(jax.random.fold_in(batch_key, state.step))
    return step(state, batch, step_key, frozen)[0], None

  run = jax.jit(lambda state: jax.lax.scan(body, state, length=num_steps)[0])
  return jax.block_until_ready(run(state)).ema_params


# Samplers: params -> (key, x, number of calls) -> x at the clean end.


def by_map(kind):
  """Returns the sampler of a network of `kind`."""

  def sampler(params, key, x, calls):
    flow_map = dj.make_flow_map(
      network,
      params['network'],
      kind=kind,
      noise_input=TIME,
      sigma_data=DEVIATION,
    )
    levels = dj.level_grid(SCHEDULE, calls)
    stochastic = kind != 'average_velocity'
    return dj.sample_map(key, flow_map, levels, x, stochastic)

  return sampler


def by_euler(params, key, x, calls):
  """Samples with Euler steps of the velocity, which are DDIM's."""
  levels = dj.level_grid(SCHEDULE, calls)
  return dj.sample(key, flow_denoiser(params), dj.ddim(), levels, x)


def exact_euler(params, key, x, calls):
  """Samples with Euler steps of the exact velocity."""
  return dj.sample(
    key, DATA.denoise, dj.ddim(), dj.level_grid(SCHEDULE, calls), x
  )


# Methods: (key, number of steps) -> parameters.


def flow_matching(key, steps, **options):
  """Trains the velocity."""
  objective = denoising(
    FLOW, SCHEDULE, times=dj.uniform_times, weight=dj.flow_weight
  )
  return fit(objective, key, steps, **options)


def mean_flow(key, steps, published=False, **options):
  """Trains MeanFlow at its published times, or with mass at both ends."""
  times = flow_maps.two_times(p_equal=0.25, p_t1=0.25, p_s0=0.15)
  if published:
    times = flow_maps.two_times(dj.logit_normal_times(-0.4, 1.0), p_equal=0.75)
  objective = flow_maps.mean_flow(FLOW, SCHEDULE, two_times=times, **options)
  return fit(objective, key, steps)


def shortcut(key, steps, **options):
  """Trains a shortcut model."""
  objective = flow_maps.shortcut(FLOW, SCHEDULE, **options)
  return fit(objective, key, steps)


def consistent(key, steps, pairs, **options):
  """Trains a consistency function without a teacher."""
  objective = consistency.consistency_training(
    FLOW, SCHEDULE, pairs=pairs, sigma_data=DEVIATION, **options
  )
  return fit(objective, key, steps)


def distilled(key, steps, pairs, **options):
  """Trains a consistency function by distillation of the exact denoiser."""
  objective = consistency.consistency_distillation(
    FLOW,
    SCHEDULE,
    teacher=exact_teacher,
    solver=dj.heun(),
    pairs=pairs,
    boundary=consistency.Boundary(DEVIATION),
    **options,
  )
  return fit(objective, key, steps)


def easy(steps):
  """Returns ECT's pairs, in eight stages."""
  return level_pairs.easy_pairs(steps // 8, dj.log_normal_times(0.0, 1.2))


def continuous(key, steps, teacher=None):
  """Trains sCM."""
  objective = consistency.continuous_consistency(
    FLOW,
    SCHEDULE,
    times=dj.log_normal_times(0.0, 1.2),
    teacher=teacher,
    warmup_steps=3 * steps // 10,
    sigma_data=DEVIATION,
  )
  return fit(objective, key, steps)


def progressive(key, steps):
  """Halves the steps of a flow-matching network from 16 to 1."""
  stages = 8, 4, 2, 1
  params = flow_matching(key, steps // 2)
  for num_steps in stages:
    objective = distillation.progressive_distillation(
      FLOW,
      SCHEDULE,
      num_steps=num_steps,
      teacher=flow_denoiser,
      solver=dj.ddim(),
    )
    part = steps // 2 // len(stages)
    params = fit(objective, key, part, params, frozen=params)
  return params


@functools.cache
def pool():
  """Returns 65,536 draws of noise and the exact map of each."""
  noise = jax.random.normal(jax.random.key(7), (65536, 2))
  return noise, exact_map(noise)


def reflow(key, steps, times=dj.uniform_times):
  """Trains the velocity on pairs of noise and the exact map of it."""
  noise, image = pool()

  def batches(key):
    index = jax.random.randint(key, (BATCH,), 0, len(noise))
    return {'noise': noise[index], 'image': image[index]}

  objective = distillation.reflow(FLOW, SCHEDULE, times=times)
  return fit(objective, key, steps, batches=batches)


def at_start(key, batch_size, schedule):
  """Draws t = 1 only, a `TimeSampler`."""
  return schedule(jnp.ones(batch_size)), jnp.ones(batch_size)
