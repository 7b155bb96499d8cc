"""Objectives on discrete states: the bounds of D3PM and of masked diffusion.

A batch contains states, integers [B, ...]. The network is a function (params,
x_t, noise, cond) -> logits [B, ..., K] (see `make_state_denoiser`); the
parametrization in its `Network` is not used. params: {'network': ...}.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.core.denoiser import Network
from diffusion_jax.core.levels import NoiseLevel, Schedule, check_schedule
from diffusion_jax.core.losses import antithetic_times
from diffusion_jax.core.normal import bits_per_dim
from diffusion_jax.declared import declares
from diffusion_jax.discrete.equations import (
  levels_of_step,
  make_state_denoiser,
  nan_unless_data,
  q_sample_states,
  state_nll,
  transition_kl_states,
)
from diffusion_jax.discrete.masked import (
  end_of_step,
  mask_of,
  masked_weight,
)
from diffusion_jax.discrete.transitions import StateProcess
from diffusion_jax.training.objectives import Objective, mean_loss

Array = jax.Array


class StateInputs(NamedTuple):
  """Holds the draws of a batch: x_0 and x_t [B, ...], level, cond."""

  x0: Array
  xt: Array
  level: NoiseLevel
  cond: dict


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
    x0, xt, level, _ = inputs
    step = jnp.rint(level.t * num_steps)
    levels = levels_of_step(schedule, step, num_steps)
    kl = transition_kl_states(logits, x0, xt, process, *levels)
    kl, nll = (bits_per_dim(nats, x0.shape[1:]) for nats in (kl, state_nll(logits, x0)))
    losses = kl + cross_entropy_weight * nll
    return losses, {'vlb': num_steps * kl, 'cross_entropy': nll}

  network.check_options('d3pm')
  return _objective(network, process, schedule, num_steps, states, terms)


@declares(
  what='the bound of masked states (MD4, Shi et al. 2024; MDLM, Sahoo et al. 2024)', data='levels'
)
def masked(
  network: Network,
  process: StateProcess,
  schedule: Schedule,
  *,
  num_steps: int | None = None,
  states: Callable[[dict], Array] = batch_states,
) -> Objective:
  """Makes the bound of masked diffusion, bits per dim.

  It is the cross-entropy of masked elements with `masked_weight` (MD4, Shi et
  al. 2024; MDLM, Sahoo et al. 2024), in continuous time or for num_steps steps.
  states: batch -> x_0 [B, ...]. Metrics: loss, also per quarter of t. Raises
  ValueError for a process without a masked state.
  """
  mask, weight = mask_of(process, 'masked'), masked_weight(schedule, num_steps)

  def terms(logits, inputs):
    x0, xt, level, _ = inputs
    nats = weight(level) * state_nll(logits, x0, xt == mask)
    nats = nan_unless_data(nats, x0, process)
    return bits_per_dim(nats, x0.shape[1:]), {}

  network.check_options('masked')
  return _objective(network, process, schedule, num_steps, states, terms)


def _objective(network, process, schedule, num_steps, states, terms):
  # Makes the objective of terms(logits, inputs) -> (losses [B], metrics) at
  # antithetic times, which are the ends of steps if num_steps is given.
  def draw(key, batch, context):
    check_schedule(schedule)
    x0 = states(batch)
    time_key, xt_key, cond_key, dropout_key = jax.random.split(key, 4)
    level, _ = antithetic_times(time_key, len(x0), schedule)
    level = schedule(end_of_step(level.t, num_steps))
    xt = q_sample_states(xt_key, x0, process, level)
    cond = network.condition(cond_key, batch)
    return StateInputs(x0, xt, level, cond), dropout_key

  def loss(params, context, inputs, key):
    denoise = make_state_denoiser(network, params['network'], inputs.cond, process=process, key=key)
    logits = denoise(inputs.xt, inputs.level)
    losses, metrics = terms(logits, inputs)
    return mean_loss(losses, inputs.level.t, **metrics)

  return Objective(draw, loss)
