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
from diffusion_jax.core.losses import TimeSampler, Weight, denoising_loss
from diffusion_jax.core.process import q_sample

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
    cond = {'label': batch['label']} if labels else {}
    if label_dropout:
      drop = jax.random.bernoulli(drop_key, label_dropout, x0.shape[:1])
      cond['drop'] = drop
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
