"""What is minimised: (params, objective_state, key, batch) -> loss and metrics.

A batch is {'image': [B, H, W, C] in [-1, 1]} and, for labelled sets,
{'label': [B]}. Every objective returns
(loss [], (metrics, objective_state)), as `jax.value_and_grad(has_aux=True)`
wants it; metrics are `Mean`s, so they average correctly over steps.

A last argument part=(i, n) asks for rows i, i + n, ... of the batch alone, with
the noise that they have in the whole (see `rows`): gradient accumulation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.core.denoiser import NetworkFn, NoiseInput, network_output
from diffusion_jax.core.elbo import categorical_nll
from diffusion_jax.core.losses import (
  TimeSampler,
  Weight,
  antithetic_times,
  denoising_loss,
)
from diffusion_jax.core.normal import Normal, bits_per_dim, kl
from diffusion_jax.core.process import q_sample
from diffusion_jax.core.vdm import vdm_weight

Array = jax.Array
Objective = Callable[..., tuple[Array, tuple[dict, Any]]]


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
  labels: bool = False,
  label_dropout: float = 0.0,
  learned_variance: bool = False,
  sigma_data: float = 0.5,
) -> Objective:
  """Denoising at a random level (DDPM Alg. 1, in any parametrisation).

  The loss is `denoising_loss` per dimension; with 'eps' and `snr_weight` that
  is L_simple. With `labels` those of the batch become cond['label'], each
  dropped with probability label_dropout (for classifier-free guidance). A
  network with `learned_variance` has twice the channels; only the first half
  enters this loss.
  params: {'network': ...}. Metrics: loss, and loss per quarter of t.
  """

  def objective(params, objective_state, key, batch, part=(0, 1)):
    x0 = batch['image']
    time_key, eps_key, drop_key, dropout_key = jax.random.split(key, 4)
    level, time_weight = times(time_key, x0.shape[0], schedule)
    eps = jax.random.normal(eps_key, x0.shape)
    cond = _condition(drop_key, batch, labels, label_dropout)
    x0, level, time_weight, eps, cond = rows(
      (x0, level, time_weight, eps, cond), part
    )
    if part[1] > 1:
      dropout_key = jax.random.fold_in(dropout_key, part[0])
    output = network_output(
      network_fn,
      params['network'],
      q_sample(x0, eps, level),
      level,
      parametrization=parametrization,
      noise_input=noise_input,
      cond=cond,
      sigma_data=sigma_data,
      key=dropout_key,
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


def vdm(
  network_fn: NetworkFn,
  make_schedule: Callable[[Any], Callable],
  *,
  num_levels: int,
  num_steps: int | None = None,
  parametrization: str = 'eps',
  noise_input: NoiseInput,
  labels: bool = False,
  label_dropout: float = 0.0,
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
    x0 = batch['image']
    keys = jax.random.split(key, 5)
    schedule = make_schedule(params)

    def at(t):
      if num_steps is not None:
        t = jnp.ceil(t * num_steps) / num_steps
      return schedule(t)

    level, time_weight = antithetic_times(keys[0], x0.shape[0], at)
    eps, eps_0 = (jax.random.normal(k, x0.shape) for k in keys[1:3])
    cond = _condition(keys[3], batch, labels, label_dropout)
    x0, level, time_weight, eps, eps_0, cond = rows(
      (x0, level, time_weight, eps, eps_0, cond), part
    )
    dropout_key = keys[4]
    if part[1] > 1:
      dropout_key = jax.random.fold_in(dropout_key, part[0])
    output = network_output(
      network_fn,
      params['network'],
      q_sample(x0, eps, level),
      level,
      parametrization=parametrization,
      noise_input=noise_input,
      cond=cond,
      sigma_data=sigma_data,
      key=dropout_key,
    )
    weight = vdm_weight(schedule, num_steps)
    diffusion = time_weight * denoising_loss(
      parametrization, output, x0, eps, level, weight, sigma_data
    )
    first, last = schedule(0.0), schedule(1.0)
    z0 = q_sample(x0, eps_0, first)
    nats = {
      'prior': _prior_loss(x0, last),
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


def _prior_loss(x0, level):
  # KL of q(z_1 | x_0) and N(0, I), nats, [B]
  at = level.like(x0)
  q = Normal(at.alpha * x0, at.sigma**2)
  nats = kl(q, Normal(jnp.zeros(()), jnp.ones(())))
  return jnp.sum(nats, axis=tuple(range(1, x0.ndim)))


def _condition(key, batch, labels, label_dropout):
  cond = {'label': batch['label']} if labels else {}
  if label_dropout:
    shape = batch['image'].shape[:1]
    cond['drop'] = jax.random.bernoulli(key, label_dropout, shape)
  return cond


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
