"""The objective of a classifier that guides: the class of noisy images."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.core.denoiser import (
  NetworkFn,
  NoiseInput,
  network_output,
)
from diffusion_jax.core.losses import TimeSampler
from diffusion_jax.core.process import q_sample
from diffusion_jax.training.objectives import Mean, Objective, by_quarter, rows

Array = jax.Array


def classifier(
  network_fn: NetworkFn,
  schedule: Callable,
  *,
  times: TimeSampler,
  noise_input: NoiseInput,
  parametrization: str = 'eps',
  sigma_data: float = 0.5,
) -> Objective:
  """-log p(y | x_t) in nats (Dhariwal & Nichol 2021, section 4).

  network_fn(params, x_t, noise, {}) -> logits [B, K]; `times` draws the levels
  (their weights are not used), `parametrization` decides how the input is
  scaled, as for a denoiser. params: {'network': ...}. Metrics: loss, accuracy,
  and accuracy per quarter of t. Raises ValueError for a batch without labels.
  """

  def objective(params, objective_state, key, batch, part=(0, 1)):
    if 'label' not in batch:
      raise ValueError('a classifier needs labelled images')
    x0, label = batch['image'], batch['label']
    time_key, eps_key, dropout_key = jax.random.split(key, 3)
    level, _ = times(time_key, len(x0), schedule)
    eps = jax.random.normal(eps_key, x0.shape)
    x0, label, level, eps = rows((x0, label, level, eps), part)
    if part[1] > 1:
      dropout_key = jax.random.fold_in(dropout_key, part[0])
    logits = network_output(
      network_fn,
      params['network'],
      q_sample(x0, eps, level),
      level,
      parametrization=parametrization,
      noise_input=noise_input,
      cond={},
      sigma_data=sigma_data,
      key=dropout_key,
    )
    loss = -jnp.mean(label_log_prob(logits, label))
    right = (jnp.argmax(logits, axis=-1) == label).astype(logits.dtype)
    metrics = {'loss': loss, 'accuracy': jnp.mean(right)}
    metrics = {name: Mean(x, jnp.ones(())) for name, x in metrics.items()}
    for name, mean in by_quarter(right, level.t).items():
      metrics[name.replace('loss', 'accuracy')] = mean
    return loss, (metrics, objective_state)

  return objective


def label_log_prob(logits: Array, label: Array) -> Array:
  """log p(y), [B], of logits [B, K] and labels [B]."""
  log_p = jax.nn.log_softmax(logits, axis=-1)
  return jnp.take_along_axis(log_p, label[:, None], axis=-1)[:, 0]
