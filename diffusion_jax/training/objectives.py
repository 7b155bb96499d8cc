"""Training losses: the contract of an objective, and denoising objectives.

A batch is {'x': [B, ...], pictures in [-1, 1]} and, for labelled sets,
{'label': [B]}. An `Objective` draws for the whole batch and computes its loss
for any rows of the draws, so that only `training.step` handles gradient
accumulation. Metrics are `Mean`s, which average correctly over steps.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.aliases import Params, PyTree
from diffusion_jax.core.arguments import expand_to
from diffusion_jax.core.checked import Key
from diffusion_jax.core.denoiser import (
  Augment,
  Condition,
  Network,
  finite_logsnr,
  variance_fraction,
)
from diffusion_jax.core.elbo import bound_term, reconstruction_nll
from diffusion_jax.core.keys import key_per_example
from diffusion_jax.core.levels import (
  NoiseLevel,
  Schedule,
  check_schedule,
  clean_level,
  select_level,
)
from diffusion_jax.core.losses import (
  LevelSampler,
  TimeSampler,
  Weight,
  snr_weight,
  step_times,
)
from diffusion_jax.core.normal import bits_per_dim
from diffusion_jax.core.process import p_reverse, q_sample, reverse_variance
from diffusion_jax.declared import declares
from diffusion_jax.meshes import placed_as
from diffusion_jax.ranges import NonNegative
from diffusion_jax.training.conditions import ImageCondition
from diffusion_jax.training.couplings import Coupling, paired
from diffusion_jax.training.loss_aware import init_loss_history, loss_aware_times, record

Array = jax.Array
LogVarianceOf = Callable[[Params, NoiseLevel], Array]


class Mean(NamedTuple):
  """Holds a mean as total / count, so that means can be added up."""

  total: Array
  count: Array  # pyright: ignore[reportIncompatibleMethodOverride]


# A step after the end of whatever a loss changes by steps, such as a warm-up or stages.
AT_THE_END = 10**9

# The loss [], its metrics, and the records [B, ...] or the state after them.
Loss = tuple[Array, tuple[dict[str, Mean], PyTree]]


class Context(NamedTuple):
  """Holds the inputs of a loss besides parameters and batch.

  step: [], number of updates, AT_THE_END for a loss that is no training's; ema_params:
  the average of the parameters; frozen: parameters that are not trained, such as a
  teacher's; state: the objective's own state, `TrainState.objective_state`.
  """

  step: Array | int = 0
  ema_params: Params = ()
  frozen: Params = ()
  state: PyTree = ()


@dataclasses.dataclass(frozen=True)
class Objective:
  """Holds a training loss as functions; a call computes it for a whole batch.

  draw(key, batch, context) -> (inputs, keys): all random numbers of the batch
  and the data that the loss needs, arrays [B, ...]; the keys of the network's
  dropout. loss(params, context, inputs, keys) -> (loss [], (metrics, records)),
  for any rows of inputs; records: [B, ...], or (). update(state, records) ->
  state of the next step; init() -> state of the first step. separable: the loss
  is a mean over the rows, so that it is the mean over parts of a batch.
  constrain(params) -> parameters at the end of a step, such as normalised
  weights, after the update of the optimizer. parameters(key) -> its own ones, {name: tree},
  which are trained, averaged and stored beside those of the network, such as a head.
  """

  draw: Callable[[Array, dict, Context], tuple[PyTree, PyTree]]
  loss: Callable[[Params, Context, PyTree, PyTree], Loss]
  update: Callable[[PyTree, PyTree], PyTree] = lambda state, records: state
  separable: bool = True
  init: Callable[[], PyTree] = lambda: ()
  constrain: Callable[[Params], Params] = lambda params: params
  parameters: Callable[[Array], Params] = lambda key: {}

  def __call__(self, params: Params, context: Context, key: Key, batch: dict) -> Loss:
    """Returns (loss [], (metrics, state of the next step)) of a batch."""
    inputs, keys = self.draw(key, batch, context)
    loss, (metrics, records) = self.loss(params, context, inputs, keys)
    return loss, (metrics, self.update(context.state, records))


def at_the_end(objective: Objective, params: Params, frozen: Params = ()) -> Context:
  """Returns the context of a loss that does not depend on the training but for its parameters.

  Its step is after the end of all stages and warm-ups, and its state the first one, so
  that losses of two steps can be compared.
  """
  return Context(jnp.int32(AT_THE_END), params, frozen, objective.init())


def of_each(
  objective: Objective, params: Params, context: Context, key: Key, batch: dict
) -> dict[str, Mean]:
  """Computes the metrics of each row of a batch, [B], at the draws of the whole batch.

  The objective is separable: the totals of the rows add up to the batch's.
  """
  inputs, keys = objective.draw(key, batch, context)

  def of_row(row):
    row = jax.tree.map(lambda x: x[None], row)
    return objective.loss(params, context, row, keys)[1][0]

  return jax.vmap(of_row)(inputs)


class Draws(NamedTuple):
  """Holds the draws of a denoising objective for a batch, [B, ...].

  level and time_weight come from the time sampler, [B], or [B, T] for a level of each
  element; cond comes from the network's condition. augment_keys are the augmentation's
  keys, None without one; estimated marks the examples with a first estimate. metrics
  are of the coupling's plan. valid_share: the share of the batch's elements that do not pad
  an example, one number [B], by which the mean over all elements is divided; None without
  padding.
  """

  x0: Array
  eps: Array
  level: PyTree  # `NoiseLevel`s, or the times of a learned schedule
  time_weight: Array
  cond: dict
  augment_keys: Array | None
  estimated: Array
  metrics: dict[str, Array] = {}
  valid_share: Array | None = None

  @property
  def xt(self) -> Array:
    """The noised data at the level, `q_sample`."""
    return q_sample(self.x0, self.eps, self.level)


def make_condition(
  labels: bool = True,
  dropout: float = 0.0,
  image: ImageCondition | None = None,
  text: bool = False,
  context: bool = False,
  valid: bool = False,
) -> Condition:
  """Returns a function (key, batch) -> cond for a whole batch.

  labels: cond['label'] is batch['label']. image: cond['image'] is image(key,
  batch['x']), such as `inpaint()`. text: cond['text'], tokens [B, L], and
  cond['text_mask'], False at padding. context: cond['context'] is
  batch['context']. valid: cond['valid'] is batch['valid'] [B, T], False at elements
  that pad an example. dropout: the probability that an example is trained without
  any of these, marked in cond['drop'] [B], for classifier-free guidance (Ho &
  Salimans 2022).
  """

  def condition(key, batch):
    drop_key, x_key = jax.random.split(key)
    cond = {'label': batch['label']} if labels else {}
    if text:
      cond |= {name: batch[name] for name in ('text', 'text_mask')}
    if context:
      cond['context'] = batch['context']
    if image is not None:
      cond['image'] = image(x_key, batch['x'])
    if valid:
      cond['valid'] = batch['valid']
    if dropout:
      size = batch['x'].shape[:1]
      cond['drop'] = jax.random.bernoulli(drop_key, dropout, size)
    return cond

  return condition


def draw_inputs(
  key: Key,
  batch: dict,
  schedule: Any,
  network: Network,
  times: TimeSampler,
  coupling: Coupling | None = None,
  levels: LevelSampler | None = None,
  pads: bool = False,
) -> tuple[Draws, tuple[Array, ...]]:
  """Draws the inputs of a batch, and keys for two evaluations of the network.

  The level is schedule(t) for the drawn t [B], or of each element by `levels`, [B, T]; an
  element with a NaN is not known then: it is noise, and its time_weight 0.
  coupling: pairs x_0 and eps. pads: whether the loss leaves out what pads an example;
  without it cond['valid'] raises ValueError.
  """
  check_schedule(schedule)
  if coupling is not None:
    key, coupling_key = jax.random.split(key)
    inputs, keys = draw_inputs(key, batch, schedule, network, times, pads=pads)
    if inputs.valid_share is not None:
      raise ValueError('a coupling compares whole examples: leave it or lengths out')
    eps, metrics = paired(coupling, coupling_key, inputs.x0, inputs.eps, inputs.cond)
    return inputs._replace(eps=eps, metrics=metrics), keys
  x0 = batch['x']
  time_key, eps_key, cond_key, *dropout_keys, augment_key, first_key = jax.random.split(key, 7)
  if levels is None:
    drawn = times(time_key, x0.shape[0], schedule)
  else:
    drawn = levels(time_key, x0.shape[:2], times, schedule)
  level, time_weight = placed_as(x0, drawn)
  eps = placed_as(x0, jax.random.normal(eps_key, x0.shape))
  cond = network.condition(cond_key, batch)
  if 'valid' in cond and not pads:
    raise ValueError("cond['valid'] says what pads an example, which only `denoising` leaves out")
  share = None
  if 'valid' in cond:  # What pads an example may be anything.
    x0 = jnp.where(expand_to(cond['valid'], x0), x0, 0.0)
    share = valid_share(cond['valid'])
  if levels is not None:
    known = ~jnp.isnan(x0).reshape(*x0.shape[:2], -1).any(axis=-1)
    x0 = jnp.where(expand_to(known, x0), x0, 0.0)
    level = select_level(known, level, schedule(1.0))
    time_weight = jnp.where(known, time_weight, 0.0)
    share = valid_share(known & cond.get('valid', True))
  augment_keys = key_per_example(augment_key, len(x0)) if network.augment else None
  probability = network.estimate_probability
  estimated = jax.random.bernoulli(first_key, probability, x0.shape[:1])
  draws = Draws(
    x0,
    eps,
    level,
    time_weight=time_weight,
    cond=cond,
    augment_keys=augment_keys,
    estimated=estimated,
    valid_share=share,
  )
  return draws, tuple(dropout_keys)


def valid_share(valid: Array) -> Array:
  """Returns the share of a batch's elements that are valid, the same number in each row, [B].

  valid: bool [B, T]. It is of the whole batch, so that a loss divided by it is a mean over
  rows. The count is exact in any order of summation.
  """
  share = jnp.sum(valid, dtype=jnp.int32) / valid.size
  return placed_as(valid, jnp.full(len(valid), share))


def augmented(inputs: Draws, augment: Augment | None) -> Draws:
  """Returns inputs with changed images and with labels in cond['augment'].

  augment: (keys [B], x0) -> (x0, labels), such as `augmentation.augment`.
  """
  if augment is None or inputs.augment_keys is None:
    return inputs
  x0, labels = augment(inputs.augment_keys, inputs.x0)
  return inputs._replace(x0=x0, cond=inputs.cond | {'augment': labels})


@declares(
  what='λ(t) |x̂ − x|², x the noise, data, velocity or score that the network predicts (DDPM '
  'Alg. 1)',
  denoises=True,
  lengths=True,
)
def denoising(
  network: Network,
  schedule: Schedule,
  *,
  times: TimeSampler,
  weight: Weight = snr_weight,
  uncertainty: LogVarianceOf | None = None,
  coupling: Coupling | None = None,
  levels: LevelSampler | None = None,
) -> Objective:
  """Makes the denoising objective (DDPM Alg. 1, in any parametrisation).

  The loss is `denoising_loss` per dimension at a random level: L_simple for
  'eps' with `snr_weight`; EDM's for 'edm' with `edm_weight` and
  `log_normal_times` (Karras et al. 2022, who take the sum); flow matching for
  'flow' with `flow_weight`. With a learned variance only the first half of the
  channels enters the loss. uncertainty: (params, level) -> u [B], trained with
  the network; the loss is then `uncertain_loss`, and the metric `error` is the
  mean without it. coupling: pairs x_0 and noise; then only
  solvers of the ODE draw from the data. By default they are independent. levels: draws
  a level for each element of x [B, T, ...], as `independent_levels`, for a network
  with level_axes=2; losses are then means over the elements that are not clean; an element
  with a NaN is not known, has no loss, and is noise for the network. With
  cond['valid'] [B, T] they are means over the elements that do not pad an example.
  params: {'network': ...}. Metrics: loss, also per quarter of t.
  """
  if levels is not None:
    check_levels(network, coupling)

  def draw(key, batch, context):
    return draw_inputs(
      key, batch, schedule, network, times, coupling=coupling, levels=levels, pads=True
    )

  def loss(params, context, inputs, keys):
    inputs = augmented(inputs, network.augment)
    x0, eps, level, cond = inputs.x0, inputs.eps, inputs.level, inputs.cond
    xt = inputs.xt
    if network.self_conditioning:
      first = network.output(params['network'], xt, level, cond, keys[1])
      first = first[..., : x0.shape[-1]]  # drops a learned variance
      first = jnp.clip(network.to_x0(first, xt, level), -1.0, 1.0)
      first = jnp.where(expand_to(inputs.estimated, xt), first, 0.0)
      cond = cond | {'x0': jax.lax.stop_gradient(first)}
    output = network.output(params['network'], xt, level, cond, keys[0])
    if network.learned_variance:
      output, _ = jnp.split(output, 2, axis=-1)
    time_weight, valid = inputs.time_weight, cond.get('valid')
    if levels is not None or valid is not None:  # The elements are rows of their own.
      level, time_weight = of_elements((level, time_weight), x0.shape[:2])
      if valid is not None:
        time_weight = jnp.where(valid, time_weight, 0.0)
      rows = output, x0, eps, level, time_weight
      output, x0, eps, level, time_weight = jax.tree.map(elements_as_rows, rows)
    share = inputs.valid_share
    losses = network.denoising_loss(output, x0, eps, level, weight)
    losses /= x0.size // len(x0)
    if uncertainty is None:
      return mean_loss(losses, level.t, time_weight, share=share, **inputs.metrics)
    terms = {'error': losses, **inputs.metrics}
    losses = uncertain_loss(losses, uncertainty(params, finite_logsnr(level)))
    return mean_loss(losses, level.t, time_weight, share=share, **terms)

  return Objective(draw, loss)


def check_levels(network: Network, coupling: Coupling | None = None) -> None:
  """Raises ValueError unless a network can be trained with a level for each element."""
  if network.level_axes != 2:
    raise ValueError('levels of elements need a network with level_axes=2')
  if coupling is not None:
    raise ValueError('a coupling pairs examples at one level: leave it or levels out')


def of_elements(tree: PyTree, shape: tuple[int, ...]) -> PyTree:
  """Returns arrays [B] or [B, T] as one value for each element, [B, T]."""
  return jax.tree.map(lambda a: jnp.broadcast_to(a if a.ndim > 1 else a[:, None], shape), tree)


def elements_as_rows(x: Array) -> Array:
  """Returns an array [B, T, ...] as [B T, ...]."""
  return x.reshape(-1, *x.shape[2:])


def uncertain_loss(losses: Array, u: Array) -> Array:
  """Computes l / exp(u) + u, [B] (Karras et al. 2024, Eq. 14 to 16).

  Its minimum is at u = ln E[l], so that each level is weighted by the inverse
  of its own error. Both terms are means over dimensions; in the paper, sums.
  """
  return losses * jnp.exp(-u) + u


@declares(
  what='L_simple + `vlb_weight` L_vlb, with learned variances (Nichol & Dhariwal 2021, Eq. 16)',
  data='levels',
  learned_variance=True,
  denoises=True,
  training_only=('loss_aware',),
)
def hybrid(
  network: Network,
  schedule: Schedule,
  *,
  schedule_steps: int,
  weight: Weight = snr_weight,
  vlb_weight: NonNegative = 0.001,
  loss_aware: bool = False,
  num_levels: int = 256,
) -> Objective:
  """Makes L_simple + vlb_weight * L_vlb (Nichol & Dhariwal 2021, Eq. 16).

  L_vlb is the loss of `vlb` with a detached mean, so that it trains only the
  variance. The network needs a learned variance. loss_aware: see `vlb`. params:
  {'network': ...}. Metrics: loss, also per quarter of t; vlb; simple. Raises
  ValueError for fewer than 2 steps.
  """
  return _with_bound(
    network,
    schedule,
    num_steps=schedule_steps,
    weight=weight,
    vlb_weight=vlb_weight,
    loss_aware=loss_aware,
    num_levels=num_levels,
  )


@declares(
  what='L_vlb, the bound over steps, with learned variances (Nichol & Dhariwal 2021, Eq. 4)',
  data='levels',
  learned_variance=True,
  training_only=('loss_aware',),
)
def vlb(
  network: Network,
  schedule: Schedule,
  *,
  schedule_steps: int,
  loss_aware: bool = False,
  num_levels: int = 256,
) -> Objective:
  """Makes L_vlb, the bound over steps (Nichol & Dhariwal 2021, Eq. 4).

  It trains mean and variance, in bits per dimension, for images with num_levels
  grey levels and a schedule with schedule_steps steps. The network needs a
  learned variance. loss_aware draws t by Eq. 18; the objective's state is then
  a `LossHistory`. params: {'network': ...}. Metrics: loss, also per quarter of
  t; vlb. Raises ValueError for fewer than 2 steps.
  """
  return _with_bound(
    network,
    schedule,
    num_steps=schedule_steps,
    weight=None,
    vlb_weight=1.0,
    loss_aware=loss_aware,
    num_levels=num_levels,
  )


def _with_bound(network, schedule, num_steps, weight, vlb_weight, loss_aware, num_levels):
  # Makes `hybrid`; weight: None makes `vlb`.
  network.check_options('hybrid', 'learned_variance')
  if num_steps < 2 or not network.learned_variance:
    raise ValueError(
      'hybrid and vlb need at least 2 steps and learned_variance=True, got '
      f'{num_steps} and {network.learned_variance}'
    )
  bound = _step_bound(network, schedule, num_steps, num_levels)

  def draw(key, batch, context):
    times = loss_aware_times(context.state) if loss_aware else step_times(num_steps)
    return draw_inputs(key, batch, schedule, network, times)

  def loss(params, context, inputs, keys):
    x0, eps, level = inputs.x0, inputs.eps, inputs.level
    xt = inputs.xt
    output = network.output(params['network'], xt, level, inputs.cond, keys[0])
    output, fraction = jnp.split(output, 2, axis=-1)
    mean = output if weight is None else jax.lax.stop_gradient(output)
    step, vlb = bound(inputs, xt, mean, fraction)
    terms, losses = {'vlb': vlb}, vlb_weight * vlb
    if weight is not None:
      simple = network.denoising_loss(output, x0, eps, level, weight)
      terms['simple'] = simple / (x0.size // len(x0))
      losses += terms['simple']
    return mean_loss(losses, level.t, inputs.time_weight, records=(step, losses), **terms)

  if not loss_aware:
    return Objective(draw, loss)
  return Objective(
    draw,
    loss,
    update=lambda history, records: record(history, *records),
    init=functools.partial(init_loss_history, num_steps),
  )


def _step_bound(network, schedule, num_steps, num_levels):
  # Makes (inputs, xt, output, fraction) -> step [B] of 1..T and T times its
  # `bound_term` [B], in bits per dimension. Step 1 ends at x_0 even if
  # schedule(0) is noisy.
  decoder = functools.partial(reconstruction_nll, num_levels=num_levels)

  def bound(inputs, xt, output, fraction):
    x0, level_t = inputs.x0, inputs.level
    step = jnp.rint(level_t.t * num_steps).astype(int)
    x0_hat = network.to_x0(output, xt, level_t)
    before = schedule((step - 1) / num_steps)
    level_s = select_level(step == 1, clean_level(), before)
    one, two = schedule(1 / num_steps), schedule(2 / num_steps)
    first = reverse_variance('fixed_small', one, two)
    fraction = variance_fraction(fraction)
    model = p_reverse(
      x0_hat, xt, level_s, level_t, variance='learned', var_frac=fraction, first=first
    )
    nats = bound_term(x0, xt, model, level_s, level_t, decoder)
    return step, num_steps * bits_per_dim(nats, x0.shape[1:])

  return bound


def means(weight: Array | float = 1.0, **terms: Array) -> dict[str, Mean]:
  """Returns the mean of each term, [] or [B], by its name; weight: [B], of the rows."""
  count = jnp.mean(jnp.asarray(weight, float))
  return {n: Mean(jnp.mean(weight * x), count) for n, x in terms.items()}


def mean_loss(
  losses: Array,
  t: Array,
  weight: Array | float = 1.0,
  *,
  records: PyTree = (),
  share: Array | None = None,
  **terms: Array,
) -> Loss:
  """Returns (loss [], (metrics, records)) for losses [B] at times t [B].

  The loss is the mean of weight * losses. weight: [B], the time sampler's, with which
  levels stand for those that it draws too rarely. The metrics are weighted means of the
  losses, also per quarter of t, and of the other terms [B]; of equal losses each is that loss.
  share: `valid_share` of rows whose weight is 0 where they pad an example; the loss is then the
  mean over the others.
  """
  metrics = means(weight, loss=losses, **terms)
  loss = metrics['loss'].total if share is None else metrics['loss'].total / jnp.max(share)
  return loss, (metrics | by_quarter(losses, t, weight), records)


def by_quarter(
  values: Array, t: Array, weight: Array | float = 1.0, name: str = 'loss'
) -> dict[str, Mean]:
  """Returns means of values [B] over the four quarters of t in (0, 1], weighted by weight [B].

  Their names are `<name>_quarter_1` to `<name>_quarter_4`.
  """
  quarter = jnp.clip(jnp.ceil(4.0 * t), 1, 4)
  weight = jnp.broadcast_to(jnp.asarray(weight, float), t.shape)
  metrics = {}
  for q in range(1, 5):
    total, count = (jnp.sum(jnp.where(quarter == q, x, 0.0)) for x in (weight * values, weight))
    metrics[f'{name}_quarter_{q}'] = Mean(total, count)
  return metrics
