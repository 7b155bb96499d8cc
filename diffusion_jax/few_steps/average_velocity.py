"""Objectives of average velocities: MeanFlow, self-distillation, shortcuts.

The network gets cond['elapsed'] [B] = time_scale (t - s) in addition to its
input for the level t (`few_steps.maps.velocity_output`). Use an unscaled time,
`time_input(1.0)`: the loss contains the slope in time, which is a thousand
times too large for 1000 t. `mean_flow` and `lagrangian` differentiate the
network by `jax.jvp`, which attention by cuDNN does not support. All evaluations
of a network have the same dropout.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import expand_to
from diffusion_jax.core.checked import checked
from diffusion_jax.core.levels import Schedule
from diffusion_jax.core.losses import TimeSampler, uniform_times
from diffusion_jax.core.process import level_slopes
from diffusion_jax.declared import declares
from diffusion_jax.few_steps.losses import (
  adaptive_loss,
  guided_velocity,
  improved_mean_flow_error,
  lagrangian_error,
  mean_flow_error,
  sg,
  squared_error,
  two_step_velocity,
)
from diffusion_jax.few_steps.maps import velocity_output
from diffusion_jax.ranges import Finite, NonNegative, Positive, Probability, Rate
from diffusion_jax.training.couplings import Coupling
from diffusion_jax.training.objectives import (
  Draws,
  Network,
  Objective,
  augmented,
  draw_inputs,
  mean_loss,
)

Array = jax.Array
TwoTimes = Callable[[Array, int, Schedule], tuple[Array, Array]]


class MapInputs(NamedTuple):
  """Holds the draws of a batch: `Draws`, s, and two numbers of a method, [B].

  scale: the guidance scale; for shortcut models it tells whether the target is
  two steps. share: the first of two steps, over t - s.
  """

  inputs: Draws
  s: Array
  scale: Array
  share: Array


class TrainedGuidance(NamedTuple):
  """Holds guidance that is trained into an average velocity.

  weights: scales [B] -> (omega, kappa) of `guided_velocity`, [] or [B]. draw:
  (key, batch_size) -> scales [B], which the network gets as
  cond['guidance_scale']; None for one scale, which is not an input.
  """

  weights: Callable[[Array], tuple[Array | float, Array | float]]
  draw: Callable[[Array, int], Array] | None = None


@checked
def independent_times(
  times: TimeSampler = uniform_times,
  second: TimeSampler | None = None,
  *,
  p_equal: Probability = 0.75,
  p_t1: Probability = 0.0,
  p_s0: Probability = 0.0,
) -> TwoTimes:
  """Makes (key, batch_size, schedule) -> t, s, each [B], s <= t.

  t and s are the larger and the smaller of two draws from `times`; with
  `second`, t is a draw from `times`, and s the smaller of t and a draw from
  `second` (py-meanflow's second recipe). Then, independently, t = 1 with the
  probability p_t1, s = 0 with p_s0, and s = t with p_equal. A logit-normal
  distribution has almost no mass at t = 1, where samples in one step begin.
  Raises ValueError for probabilities outside [0, 1].
  """

  def draw(key, batch_size, schedule):
    t_key, s_key, *keys, order_key = jax.random.split(key, 6)
    a = times(t_key, batch_size, schedule)[0].t
    b = (second or times)(s_key, batch_size, schedule)[0].t
    # Times of a batch may depend on each other, as antithetic ones do. The
    # random order makes the two times of an example independent.
    b = jax.random.permutation(order_key, b)
    t = a if second else jnp.maximum(a, b)
    s = jnp.minimum(a, b)
    at_start, at_end, same = (
      jax.random.bernoulli(k, p, (batch_size,))
      for k, p in zip(keys, (p_t1, p_s0, p_equal), strict=True)
    )
    t = jnp.where(at_start, 1.0, t)
    s = jnp.where(at_end, 0.0, s)
    return t, jnp.where(same, t, s)

  return draw


def fixed_guidance(omega: Positive, kappa: Rate) -> TrainedGuidance:
  """Makes guidance with the scale omega / (1 - kappa) (Geng et al. 2025)."""
  return TrainedGuidance(lambda scales: (omega, kappa))


@declares(guidance_scale=True)
def power_law_guidance(low: float = 1.0, high: float = 8.0, power: Finite = 1.0) -> TrainedGuidance:
  """Makes guidance with p(w) ~ w^-power on [low, high] for the scale w.

  Each example has its own scale, an input of the network, with omega = 1 and
  kappa = 1 - 1 / w (improved MeanFlow, Geng et al. 2025b). Raises ValueError
  unless 0 < low < high.
  """
  if not 0.0 < low < high:
    raise ValueError(f'must be 0 < low < high, got low={low}, high={high}')
  exponent = 1.0 - power

  def draw(key, batch_size):
    u = jax.random.uniform(key, (batch_size,))
    if exponent == 0.0:
      return low * (high / low) ** u
    ends = low**exponent, high**exponent
    return (ends[0] + u * (ends[1] - ends[0])) ** (1.0 / exponent)

  return TrainedGuidance(lambda w: (1.0, 1.0 - 1.0 / w), draw)


@declares(
  what='improved MeanFlow, |u + (t − s) sg(du/dt) − v|² + |u(t, t) − v|², d/dt along u(t, t) '
  'instead of v; `improved=False`: MeanFlow, |u − sg(v − (t − s) du/dt)|²',
  needs='no teacher',
  map_kind='average_velocity',
  forward_mode=True,
)
def mean_flow(
  network: Network,
  schedule: Schedule,
  *,
  two_times: TwoTimes | None = None,
  guidance: TrainedGuidance | None = None,
  coupling: Coupling | None = None,
  improved: bool = True,
  adaptive_power: Probability = 0.0,
  adaptive_eps: NonNegative = 1e-3,
) -> Objective:
  """Makes MeanFlow (Geng et al. 2025), by default its improved form (2025b).

  The loss is `adaptive_loss` of `mean_flow_error` or of
  `improved_mean_flow_error`, with adaptive_power and adaptive_eps (added to the
  sum over data axes, as published: 1e-3 in the paper and in py-meanflow, 0.01
  in the JAX releases). adaptive_power = 0 is the squared error; 1 is the
  paper's, which seeks modes: in 2-D it is biased and becomes worse with
  training. two_times draws t and s, by default `independent_times()`.

  guidance, such as `fixed_guidance` or `power_law_guidance`, is trained in by
  `guided_velocity`. It needs a condition with dropout: the velocity is unguided
  where cond['drop'] is true. The release of the improved form also draws an
  interval of t without guidance outside of it; here all t are guided.

  The schedule needs slopes; v = eps - x_0 on the straight path. coupling: pairs
  x_0 and noise there, as in `objectives.denoising`. params:
  {'network': ...}. Metrics: loss, also per quarter of t; error, |u -
  target|^2; if improved error_velocity, the error of u(x_t, t, t).
  """
  network.check_options('mean_flow', 'augment')

  def errors(u_fn, xt, v, t, s, share):
    if not improved:
      return {'error': mean_flow_error(u_fn, xt, v, t, s)}
    error, of_velocity = improved_mean_flow_error(u_fn, xt, v, t, s)
    return {'error': error, 'error_velocity': of_velocity}

  return _of_two_times(
    network,
    schedule,
    times=two_times or independent_times(),
    guidance=guidance,
    coupling=coupling,
    errors_fn=errors,
    adaptive_power=adaptive_power,
    adaptive_eps=adaptive_eps,
  )


@declares(
  what='Lagrangian self-distillation, |∂Φ/∂s − sg(u(Φ, s, s))|² + |u(t, t) − v|²',
  needs='no teacher',
  map_kind='average_velocity',
  forward_mode=True,
)
def lagrangian(
  network: Network,
  schedule: Schedule,
  *,
  two_times: TwoTimes | None = None,
  guidance: TrainedGuidance | None = None,
  coupling: Coupling | None = None,
) -> Objective:
  """Makes Lagrangian self-distillation (LSD, Boffi et al. 2025).

  The loss is `lagrangian_error` + |u(x_t, t, t) - v|^2. Its derivative is only
  in s, and the first term is 0 where s = t, so that two_times is by default
  `independent_times(p_equal=0.0)`. All pairs of times have the weight 1. The rest is as
  in `mean_flow`. Metrics: loss, also per quarter of t; error, the first term;
  error_velocity.
  """
  network.check_options('lagrangian', 'augment')

  def errors(u_fn, xt, v, t, s, share):
    error = lagrangian_error(u_fn, xt, t, s)
    return {'error': error, 'error_velocity': squared_error(u_fn(xt, t, t), v)}

  return _of_two_times(
    network,
    schedule,
    times=two_times or independent_times(p_equal=0.0),
    guidance=guidance,
    coupling=coupling,
    errors_fn=errors,
  )


@declares(
  what='progressive self-distillation, |u − sg(mean of two steps from t to s)|² + |u(t, t) − v|²',
  needs='no teacher',
  map_kind='average_velocity',
)
def progressive(
  network: Network,
  schedule: Schedule,
  *,
  two_times: TwoTimes | None = None,
  guidance: TrainedGuidance | None = None,
  coupling: Coupling | None = None,
  midpoint: bool = False,
) -> Objective:
  """Makes progressive self-distillation (PSD, Boffi et al. 2025).

  The loss is |u(x_t, t, s) - `two_step_velocity`|^2 + |u(x_t, t, t) - v|^2,
  without derivatives of the network. The two steps meet at a uniform time, or
  with midpoint at (t + s) / 2. The rest is as in `lagrangian`.
  """
  network.check_options('progressive', 'augment')

  def errors(u_fn, xt, v, t, s, share):
    target = two_step_velocity(u_fn, xt, t, s, 0.5 if midpoint else share)
    error = squared_error(u_fn(xt, t, s), target)
    return {'error': error, 'error_velocity': squared_error(u_fn(xt, t, t), v)}

  return _of_two_times(
    network,
    schedule,
    times=two_times or independent_times(p_equal=0.0),
    guidance=guidance,
    coupling=coupling,
    errors_fn=errors,
  )


def _of_two_times(
  network,
  schedule,
  *,
  times,
  guidance,
  coupling,
  errors_fn,
  adaptive_power=0.0,
  adaptive_eps=0.0,
):
  # errors_fn: (u_fn, xt, v, t, s, share) -> {name: the error that it adds, [B]}

  def draw(key, batch, context):
    return _two_time_inputs(
      key, batch, network, schedule, times=times, guidance=guidance, coupling=coupling
    )

  def loss(params, context, inputs, keys):
    inputs, s, scale, share = inputs
    inputs = augmented(inputs, network.augment)
    x0, eps, t, cond = inputs.x0, inputs.eps, inputs.level.t, inputs.cond
    xt = inputs.xt
    v = path_velocity(schedule, x0, eps, t)
    u_fn = functools.partial(_average_velocity, network, params, schedule, key=keys[0])
    if guidance is not None:
      cond = cond if guidance.draw is None else cond | {'guidance_scale': scale}
      v = _guided(u_fn, xt, v, t, cond, *guidance.weights(scale))
    errors = errors_fn(functools.partial(u_fn, cond=cond), xt, v, t, s, share)
    offset = adaptive_eps / (x0.size // len(x0))
    losses = sum(adaptive_loss(x, adaptive_power, offset) for x in errors.values())
    losses = jnp.asarray(losses)
    return mean_loss(losses, t, **errors, **inputs.metrics)

  return Objective(draw, loss)


def _two_time_inputs(key, batch, network, schedule, times, guidance, coupling):
  key, pair_key, scale_key, share_key = jax.random.split(key, 4)
  size = len(batch['x'])
  t, s = times(pair_key, size, schedule)
  inputs, keys = draw_inputs(key, batch, schedule, network, _at(t), coupling)
  if guidance is not None and 'drop' not in inputs.cond:
    raise ValueError('guidance needs a condition with dropout > 0')
  scale = jnp.ones(size)
  if guidance is not None and guidance.draw is not None:
    scale = guidance.draw(scale_key, size)
  return MapInputs(inputs, s, scale, jax.random.uniform(share_key, (size,))), keys


@declares(
  what='shortcut model, |u(t, t − d) − sg(mean of two steps of d/2)|², and |u − v|² for the '
  'smallest d',
  needs='no teacher',
  map_kind='average_velocity',
)
def shortcut(
  network: Network,
  schedule: Schedule,
  *,
  num_steps: int = 128,
  bootstrap: Probability = 0.25,
  ema_target: bool = False,
) -> Objective:
  """Makes the loss of shortcut models (Frans et al. 2024, Alg. 1).

  With the probability `bootstrap` an example has a step d of 1, 1/2, 1/4, ..,
  2 / num_steps from t, a multiple of d, and the target is the
  `two_step_velocity`.
  Otherwise the target is the velocity dx_t/dt, and d = 1 / num_steps, the
  smallest step. Both targets are computed for all examples. With ema_target the
  first one uses the averaged parameters, as published: the target of each
  doubling of d is then as old as the average, so that short trainings lag. The
  release also clips x between the two steps, and their mean velocity, to
  [-4, 4]. The network gets cond['elapsed'] = time_scale d. params: {'network':
  ...}. Metrics: loss, also per quarter of t. Raises ValueError unless num_steps
  is a power of 2.
  """
  depth = num_steps.bit_length() - 1
  if num_steps < 2 or num_steps != 2**depth:
    raise ValueError(f'num_steps must be a power of 2, got {num_steps}')
  network.check_options('shortcut')

  def draw(key, batch, context):
    key, *time_keys = jax.random.split(key, 4)
    size = len(batch['x'])
    t, d, steps = _shortcut_times(time_keys, size, depth, bootstrap)
    inputs, keys = draw_inputs(key, batch, schedule, network, _at(t))
    return MapInputs(inputs, t - d, steps, jnp.full(size, 0.5)), keys

  def loss(params, context, inputs, keys):
    inputs, s, steps, _ = inputs
    x0, eps, t = inputs.x0, inputs.eps, inputs.level.t
    xt = inputs.xt
    velocity_of = functools.partial(_average_velocity, cond=inputs.cond, key=keys[0])
    u_fn, target_fn = (
      functools.partial(velocity_of, network, p, schedule)
      for p in (params, context.ema_params if ema_target else params)
    )
    two_steps = two_step_velocity(target_fn, xt, t, s)
    v = path_velocity(schedule, x0, eps, t)
    target = jnp.where(expand_to(steps, x0), two_steps, v)
    return mean_loss(squared_error(u_fn(xt, t, s), target), t)

  return Objective(draw, loss)


def _shortcut_times(keys, batch_size, depth, bootstrap):
  # Returns t, d and whether the target is two steps, [B] each.
  k_key, t_key, kind_key = keys
  steps = jax.random.bernoulli(kind_key, bootstrap, (batch_size,))
  count = 2 ** jax.random.randint(k_key, (batch_size,), 0, depth)
  count = jnp.where(steps, count, 2**depth)
  t = jax.random.randint(t_key, (batch_size,), 1, count + 1) / count
  return t, 1.0 / count, steps


def path_velocity(schedule: Schedule, x0: Array, eps: Array, t: Array) -> Array:
  """Computes alpha' x_0 + sigma' eps at t [B], [B, ...]; eps - x_0 if straight.

  Lipman et al. 2022: the velocity of the path of one example.
  """
  alpha, sigma = (expand_to(a, x0) for a in level_slopes(schedule, t))
  return alpha * x0 + sigma * eps


def _average_velocity(network, params, schedule, xt, t, s, *, cond, key):
  params = params['network']
  return velocity_output(network, params, xt, schedule(t), s, cond=cond, key=key)


def _guided(u_fn, xt, v, t, cond, omega, kappa):
  # Returns the guided velocity without gradient, v where labels are dropped.
  drop = cond['drop']
  own = u_fn(xt, t, t, cond=cond)
  hidden = cond | {'drop': jnp.ones_like(drop)}
  if 'guidance_scale' in cond:
    # Without a label the network predicts the velocity without guidance.
    hidden['guidance_scale'] = jnp.ones_like(cond['guidance_scale'])
  null = u_fn(xt, t, t, cond=hidden)
  guided = sg(guided_velocity(v, own, null, omega, kappa))
  return jnp.where(expand_to(drop, v), v, guided)


def _at(t):
  # Makes a time sampler that returns the given times.
  return lambda key, batch_size, schedule: (schedule(t), jnp.ones(batch_size))
