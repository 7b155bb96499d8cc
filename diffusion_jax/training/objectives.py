"""Training losses: the contract of an objective, and denoising objectives.

A batch is {'image': [B, H, W, C] in [-1, 1]} and, for labelled sets,
{'label': [B]}. An `Objective` draws for the whole batch and computes its loss
for any rows of what was drawn, so that `training.step` alone handles gradient
accumulation. Metrics are `Mean`s, which average correctly over steps.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.core.broadcasting import expand_to
from diffusion_jax.core.denoiser import (
  NetworkFn,
  NoiseInput,
  network_output,
  variance_fraction,
)
from diffusion_jax.core.elbo import (
  bound_term,
  categorical_nll,
  prior_kl,
  reconstruction_nll,
)
from diffusion_jax.core.keys import key_per_example
from diffusion_jax.core.levels import NoiseLevel, Schedule, clean_level
from diffusion_jax.core.losses import (
  TimeSampler,
  Weight,
  antithetic_times,
  denoising_loss,
  step_times,
)
from diffusion_jax.core.normal import bits_per_dim
from diffusion_jax.core.parametrization import to_x0
from diffusion_jax.core.process import p_reverse, q_sample, reverse_variance
from diffusion_jax.core.vdm import vdm_weight
from diffusion_jax.training.conditions import Condition, unconditional
from diffusion_jax.training.loss_aware import (
  init_loss_history,
  loss_aware_times,
  record,
)

Array = jax.Array
Augment = Callable[[Array, Array], tuple[Array, Array]]
Uncertainty = Callable[[Any, NoiseLevel], Array]


class Mean(NamedTuple):
  """Holds a mean that can be added up: total / count, NaN for no count."""

  total: Array
  count: Array  # pyright: ignore[reportIncompatibleMethodOverride]


class Context(NamedTuple):
  """Holds what a loss may depend on beside its parameters and the batch.

  step: [], the updates so far; ema_params: the average of the parameters;
  frozen: parameters that are not trained, such as those of a teacher; state:
  that of the objective, `TrainState.objective_state`.
  """

  step: Array | int = 0
  ema_params: Any = ()
  frozen: Any = ()
  state: Any = ()


def keep_state(state: Any, records: Any) -> Any:
  """Returns `state` as it is: the update of an objective without memory."""
  return state


@dataclasses.dataclass(frozen=True)
class Objective:
  """Holds a training loss as functions; a call computes it of a whole batch.

  draw(key, batch, context) -> (inputs, keys): all random numbers of the batch
  and what the loss needs of it, arrays [B, ...]; keys of the network's dropout.
  loss(params, context, inputs, keys) -> (loss [], (metrics, records)), for any
  rows of inputs; records: [B, ...], or (). update(state, records) -> state of
  the next step; init() -> state of the first step. separable: the loss is a
  mean over the rows, so that the mean over parts of a batch is that of the
  batch. constrain(params) -> the parameters with which the step ends, such as
  normalised weights, after the update of the optimizer.
  """

  draw: Callable[[Array, dict, Context], tuple[Any, Any]]
  loss: Callable[[Any, Context, Any, Any], tuple[Array, tuple[dict, Any]]]
  update: Callable[[Any, Any], Any] = keep_state
  separable: bool = True
  init: Callable[[], Any] = lambda: ()
  constrain: Callable[[Any], Any] = lambda params: params

  def __call__(
    self, params: Any, context: Context, key: Array, batch: dict
  ) -> tuple[Array, tuple[dict, Any]]:
    """Returns (loss [], (metrics, state of the next step)) of a batch."""
    inputs, keys = self.draw(key, batch, context)
    loss, (metrics, records) = self.loss(params, context, inputs, keys)
    return loss, (metrics, self.update(context.state, records))


class Inputs(NamedTuple):
  """Holds what is drawn for a batch of a denoising objective, [B, ...].

  level and time_weight: of the time sampler; cond: what the network is
  conditioned on; augment_keys: of the augmentation; estimated: where
  self-conditioning shows the network a first estimate.
  """

  x0: Array
  eps: Array
  level: Any
  time_weight: Array
  cond: dict
  augment_keys: Array
  estimated: Array


def draw_inputs(
  key: Array,
  batch: dict,
  schedule: Any,
  *,
  times: TimeSampler,
  condition: Condition,
  estimate_probability: float = 0.5,
) -> tuple[Inputs, tuple[Array, ...]]:
  """Returns (inputs, keys): keys for two evaluations of the network.

  The level is what `schedule` returns of the drawn t [B].
  """
  x0 = batch['image']
  time_key, eps_key, cond_key, *dropout_keys, augment_key, first_key = (
    jax.random.split(key, 7)
  )
  level, time_weight = times(time_key, x0.shape[0], schedule)
  inputs = Inputs(
    x0=x0,
    eps=jax.random.normal(eps_key, x0.shape),
    level=level,
    time_weight=time_weight,
    cond=condition(cond_key, batch),
    augment_keys=key_per_example(augment_key, len(x0)),
    estimated=jax.random.bernoulli(
      first_key, estimate_probability, x0.shape[:1]
    ),
  )
  return inputs, tuple(dropout_keys)


def augmented(inputs: Inputs, augment: Augment | None) -> Inputs:
  """Returns inputs with changed images, and the labels in cond['augment'].

  augment: (keys [B], x0) -> (x0, labels), as `augmentation.augment`.
  """
  if augment is None:
    return inputs
  x0, labels = augment(inputs.augment_keys, inputs.x0)
  return inputs._replace(x0=x0, cond=inputs.cond | {'augment': labels})


def make_output_at(
  network_fn: NetworkFn,
  *,
  parametrization: str,
  noise_input: NoiseInput,
  sigma_data: float = 0.5,
) -> Callable[..., Array]:
  """Returns f(params, xt, level, cond, keys, estimated=None) -> [B, ...].

  f is the network's raw output at any x_t and level; a loss at several levels
  of an example calls it several times. params: {'network': ...}; keys: two, of
  dropout. For self-conditioning, examples that are `estimated` [B] are seen
  with a first estimate, cond['x0'], clipped to [-1, 1] and without gradient,
  the others with zeros (Chen et al. 2022, Alg. 1; they toss one coin for the
  batch, here each example has its own).
  """

  def apply(params, xt, level, cond, key):
    return network_output(
      network_fn,
      params['network'],
      xt,
      level,
      parametrization=parametrization,
      noise_input=noise_input,
      cond=cond,
      sigma_data=sigma_data,
      key=key,
    )

  def output_at(params, xt, level, cond, keys, estimated=None):
    key, first_key = keys
    if estimated is not None:
      first = apply(params, xt, level, cond, first_key)
      first = first[..., : xt.shape[-1]]  # without a learned variance
      first = to_x0(parametrization, first, xt, level, sigma_data)
      first = jnp.clip(first, -1.0, 1.0)
      first = jnp.where(expand_to(estimated, xt), first, 0.0)
      cond = cond | {'x0': jax.lax.stop_gradient(first)}
    return apply(params, xt, level, cond, key)

  return output_at


def denoising(
  network_fn: NetworkFn,
  schedule: Schedule,
  *,
  parametrization: str,
  times: TimeSampler,
  weight: Weight,
  noise_input: NoiseInput,
  condition: Condition = unconditional,
  learned_variance: bool = False,
  sigma_data: float = 0.5,
  augment: Augment | None = None,
  self_conditioning: bool = False,
  estimate_probability: float = 0.5,
  uncertainty: Uncertainty | None = None,
) -> Objective:
  """Denoising at a random level (DDPM Alg. 1, in any parametrisation).

  The loss is `denoising_loss` per dimension; with 'eps' and `snr_weight` that
  is L_simple, with 'edm', `edm_weight` and `log_normal_times` EDM's (Karras et
  al. 2022, who take the sum), with 'flow' flow matching. A network with
  `learned_variance` has twice the channels, of which the first half enters this
  loss. See `augmented` for `augment`, `make_output_at` for `self_conditioning`.
  params: {'network': ...}. Metrics: loss, and loss per quarter of t.

  uncertainty: (params, level) -> u [B], trained with the network. A loss l
  becomes l / exp(u) + u, whose minimum is at u = ln E[l]: each level gets the
  inverse of its own error as weight (Karras et al. 2024, EDM2, Eq. 14 to 16;
  they take the sum over dimensions of both terms). The metric `error` is then
  the mean of l.
  """
  draw = functools.partial(
    draw_inputs,
    times=times,
    condition=condition,
    estimate_probability=estimate_probability,
  )
  output_at = make_output_at(
    network_fn,
    parametrization=parametrization,
    noise_input=noise_input,
    sigma_data=sigma_data,
  )

  def loss(params, context, inputs, keys):
    inputs = augmented(inputs, augment)
    x0, eps, level = inputs.x0, inputs.eps, inputs.level
    xt = q_sample(x0, eps, level)
    estimated = inputs.estimated if self_conditioning else None
    output = output_at(params, xt, level, inputs.cond, keys, estimated)
    if learned_variance:
      output, _ = jnp.split(output, 2, axis=-1)
    losses = denoising_loss(
      parametrization, output, x0, eps, level, weight, sigma_data
    )
    losses /= x0[0].size
    terms = {'loss': losses}
    if uncertainty is not None:
      u = uncertainty(params, level)
      terms = {'error': losses, 'loss': losses * jnp.exp(-u) + u}
    terms = {name: inputs.time_weight * term for name, term in terms.items()}
    metrics = {
      name: Mean(jnp.mean(term), jnp.ones(())) for name, term in terms.items()
    }
    metrics |= by_quarter(terms['loss'], level.t)
    return metrics['loss'].total, (metrics, ())

  return Objective(lambda key, batch, _: draw(key, batch, schedule), loss)


def hybrid(
  network_fn: NetworkFn,
  schedule: Schedule,
  *,
  num_steps: int,
  parametrization: str,
  weight: Weight | None,
  noise_input: NoiseInput,
  vlb_weight: float = 0.001,
  loss_aware: bool = False,
  num_levels: int = 256,
  condition: Condition = unconditional,
  sigma_data: float = 0.5,
) -> Objective:
  """Returns L_simple + vlb_weight * L_vlb (Nichol & Dhariwal 2021, Eq. 16).

  The network has twice the channels: a learned variance. L_vlb, in bits per
  dimension, is T times `bound_term` at one step t of 1..T (step 1 ends at x_0,
  whatever schedule(0) is), with num_levels grey levels; its mean is detached,
  so it trains the variance alone. weight=None leaves out L_simple and detaches
  nothing: vlb_weight=1 is then the pure L_vlb.

  loss_aware draws t by Eq. 18; the objective's state is then a `LossHistory`
  over num_steps. Otherwise as `denoising`. Metrics: also vlb and simple. Raises
  ValueError for fewer than 2 steps.
  """
  if num_steps < 2:
    raise ValueError(f'num_steps is {num_steps}: a bound needs at least 2')
  output_at = make_output_at(
    network_fn,
    parametrization=parametrization,
    noise_input=noise_input,
    sigma_data=sigma_data,
  )
  decoder = functools.partial(reconstruction_nll, num_levels=num_levels)

  def draw(key, batch, context):
    times = (
      loss_aware_times(context.state) if loss_aware else step_times(num_steps)
    )
    return draw_inputs(key, batch, schedule, times=times, condition=condition)

  def vlb(x0, xt, level_t, step, output, fraction):
    # [B], bits per dimension
    x0_hat = to_x0(parametrization, output, xt, level_t, sigma_data)
    level_s = jax.tree.map(
      lambda clean, s: jnp.where(step == 1, clean, s),
      clean_level(),
      schedule((step - 1) / num_steps),
    )
    one, two = schedule(1 / num_steps), schedule(2 / num_steps)
    model = p_reverse(
      x0_hat,
      xt,
      level_s,
      level_t,
      'learned',
      variance_fraction(fraction),
      first=reverse_variance('fixed_small', one, two),
    )
    nats = bound_term(x0, xt, model, level_s, level_t, decoder)
    return num_steps * bits_per_dim(nats, x0.shape[1:])

  def loss(params, context, inputs, keys):
    x0, eps, level = inputs.x0, inputs.eps, inputs.level
    xt = q_sample(x0, eps, level)
    output = output_at(params, xt, level, inputs.cond, keys)
    step = jnp.rint(level.t * num_steps).astype(int)
    output, fraction = jnp.split(output, 2, axis=-1)
    mean = output if weight is None else jax.lax.stop_gradient(output)
    terms = {'vlb': vlb(x0, xt, level, step, mean, fraction)}
    losses = vlb_weight * terms['vlb']
    if weight is not None:
      error = denoising_loss(
        parametrization, output, x0, eps, level, weight, sigma_data
      )
      terms['simple'] = error / x0[0].size
      losses += terms['simple']
    terms['loss'] = losses
    terms = {name: inputs.time_weight * term for name, term in terms.items()}
    metrics = {
      name: Mean(jnp.mean(term), jnp.ones(())) for name, term in terms.items()
    }
    metrics |= by_quarter(terms['loss'], level.t)
    return metrics['loss'].total, (metrics, (step, losses))

  if not loss_aware:
    return Objective(draw, loss)
  return Objective(
    draw,
    loss,
    lambda history, records: record(history, *records),
    init=functools.partial(init_loss_history, num_steps),
  )


def vdm(
  network_fn: NetworkFn,
  make_schedule: Callable[[Any], Schedule],
  *,
  num_levels: int,
  num_steps: int | None = None,
  parametrization: str = 'eps',
  noise_input: NoiseInput,
  condition: Condition = unconditional,
  sigma_data: float = 0.5,
) -> Objective:
  """Returns the variational bound, bits per dim (Kingma et al. 2021, Eq. 11).

  Prior loss, diffusion loss at one antithetic time per image and reconstruction
  loss, in continuous time or for a model of `num_steps` steps. make_schedule
  takes params to a schedule with 0 < SNR < inf at both ends; where it reads
  them the schedule is learned. Images lie on num_levels grey levels.
  params: {'network': ..., 'schedule': ...}. Metrics: loss, its three parts, the
  diffusion part per quarter of t, and the log-SNRs at t = 0 and 1.
  """
  output_at = make_output_at(
    network_fn,
    parametrization=parametrization,
    noise_input=noise_input,
    sigma_data=sigma_data,
  )

  def draw(key, batch, context):
    # t alone: a learned schedule takes it to a level that gradients reach
    key, eps_key = jax.random.split(key)
    inputs, keys = draw_inputs(
      key, batch, lambda t: t, times=antithetic_times, condition=condition
    )
    eps_0 = jax.random.normal(eps_key, batch['image'].shape)
    return (inputs, eps_0), keys

  def loss(params, context, inputs, keys):
    schedule = make_schedule(params)
    inputs, eps_0 = inputs
    x0, eps, t = inputs.x0, inputs.eps, inputs.level
    if num_steps is not None:  # the end of the step that t is in
      t = jnp.ceil(t * num_steps) / num_steps
    level = schedule(t)
    xt = q_sample(x0, eps, level)
    output = output_at(params, xt, level, inputs.cond, keys)
    weight = vdm_weight(schedule, num_steps)
    diffusion = inputs.time_weight * denoising_loss(
      parametrization, output, x0, eps, level, weight, sigma_data
    )
    first, last = schedule(0.0), schedule(1.0)
    z0 = q_sample(x0, eps_0, first)
    nats = {
      'prior': prior_kl(x0, last),
      'diffusion': diffusion,
      'reconstruction': categorical_nll(x0, z0, first, num_levels),
    }
    parts = {name: bits_per_dim(n, x0.shape[1:]) for name, n in nats.items()}
    means = {name: jnp.mean(bits) for name, bits in parts.items()}
    total = jnp.asarray(sum(means.values()))
    means |= {'loss': total, 'logsnr_0': first.logsnr, 'logsnr_1': last.logsnr}
    metrics = {name: Mean(x, jnp.ones(())) for name, x in means.items()}
    metrics |= by_quarter(parts['diffusion'], level.t)
    return total, (metrics, ())

  return Objective(draw, loss)


def mean_loss(
  losses: Array, t: Array, **terms: Array
) -> tuple[Array, tuple[dict[str, Mean], tuple]]:
  """Returns (loss [], (metrics, ())) of losses [B] at times t [B].

  The metrics are the means of the losses, of the other terms [B] by name, and
  of the losses per quarter of t.
  """
  terms = {'loss': losses} | terms
  metrics = {
    name: Mean(jnp.mean(term), jnp.ones(())) for name, term in terms.items()
  }
  metrics |= by_quarter(losses, t)
  return metrics['loss'].total, (metrics, ())


def by_quarter(losses: Array, t: Array) -> dict[str, Mean]:
  """Returns means of losses [B] over the four quarters of t in (0, 1]."""
  quarter = jnp.clip(jnp.ceil(4.0 * t), 1, 4)
  means = {}
  for q in range(1, 5):
    inside = quarter == q
    total = jnp.sum(jnp.where(inside, losses, 0.0))
    means[f'loss_quarter_{q}'] = Mean(total, jnp.sum(inside, dtype=float))
  return means


def __getattr__(name):
  if name != 'ddpm':
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  warnings.warn(
    'objectives.ddpm is now objectives.denoising, with condition= for told=; '
    'the old name will be removed',
    DeprecationWarning,
    stacklevel=2,
  )
  return denoising
