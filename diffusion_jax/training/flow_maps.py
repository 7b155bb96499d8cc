"""Objectives of average velocities: MeanFlow and shortcut models.

The network gets cond['elapsed'] [B] = time_scale (t - s) beside its input for
the level t (`core.flow_map.velocity_output`). Its time should be unscaled,
`time_input(1.0)`: the slope in time enters the loss, and with 1000 t it is a
thousand times too large. The derivative of the network is by `jax.jvp`, for
which attention by cuDNN has no rule. Both evaluations of a network have the
same dropout.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.core.broadcasting import expand_to
from diffusion_jax.core.denoiser import NetworkFn, NoiseInput
from diffusion_jax.core.flow_losses import (
  adaptive_loss,
  guided_velocity,
  improved_mean_flow_error,
  mean_flow_error,
  sg,
  shortcut_target,
  squared_error,
)
from diffusion_jax.core.flow_map import velocity_output
from diffusion_jax.core.levels import Schedule
from diffusion_jax.core.losses import TimeSampler, uniform_times
from diffusion_jax.core.process import level_slopes, q_sample
from diffusion_jax.training.conditions import Condition, unconditional
from diffusion_jax.training.objectives import (
  Augment,
  Inputs,
  Objective,
  augmented,
  draw_inputs,
  mean_loss,
)

Array = jax.Array
TwoTimes = Callable[[Array, int, Schedule], tuple[Array, Array]]


class MapInputs(NamedTuple):
  """Holds what is drawn for a batch: `Inputs`, and s and the scale, [B]."""

  inputs: Inputs
  s: Array
  scale: Array


def two_times(
  times: TimeSampler = uniform_times,
  second: TimeSampler | None = None,
  *,
  equal: float = 0.75,
  start: float = 0.0,
  end: float = 0.0,
) -> TwoTimes:
  """Makes (key, batch_size, schedule) -> t, s, each [B], s <= t.

  t and s are the larger and the smaller of two draws of `times`; with `second`,
  s is the smaller of t and a draw of that (py-meanflow's second recipe). Then t
  = 1 with the probability `start`, s = 0 with `end`, and s = t with `equal`,
  each independent of the others. A logit-normal law has next to nothing at t =
  1, which is where one-step samples begin. Raises ValueError for other
  probabilities than those in [0, 1].
  """
  for name, p in (('equal', equal), ('start', start), ('end', end)):
    if not 0.0 <= p <= 1.0:
      raise ValueError(f'{name} is {p}: a probability is in [0, 1]')

  def draw(key, batch_size, schedule):
    t_key, s_key, *keys = jax.random.split(key, 5)
    a = times(t_key, batch_size, schedule)[0].t
    b = (second or times)(s_key, batch_size, schedule)[0].t
    t = a if second else jnp.maximum(a, b)
    s = jnp.minimum(a, b)
    at_start, at_end, same = (
      jax.random.bernoulli(k, p, (batch_size,))
      for k, p in zip(keys, (start, end, equal), strict=True)
    )
    t = jnp.where(at_start, 1.0, t)
    s = jnp.where(at_end, 0.0, s)
    return t, jnp.where(same, t, s)

  return draw


def power_law_scales(
  low: float = 1.0, high: float = 8.0, power: float = 1.0
) -> Callable[[Array, int], Array]:
  """Makes the draw of guidance scales p(w) ~ w^-power on [low, high], [B].

  Improved MeanFlow (Geng et al. 2025b). ValueError unless 0 < low < high.
  """
  if not 0.0 < low < high:
    raise ValueError(f'low {low} and high {high} must be 0 < low < high')
  exponent = 1.0 - power

  def draw(key, batch_size):
    u = jax.random.uniform(key, (batch_size,))
    if exponent == 0.0:
      return low * (high / low) ** u
    ends = low**exponent, high**exponent
    return (ends[0] + u * (ends[1] - ends[0])) ** (1.0 / exponent)

  return draw


def mean_flow(
  network_fn: NetworkFn,
  schedule: Schedule,
  *,
  times: TwoTimes | None = None,
  improved: bool = True,
  power: float = 0.0,
  offset: float = 1e-3,
  omega: float = 1.0,
  kappa: float = 0.0,
  scales: Callable[[Array, int], Array] | None = None,
  noise_input: NoiseInput,
  time_scale: float = 1.0,
  condition: Condition = unconditional,
  augment: Augment | None = None,
) -> Objective:
  """Returns MeanFlow (Geng et al. 2025), by default its improved form (2025b).

  `mean_flow_error` or `improved_mean_flow_error`, each under `adaptive_loss`
  with `power` and `offset` (the latter of the sum over data axes, as
  published: 1e-3 in the paper and in py-meanflow, 0.01 in the JAX releases of
  both forms). power = 0, the default, is the squared error; 1 is the paper's,
  which seeks modes: in 2-D it is biased and becomes worse with training.

  Guidance is trained in by `guided_velocity`: omega and kappa give the scale
  omega / (1 - kappa), 1 by default. With `scales` (such as `power_law_scales`)
  every example has a scale w of its own, which the network gets as
  cond['guidance_scale'], and omega = 1, kappa = 1 - 1 / w. Both need a
  `condition` with dropout: where cond['drop'] the velocity is unguided. The
  release of the improved form also draws an interval of t for every example,
  outside of which w = 1, and the network gets its ends; here all t are guided.

  Any schedule with slopes; v = eps - x_0 on the straight path. params:
  {'network': ...}. Metrics: loss; error, |u - target|^2; if improved
  error_velocity, that of u(x_t, t, t); loss per quarter of t.
  """
  times = times or two_times()
  guided = scales is not None or (omega, kappa) != (1.0, 0.0)

  def draw(key, batch, context):
    key, pair_key, scale_key = jax.random.split(key, 3)
    size = len(batch['image'])
    t, s = times(pair_key, size, schedule)
    inputs, keys = draw_inputs(
      key, batch, schedule, times=_at(t), condition=condition
    )
    if guided and 'drop' not in inputs.cond:
      raise ValueError('guidance needs a condition with dropout > 0')
    scale = jnp.full(size, omega / (1.0 - kappa))
    if scales is not None:
      scale = scales(scale_key, size)
    return MapInputs(inputs, s, scale), keys

  def loss(params, context, inputs, keys):
    inputs, s, scale = inputs
    inputs = augmented(inputs, augment)
    x0, eps, t, cond = inputs.x0, inputs.eps, inputs.level.t, inputs.cond
    xt = q_sample(x0, eps, inputs.level)
    v = path_velocity(schedule, x0, eps, t)
    if scales is not None:
      cond = cond | {'guidance_scale': scale}
    u_fn = functools.partial(
      _average_velocity,
      network_fn,
      params,
      schedule,
      noise_input=noise_input,
      time_scale=time_scale,
      key=keys[0],
    )
    if guided:
      weights = (omega, kappa) if scales is None else (1.0, 1.0 - 1.0 / scale)
      v = _guided(u_fn, xt, v, t, cond, *weights)
    u_fn = functools.partial(u_fn, cond=cond)
    c = offset / x0[0].size
    if not improved:
      error = mean_flow_error(u_fn, xt, v, t, s)
      return mean_loss(adaptive_loss(error, power, c), t, error=error)
    error, own = improved_mean_flow_error(u_fn, xt, v, t, s)
    losses = adaptive_loss(error, power, c) + adaptive_loss(own, power, c)
    return mean_loss(losses, t, error=error, error_velocity=own)

  return Objective(draw, loss)


def shortcut(
  network_fn: NetworkFn,
  schedule: Schedule,
  *,
  num_steps: int = 128,
  bootstrap: float = 0.25,
  ema_target: bool = False,
  noise_input: NoiseInput,
  time_scale: float = 1.0,
  condition: Condition = unconditional,
) -> Objective:
  """Returns the loss of shortcut models (Frans et al. 2024, Alg. 1).

  With the probability `bootstrap` an example has a step d of 1, 1/2, 1/4, ..,
  2 / num_steps from t, a multiple of d, and the target is `shortcut_target`.
  Else the target is the velocity dx_t/dt, for the smallest step d = 1 /
  num_steps. With ema_target the first target is of the averaged parameters, as
  published: what each doubling of d learns is then that of the one before, as
  old as the average, so that short trainings fall behind. The network gets
  cond['elapsed'] = time_scale d. Both targets are computed for every example.
  The release also clips x between the two steps, and their mean velocity, to
  [-4, 4]; nothing is clipped here. num_steps: a power of 2, ValueError for
  others. params: {'network': ...}. Metrics: loss, and loss per quarter of t.
  """
  depth = num_steps.bit_length() - 1
  if num_steps < 2 or num_steps != 2**depth:
    raise ValueError(f'num_steps is {num_steps}: it must be a power of 2')

  def draw(key, batch, context):
    key, k_key, t_key, kind_key = jax.random.split(key, 4)
    size = len(batch['image'])
    steps = jax.random.bernoulli(kind_key, bootstrap, (size,))
    count = 2 ** jax.random.randint(k_key, (size,), 0, depth)
    count = jnp.where(steps, count, num_steps)
    t = jax.random.randint(t_key, (size,), 1, count + 1) / count
    inputs, keys = draw_inputs(
      key, batch, schedule, times=_at(t), condition=condition
    )
    return MapInputs(inputs, t - 1.0 / count, steps), keys

  def loss(params, context, inputs, keys):
    inputs, s, steps = inputs
    x0, eps, t = inputs.x0, inputs.eps, inputs.level.t
    xt = q_sample(x0, eps, inputs.level)

    def u_fn(params):
      return functools.partial(
        _average_velocity,
        network_fn,
        params,
        schedule,
        noise_input=noise_input,
        time_scale=time_scale,
        cond=inputs.cond,
        key=keys[0],
      )

    target_params = context.ema_params if ema_target else params
    two_steps = shortcut_target(u_fn(target_params), xt, t, t - s)
    v = path_velocity(schedule, x0, eps, t)
    target = jnp.where(expand_to(steps, x0), two_steps, v)
    losses = squared_error(u_fn(params)(xt, t, s), target)
    return mean_loss(losses, t)

  return Objective(draw, loss)


def path_velocity(schedule: Schedule, x0: Array, eps: Array, t: Array) -> Array:
  """Computes alpha' x_0 + sigma' eps at t [B], [B, ...]; eps - x_0 if straight.

  Lipman et al. 2022: the velocity of the path of one example.
  """
  alpha, sigma = (expand_to(a, x0) for a in level_slopes(schedule, t))
  return alpha * x0 + sigma * eps


def _average_velocity(
  network_fn, params, schedule, xt, t, s, *, cond, noise_input, time_scale, key
):
  return velocity_output(
    network_fn,
    params['network'],
    xt,
    schedule(t),
    s,
    noise_input=noise_input,
    cond=cond,
    time_scale=time_scale,
    key=key,
  )


def _guided(u_fn, xt, v, t, cond, omega, kappa):
  # The network's own velocities, without gradient; v where labels are dropped.
  drop = cond['drop']
  own = u_fn(xt, t, t, cond=cond)
  hidden = cond | {'drop': jnp.ones_like(drop)}
  if 'guidance_scale' in cond:
    # Without a label the network is asked for the velocity without guidance.
    hidden['guidance_scale'] = jnp.ones_like(cond['guidance_scale'])
  null = u_fn(xt, t, t, cond=hidden)
  guided = sg(guided_velocity(v, own, null, omega, kappa))
  return jnp.where(expand_to(drop, v), v, guided)


def _at(t):
  # The time sampler of times that are drawn already.
  return lambda key, batch_size, schedule: (schedule(t), jnp.ones(batch_size))
