"""What is minimised: (params, objective_state, key, batch) -> loss and metrics.

A batch is {'image': [B, H, W, C] in [-1, 1]} and, for labelled sets,
{'label': [B]}. Every objective returns
(loss [], (metrics, objective_state)), as `jax.value_and_grad(has_aux=True)`
wants it; metrics are `Mean`s, so they average correctly over steps.

A last argument part=(i, n) asks for rows i, i + n, ... of the batch alone, with
the noise that they have in the whole (see `rows`): gradient accumulation.
"""

import functools
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
from diffusion_jax.core.levels import NoiseLevel, clean_level
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
from diffusion_jax.training.conditions import Tell, nothing
from diffusion_jax.training.loss_aware import loss_aware_times, record

Array = jax.Array
Objective = Callable[..., tuple[Array, tuple[dict, Any]]]
Augment = Callable[[Array, Array], tuple[Array, Array]]


class Mean(NamedTuple):
  """A mean that can be added up: total / count, NaN where nothing counted."""

  total: Array
  count: Array


def ddpm(
  network_fn: NetworkFn,
  schedule: Callable,
  *,
  parametrization: str,
  times: TimeSampler,
  weight: Weight,
  noise_input: NoiseInput,
  told: Tell = nothing,
  learned_variance: bool = False,
  sigma_data: float = 0.5,
  augment: Augment | None = None,
  self_conditioning: bool = False,
  estimate_probability: float = 0.5,
) -> Objective:
  """Denoising at a random level (DDPM Alg. 1, in any parametrisation).

  The loss is `denoising_loss` per dimension; with 'eps' and `snr_weight` that
  is L_simple, with 'edm', `edm_weight` and `log_normal_times` EDM's (Karras et
  al. 2022, who take the sum). `told(key, batch)` is what the network is told,
  cond (`training.conditions`). A network with `learned_variance` has twice the
  channels; only the first half enters this loss. `augment`,
  `self_conditioning` and its `estimate_probability`: see `make_attempt`.
  params: {'network': ...}. Metrics: loss, and loss per quarter of t.
  """
  attempt = make_attempt(
    network_fn,
    schedule,
    parametrization=parametrization,
    noise_input=noise_input,
    told=told,
    sigma_data=sigma_data,
    augment=augment,
    self_conditioning=self_conditioning,
    estimate_probability=estimate_probability,
  )

  def objective(params, objective_state, key, batch, part=(0, 1)):
    x0, eps, _, level, time_weight, output = attempt(
      params, key, batch, times, part
    )
    if learned_variance:
      output, _ = jnp.split(output, 2, axis=-1)
    losses = denoising_loss(
      parametrization, output, x0, eps, level, weight, sigma_data
    )
    losses = time_weight * losses / x0[0].size
    loss = jnp.mean(losses)
    metrics = {'loss': Mean(loss, jnp.ones(())), **by_quarter(losses, level.t)}
    return loss, (metrics, objective_state)

  return objective


def hybrid(
  network_fn: NetworkFn,
  schedule: Callable,
  *,
  num_steps: int,
  parametrization: str,
  weight: Weight | None,
  noise_input: NoiseInput,
  vlb_weight: float = 0.001,
  loss_aware: bool = False,
  num_levels: int = 256,
  told: Tell = nothing,
  sigma_data: float = 0.5,
) -> Objective:
  """L_simple + vlb_weight * L_vlb (Nichol & Dhariwal 2021, Eq. 16), per step.

  The network has twice the channels: a learned variance. L_vlb, in bits per
  dimension, is T times `bound_term` at one step t of 1..T (step 1 ends at x_0,
  whatever schedule(0) is), with num_levels grey levels; its mean is detached,
  so it trains the variance alone. weight=None leaves out L_simple and detaches
  nothing: vlb_weight=1 is then the pure L_vlb.

  loss_aware draws t by Eq. 18; objective_state is then a `LossHistory` over
  num_steps. Otherwise as `ddpm`. Metrics: also vlb and simple. Raises
  ValueError for fewer than 2 steps.
  """
  if num_steps < 2:
    raise ValueError(f'num_steps is {num_steps}: a bound needs at least 2')
  attempt = make_attempt(
    network_fn,
    schedule,
    parametrization=parametrization,
    noise_input=noise_input,
    told=told,
    sigma_data=sigma_data,
  )
  decoder = functools.partial(reconstruction_nll, num_levels=num_levels)

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

  def objective(params, objective_state, key, batch, part=(0, 1)):
    times = (
      loss_aware_times(objective_state) if loss_aware else step_times(num_steps)
    )
    x0, eps, xt, level, time_weight, output = attempt(
      params, key, batch, times, part
    )
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
    if loss_aware:
      last = part[0] == part[1] - 1
      objective_state = record(objective_state, step, losses, last)
    terms['loss'] = losses
    terms = {name: time_weight * term for name, term in terms.items()}
    metrics = {
      name: Mean(jnp.mean(term), jnp.ones(())) for name, term in terms.items()
    }
    metrics |= by_quarter(terms['loss'], level.t)
    return metrics['loss'].total, (metrics, objective_state)

  return objective


class Attempt(NamedTuple):
  """A batch, the noise on it, and the network's output for it, [B, ...].

  time_weight: [B], of the time sampler.
  """

  x0: Array
  eps: Array
  xt: Array
  level: NoiseLevel
  time_weight: Array
  output: Array


def make_attempt(
  network_fn: NetworkFn,
  schedule: Callable,
  *,
  parametrization: str,
  noise_input: NoiseInput,
  told: Tell,
  sigma_data: float,
  augment: Augment | None = None,
  self_conditioning: bool = False,
  estimate_probability: float = 0.5,
) -> Callable[..., Attempt]:
  """(params, key, batch, times, part) -> Attempt: what objectives begin with.

  The draws are those of the whole batch, of which `part` takes its rows.
  augment(keys [B], x0) -> (x0, labels) changes the images and tells the network
  how, by cond['augment'] (`augmentation.augment`). self_conditioning: with
  `estimate_probability` an image is seen with a first estimate, cond['x0'],
  clipped to [-1, 1] and without gradient, the others with zeros (Chen et al.
  2022, Alg. 1; they toss one coin for the batch, here each image has its own).
  """

  def attempt(params, key, batch, times, part):
    x0 = batch['image']
    time_key, eps_key, cond_key, *dropout_keys, augment_key, first_key = (
      jax.random.split(key, 7)
    )
    level, time_weight = times(time_key, x0.shape[0], schedule)
    eps = jax.random.normal(eps_key, x0.shape)
    cond = told(cond_key, batch)
    augment_keys = key_per_example(augment_key, len(x0))
    twice = jax.random.bernoulli(first_key, estimate_probability, x0.shape[:1])
    x0, level, time_weight, eps, cond, augment_keys, twice = rows(
      (x0, level, time_weight, eps, cond, augment_keys, twice), part
    )
    if part[1] > 1:
      dropout_keys = [jax.random.fold_in(k, part[0]) for k in dropout_keys]
    if augment is not None:
      x0, cond['augment'] = augment(augment_keys, x0)
    xt = q_sample(x0, eps, level)

    def ask(cond, key):
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

    if self_conditioning:
      first = ask(cond, dropout_keys[1])
      first = first[..., : x0.shape[-1]]  # without a learned variance
      first = to_x0(parametrization, first, xt, level, sigma_data)
      estimate = jnp.where(
        expand_to(twice, x0), jnp.clip(first, -1.0, 1.0), 0.0
      )
      cond['x0'] = jax.lax.stop_gradient(estimate)
    output = ask(cond, dropout_keys[0])
    return Attempt(x0, eps, xt, level, time_weight, output)

  return attempt


def vdm(
  network_fn: NetworkFn,
  make_schedule: Callable[[Any], Callable],
  *,
  num_levels: int,
  num_steps: int | None = None,
  parametrization: str = 'eps',
  noise_input: NoiseInput,
  told: Tell = nothing,
  sigma_data: float = 0.5,
) -> Objective:
  """The variational bound in bits per dimension (Kingma et al. 2021, Eq. 11).

  Prior loss, diffusion loss at one antithetic time per image and reconstruction
  loss, in continuous time or for a model of `num_steps` steps. make_schedule
  takes params to a schedule with 0 < SNR < inf at both ends; where it reads
  them the schedule is learned. Images lie on num_levels grey levels.
  params: {'network': ..., 'schedule': ...}. Metrics: loss, its three parts, the
  diffusion part per quarter of t, and the log-SNRs at t = 0 and 1.
  """

  def objective(params, objective_state, key, batch, part=(0, 1)):
    schedule = make_schedule(params)
    attempt = make_attempt(
      network_fn,
      schedule,
      parametrization=parametrization,
      noise_input=noise_input,
      told=told,
      sigma_data=sigma_data,
    )

    def at(t):  # of a model in steps, the end of the step that t is in
      if num_steps is not None:
        t = jnp.ceil(t * num_steps) / num_steps
      return schedule(t)

    def times(key, batch_size, _):
      return antithetic_times(key, batch_size, at)

    key, eps_key = jax.random.split(key)
    x0, eps, _, level, time_weight, output = attempt(
      params, key, batch, times, part
    )
    eps_0 = rows(jax.random.normal(eps_key, batch['image'].shape), part)
    weight = vdm_weight(schedule, num_steps)
    diffusion = time_weight * denoising_loss(
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
    loss = sum(means.values())
    means |= {'loss': loss, 'logsnr_0': first.logsnr, 'logsnr_1': last.logsnr}
    metrics = {name: Mean(x, jnp.ones(())) for name, x in means.items()}
    metrics |= by_quarter(parts['diffusion'], level.t)
    return loss, (metrics, objective_state)

  return objective


def rows(tree: Any, part: tuple[Array | int, int]) -> Any:
  """Rows i, i + n, ... of every leaf [B, ...], for part = (i, n).

  Interleaved, so that every device holds as many rows of each part. Raises
  ValueError if n does not divide B.
  """
  index, n = part
  if n == 1:
    return tree

  def take(x):
    if x.shape[0] % n:
      raise ValueError(f'a batch of {x.shape[0]} cannot be cut into {n} parts')
    x = x.reshape(x.shape[0] // n, n, *x.shape[1:])
    return jax.lax.dynamic_index_in_dim(x, index, axis=1, keepdims=False)

  return jax.tree.map(take, tree)


def by_quarter(losses: Array, t: Array) -> dict[str, Mean]:
  """Means of losses [B] over the four quarters of t in (0, 1]."""
  quarter = jnp.clip(jnp.ceil(4.0 * t), 1, 4)
  means = {}
  for q in range(1, 5):
    inside = quarter == q
    total = jnp.sum(jnp.where(inside, losses, 0.0))
    means[f'loss_quarter_{q}'] = Mean(total, jnp.sum(inside, dtype=float))
  return means
