"""Objectives on discrete states: the bounds of D3PM, of masked and of uniform states.

A batch contains states, integers [B, ...]. The network is a function (params,
x_t, noise, cond) -> logits [B, ..., K] (see `make_state_denoiser`); the
parametrization in its `Network` is not used. params: {'network': ...}.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import expand_to, sum_data_axes
from diffusion_jax.core.denoiser import Network
from diffusion_jax.core.levels import NoiseLevel, Schedule, check_schedule, select_level
from diffusion_jax.core.losses import LevelSampler, antithetic_times
from diffusion_jax.core.normal import bits_per_dim
from diffusion_jax.core.step_schedules import num_steps_of
from diffusion_jax.declared import declares
from diffusion_jax.discrete.equations import (
  levels_of_step,
  make_state_denoiser,
  nan_unless_data,
  q_sample_states,
  state_nll,
  transition_kl_states,
)
from diffusion_jax.discrete.level_paths import of_noisy
from diffusion_jax.discrete.masked import (
  end_of_step,
  mask_of,
  masked_weight,
)
from diffusion_jax.discrete.transitions import ReplacementProcess, StateProcess
from diffusion_jax.discrete.uniform import jump_nats, uniform_weight
from diffusion_jax.training.objectives import (
  Objective,
  check_levels,
  elements_as_rows,
  mean_loss,
  of_elements,
  valid_share,
)

Array = jax.Array


class StateInputs(NamedTuple):
  """Holds the draws of a batch: x_0 and x_t [B, ...], level, cond, weight of the level.

  valid_share: as of `training.objectives.Draws`.
  """

  x0: Array
  xt: Array
  level: NoiseLevel
  cond: dict
  time_weight: Array
  valid_share: Array | None = None


def batch_states(batch: dict) -> Array:
  """Returns batch['states'], the integers [B, ...] of a batch."""
  return batch['states']


@declares(
  what='L_hybrid of [discrete states](discrete.md#training) (D3PM, Austin et al. 2021, Eq. 5)',
  data='levels',
)
def d3pm(
  network: Network,
  process: StateProcess,
  schedule: Schedule,
  *,
  num_steps: int,
  cross_entropy_weight: float = 0.001,
  states: Callable[[dict], Array] = batch_states,
) -> Objective:
  """Makes the hybrid loss of D3PM, bits per dim (Austin et al. 2021, Eq. 5).

  At a random one of num_steps steps it is L_{t-1} - cross_entropy_weight * log
  p(x_0 | x_t): L_lambda / T without L_T. p(x_0 | x_t) is the denoiser's
  (`posterior_logits`); the paper uses the network's own logits in this term.
  states: batch -> x_0 [B, ...]. Metrics: loss, also per quarter of t; vlb, T
  L_{t-1}, whose mean is the bound without L_T; cross_entropy.
  """

  def terms(logits, inputs):
    x0, xt, level = inputs.x0, inputs.xt, inputs.level
    step = jnp.rint(level.t * num_steps)
    levels = levels_of_step(schedule, step, num_steps)
    kl = transition_kl_states(logits, x0, xt, process, *levels)
    kl, nll = (bits_per_dim(nats, x0.shape[1:]) for nats in (kl, state_nll(logits, x0)))
    losses = kl + cross_entropy_weight * nll
    return losses, {'vlb': num_steps * kl, 'cross_entropy': nll}

  network.check_options('d3pm')
  return _objective(network, process, schedule, num_steps, states, terms)


@declares(
  what='the bound of masked states (MD4, Shi et al. 2024; MDLM, Sahoo et al. 2024)',
  data='levels',
  lengths=True,
)
def masked(
  network: Network,
  process: StateProcess,
  schedule: Schedule,
  *,
  num_steps: int | None = None,
  states: Callable[[dict], Array] = batch_states,
  levels: LevelSampler | None = None,
) -> Objective:
  """Makes the bound of masked diffusion, bits per dim.

  It is the cross-entropy of masked elements with `masked_weight` (MD4, Shi et
  al. 2024; MDLM, Sahoo et al. 2024), in continuous time or for num_steps steps.
  states: batch -> x_0 [B, ...]. levels: draws a level for each element of x_0 [B, T, ...];
  with `levels_in_turn` it is the bound by blocks. With cond['valid'] [B, T] it is a mean over
  the elements that do not pad an example. Metrics: loss, also per quarter of t.
  Raises ValueError for a process without a masked state.
  """
  mask, weight = mask_of(process, 'masked'), masked_weight(schedule, num_steps)

  def terms(logits, inputs):
    x0, xt, level = inputs.x0, inputs.xt, inputs.level
    nats = of_noisy(weight, schedule, level) * state_nll(logits, x0, xt == mask)
    nats = nan_unless_data(nats, x0, process)
    return bits_per_dim(nats, x0.shape[1:]), {}

  network.check_options('masked')
  return _objective(network, process, schedule, num_steps, states, terms, levels=levels)


@declares(
  what='the bound of uniform states in continuous time (UDLM, Schiff et al. 2024)',
  data='levels',
  lengths=True,
)
def uniform(
  network: Network,
  process: ReplacementProcess,
  schedule: Schedule,
  *,
  states: Callable[[dict], Array] = batch_states,
  levels: LevelSampler | None = None,
) -> Objective:
  """Makes the bound of uniform states in continuous time, bits per dim.

  It is `jump_nats` with `uniform_weight` (UDLM, Schiff et al. 2024), without the prior's
  term. For the arguments see `masked`. Raises ValueError for a process with a masked
  state, whose bound is `masked`, for one of explicit matrices, and for a schedule of steps.
  """
  if not isinstance(process, ReplacementProcess) or process.mask is not None:
    raise ValueError(
      'uniform needs a process whose noise is any of the states, such as uniform_process '
      '(transitions uniform)'
    )
  if num_steps_of(schedule) is not None:
    raise ValueError(
      'uniform is the bound in continuous time, and the schedule has steps: take d3pm, or a '
      'schedule in continuous time'
    )
  weight = uniform_weight(schedule)

  def terms(logits, inputs):
    x0, xt, level = inputs.x0, inputs.xt, inputs.level
    nats = sum_data_axes(jump_nats(logits, x0, xt, process, level))
    nats = nan_unless_data(of_noisy(weight, schedule, level) * nats, x0, process)
    return bits_per_dim(nats, x0.shape[1:]), {}

  network.check_options('uniform')
  return _objective(network, process, schedule, None, states, terms, levels=levels)


def _objective(network, process, schedule, num_steps, states, terms, levels=None):
  # Makes the objective of terms(logits, inputs) -> (losses [B], metrics) at
  # antithetic times, which are the ends of steps if num_steps is given. With levels
  # of elements, or padding, each is a row of its own.
  if levels is not None:
    check_levels(network)

  def draw(key, batch, context):
    check_schedule(schedule)
    x0, share = states(batch), None
    time_key, xt_key, cond_key, dropout_key = jax.random.split(key, 4)
    if levels is None:
      level, weight = antithetic_times(time_key, len(x0), schedule)
    else:
      level, weight = levels(time_key, x0.shape[:2], antithetic_times, schedule)
    stepped = schedule(end_of_step(level.t, num_steps))
    level = select_level(level.sigma > 0.0, stepped, level)
    cond = network.condition(cond_key, batch)
    if 'valid' in cond:  # What pads an example may be anything.
      x0 = jnp.where(expand_to(cond['valid'], x0), x0, 0)
      share = valid_share(cond['valid'])
    xt = q_sample_states(xt_key, x0, process, level)
    return StateInputs(x0, xt, level, cond, weight, share), dropout_key

  def loss(params, context, inputs, key):
    denoise = make_state_denoiser(network, params['network'], inputs.cond, process=process, key=key)
    logits = denoise(inputs.xt, inputs.level)
    valid, share = inputs.cond.get('valid'), inputs.valid_share
    if levels is not None or valid is not None:
      level, weight = of_elements((inputs.level, inputs.time_weight), inputs.x0.shape[:2])
      if valid is not None:
        weight = jnp.where(valid, weight, 0.0)
      rows = StateInputs(inputs.x0, inputs.xt, level, {}, weight)
      inputs, logits = jax.tree.map(elements_as_rows, (rows, logits))
    losses, metrics = terms(logits, inputs)
    return mean_loss(losses, inputs.level.t, inputs.time_weight, share=share, **metrics)

  return Objective(draw, loss)
