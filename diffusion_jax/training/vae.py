"""The objectives of variational autoencoders: -ELBO, in bits per dimension.

What decides p(x | z) is the output [B, H, W, P * C] of a decoder: P parameters
of each channel of each pixel, one after the other along the last axis.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.core import vae as bound
from diffusion_jax.core.broadcasting import data_axes
from diffusion_jax.core.decoders import (
  bernoulli_log_prob,
  discretized_logistic_log_prob,
)
from diffusion_jax.core.keys import key_per_example
from diffusion_jax.core.normal import (
  Normal,
  bits_per_dim,
  discretized_log_prob,
  kl,
)
from diffusion_jax.training.objectives import Mean, Objective, rows

Array = jax.Array
LogLikelihood = Callable[[Array, Array], Array]

# of a pixel's scale: e^-7 is a quarter of the spacing of 256 levels
_LOG_SCALE = 7.0


def mean_and_log_scale(output: Array) -> tuple[Array, Array]:
  """[..., 2C] -> mean, and log scale kept within +-7, each [..., C]."""
  mean, log_scale = jnp.split(output, 2, axis=-1)
  return mean, _LOG_SCALE * jnp.tanh(log_scale / _LOG_SCALE)


def logistic(output: Array, x: Array, num_levels: int) -> Array:
  """log p per element, of a discretised logistic of learned mean and scale."""
  return discretized_logistic_log_prob(
    *mean_and_log_scale(output), x, num_levels
  )


def gaussian(output: Array, x: Array, num_levels: int) -> Array:
  """log p per element, of a discretised Gaussian (DDPM Eq. 13)."""
  mean, log_scale = mean_and_log_scale(output)
  return discretized_log_prob(
    Normal(mean, jnp.exp(2.0 * log_scale)), x, num_levels
  )


def bernoulli(output: Array, x: Array, num_levels: int) -> Array:
  """log p per element of two levels; output: the logits of the upper one."""
  if num_levels != 2:
    raise ValueError(f'a Bernoulli has 2 levels, not {num_levels}')
  return bernoulli_log_prob(output, x)


# name: (parameters of an element P, log p of output and x, mean of x)
DECODERS = {
  'logistic': (2, logistic, lambda output: mean_and_log_scale(output)[0]),
  'gaussian': (2, gaussian, lambda output: mean_and_log_scale(output)[0]),
  'bernoulli': (1, bernoulli, lambda output: jnp.tanh(output / 2.0)),
}


def log_likelihood(decoder: str, num_levels: int) -> LogLikelihood:
  """(output [B, ..., P C], x [B, ..., C]) -> log p(x | z) in nats, [B].

  decoder: a name of DECODERS; x on num_levels values evenly spaced on [-1, 1].
  """
  _, log_prob, _ = DECODERS[decoder]

  def apply(output, x):
    return jnp.sum(log_prob(output, x, num_levels), axis=data_axes(x))

  return apply


def initial_step() -> Array:
  """The objective's memory: how many steps of training it has seen."""
  return jnp.zeros((), jnp.int32)


def vae(
  encode: Callable,
  decode: Callable,
  log_likelihood: LogLikelihood,
  *,
  beta: float = 1.0,
  free_bits: float = 0.0,
  kl_warmup: int = 0,
) -> Objective:
  """-E[log p(x | z)] + beta * KL(q(z | x) || N(0, I)), bits per dimension.

  beta=1 is -ELBO (Kingma & Welling 2014, Eq. 3). encode(params, x, key=None) ->
  Normal, q(z | x); decode(params, z, key=None) -> output; the key is dropout's.
  beta is multiplied by `core.vae.kl_warmup` over that many steps, counted in
  objective_state (`initial_step`); `free_bits`, in nats of each channel of z,
  by `core.vae.free_bits`, which needs the batch in one part (ValueError).
  params: {'network': ...}. Metrics: loss, which is minimised, and bits_per_dim
  = reconstruction + kl, the plain bound; beta.
  """

  def terms(params, key, dropout_keys, x):
    q = encode(params['network'], x, key=dropout_keys[0])
    found = bound.vae_elbo(
      key,
      x,
      q,
      lambda x, z: log_likelihood(
        decode(params['network'], z, key=dropout_keys[1]), x
      ),
    )
    divergence = kl(q, bound.STANDARD)
    over = tuple(range(1, divergence.ndim - 1))
    return found['reconstruction'], jnp.sum(divergence, axis=over)

  return _objective(terms, beta, free_bits, kl_warmup)


def hvae(
  encode: Callable,
  decode: Callable,
  log_likelihood: LogLikelihood,
  *,
  num_latents: int,
  beta: float = 1.0,
  free_bits: float = 0.0,
  kl_warmup: int = 0,
) -> Objective:
  """-ELBO of a Markov hierarchical VAE (`core.vae.hierarchical_elbo`).

  encode(params, t, z, key=None) -> Normal, q(z_t | z_{t-1}), t = 1..T =
  num_latents; decode(params, t, z, key=None) -> Normal, p(z_{t-1} | z_t), and
  for t = 1 the output. beta and free_bits (of each layer) are of the layers'
  log-ratios; the rest as of `vae`. Metrics: also kl_1 .. kl_T.
  """

  def terms(params, key, dropout_keys, x):
    def ask(function, keys):
      def apply(t, z):
        return function(params['network'], t, z, key=_at(keys, t))

      return apply

    decode_at = ask(decode, dropout_keys[1])
    found = bound.hierarchical_elbo(
      key,
      x,
      ask(encode, dropout_keys[0]),
      decode_at,
      lambda x, z: log_likelihood(decode_at(1, z), x),
      num_steps=num_latents,
    )
    return found['reconstruction'], found['log_ratio']

  return _objective(terms, beta, free_bits, kl_warmup, by_group=True)


def _at(key, t):
  return None if key is None else jax.random.fold_in(key, t)


def _objective(terms, beta, free_bits, kl_warmup, by_group=False):
  # terms: (params, key, dropout_keys, x) -> log p(x | z) [B], KL [B, groups]
  weight = functools.partial(bound.kl_warmup, num_steps=kl_warmup)

  def objective(params, objective_state, key, batch, part=(0, 1)):
    if free_bits and part[1] > 1:
      raise ValueError('free bits are of a whole batch, not of its parts')
    noise_key, *dropout_keys = jax.random.split(key, 3)
    keys = key_per_example(noise_key, len(batch['image']))
    x, keys = rows((batch['image'], keys), part)
    if part[1] > 1:
      dropout_keys = [jax.random.fold_in(k, part[0]) for k in dropout_keys]
    reconstruction, groups = terms(params, keys, dropout_keys, x)

    def in_bits(nats):
      return bits_per_dim(jnp.mean(nats), x.shape[1:])

    means = {
      'reconstruction': in_bits(-reconstruction),
      'kl': in_bits(jnp.sum(groups, axis=1)),
      'beta': beta * weight(objective_state),
    }
    means['bits_per_dim'] = means['reconstruction'] + means['kl']
    if by_group:
      for t in range(groups.shape[1]):
        means[f'kl_{t + 1}'] = in_bits(groups[:, t])
    price = means['kl']
    if free_bits:
      price = in_bits(jnp.sum(bound.free_bits(groups, free_bits)))
    means['loss'] = means['reconstruction'] + means['beta'] * price
    metrics = {name: Mean(x, jnp.ones(())) for name, x in means.items()}
    last = part[0] == part[1] - 1  # parts of one batch are one step
    return means['loss'], (metrics, objective_state + last)

  return objective
