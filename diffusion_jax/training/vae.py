"""Defines the objectives of VAEs: -ELBO, in bits per dimension.

The output [B, H, W, P * C] of a decoder has P parameters of p(x | z) for each
channel of each pixel, one after the other along the last axis.
"""

import functools
from collections.abc import Callable
from typing import Any

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
from diffusion_jax.ranges import Count, NonNegative
from diffusion_jax.training.objectives import Objective, means

Array = jax.Array
# (output of the decoder, x) -> log p(x | z), [B]
OutputLogProb = Callable[[Array, Array], Array]
# (params, t, z, *, key=None) -> a Normal, or for t = 1 the decoder's output
Encode = Callable[..., Normal]
Decode = Callable[..., Any]

# Bound of |log scale| of a pixel. The spacing of 256 levels is 2 / 255, about
# e^-4.85: the smallest scale, e^-7, is about an eighth of it.
_MAX_LOG_SCALE = 7.0


def mean_and_log_scale(output: Array) -> tuple[Array, Array]:
  """Returns mean and log scale, within +-7, [..., C] of output [..., 2C]."""
  mean, log_scale = jnp.split(output, 2, axis=-1)
  return mean, _MAX_LOG_SCALE * jnp.tanh(log_scale / _MAX_LOG_SCALE)


def logistic(output: Array, x: Array, num_levels: int) -> Array:
  """Returns log p per element of a discretised logistic."""
  return discretized_logistic_log_prob(
    *mean_and_log_scale(output), x, num_levels
  )


def gaussian(output: Array, x: Array, num_levels: int) -> Array:
  """Returns log p per element of a discretised Gaussian (DDPM Eq. 13)."""
  mean, log_scale = mean_and_log_scale(output)
  return discretized_log_prob(
    Normal(mean, jnp.exp(2.0 * log_scale)), x, num_levels
  )


def bernoulli(output: Array, x: Array, num_levels: int) -> Array:
  """Returns log p per element of two levels; output: logits of the upper."""
  if num_levels != 2:
    raise ValueError(f'a Bernoulli has 2 levels, not {num_levels}')
  return bernoulli_log_prob(output, x)


def unit_gaussian(output: Array, x: Array, num_levels: int) -> Array:
  """Returns log p per element of a discretised Gaussian of variance 1.

  Up to a constant, half the squared error: of autoencoders without a scale.
  """
  return discretized_log_prob(
    Normal(output, jnp.ones_like(output)), x, num_levels
  )


# name: (parameters of an element P, log p of output and x, mean of x)
DECODERS = {
  'logistic': (2, logistic, lambda output: mean_and_log_scale(output)[0]),
  'gaussian': (2, gaussian, lambda output: mean_and_log_scale(output)[0]),
  'unit_gaussian': (1, unit_gaussian, lambda output: output),
  'bernoulli': (1, bernoulli, lambda output: jnp.tanh(output / 2.0)),
}


def log_likelihood(decoder: str, num_levels: int) -> OutputLogProb:
  """Returns (output [B, ..., P C], x [B, ..., C]) -> log p(x | z), [B].

  In nats. decoder: a name of DECODERS; x on num_levels values evenly spaced on
  [-1, 1].
  """
  _, log_prob, _ = DECODERS[decoder]

  def apply(output, x):
    return jnp.sum(log_prob(output, x, num_levels), axis=data_axes(x))

  return apply


def vae(
  encode: Encode,
  decode: Decode,
  log_likelihood: OutputLogProb,
  *,
  beta: NonNegative = 1.0,
  free_bits: NonNegative = 0.0,
  kl_warmup: Count = 0,
) -> Objective:
  """Makes -E[log p(x | z)] + beta * KL(q(z | x) || N(0, I)), bits per dim.

  beta=1 is -ELBO (Kingma & Welling 2014, Eq. 3). encode(params, 1, x, key=None)
  -> Normal, q(z | x); decode(params, 1, z, key=None) -> output, as in `hvae`
  with one layer; the key is for dropout. beta is multiplied by
  `core.vae.kl_warmup` over kl_warmup steps, which the state counts. free_bits,
  in nats for each channel of z, is that of `core.vae.free_bits`, which needs
  the batch in one part (ValueError). params: {'network': ...}. Metrics: loss,
  which is minimised; bits_per_dim = reconstruction + kl, the plain bound; beta.
  """

  def terms(params, z_keys, dropout_keys, x):
    q = encode(params['network'], 1, x, key=dropout_keys[0])
    found = bound.vae_elbo(
      z_keys,
      x,
      q,
      lambda x, z: log_likelihood(
        decode(params['network'], 1, z, key=dropout_keys[1]), x
      ),
    )
    divergence = kl(q, bound.STANDARD)
    pixels = tuple(range(1, divergence.ndim - 1))
    return found['reconstruction'], jnp.sum(divergence, axis=pixels)

  return _negative_elbo(terms, beta, free_bits, kl_warmup)


def hvae(
  encode: Encode,
  decode: Decode,
  log_likelihood: OutputLogProb,
  *,
  num_latents: int,
  beta: NonNegative = 1.0,
  free_bits: NonNegative = 0.0,
  kl_warmup: Count = 0,
) -> Objective:
  """Makes -ELBO of a Markov hierarchical VAE (`core.vae.hierarchical_elbo`).

  encode(params, t, z, key=None) -> Normal, q(z_t | z_{t-1}), t = 1..T =
  num_latents; decode(params, t, z, key=None) -> Normal, p(z_{t-1} | z_t), and
  for t = 1 the output. beta and free_bits apply to the log-ratios of the
  layers; everything else is as in `vae`. Metrics: also kl_1 .. kl_T.
  """

  def terms(params, z_keys, dropout_keys, x):
    def at_level(function, key):
      def apply(t, z):
        level_key = None if key is None else jax.random.fold_in(key, t)
        return function(params['network'], t, z, key=level_key)

      return apply

    decode_at = at_level(decode, dropout_keys[1])
    found = bound.hierarchical_elbo(
      z_keys,
      x,
      at_level(encode, dropout_keys[0]),
      decode_at,
      lambda x, z: log_likelihood(decode_at(1, z), x),
      num_steps=num_latents,
    )
    return found['reconstruction'], found['log_ratio']

  return _negative_elbo(terms, beta, free_bits, kl_warmup, by_group=True)


def _negative_elbo(terms, beta, free_bits, kl_warmup, by_group=False):
  # terms: (params, z_keys, dropout_keys, x) -> log p(x | z) [B] and KL
  # [B, groups]
  warmup = functools.partial(bound.kl_warmup, num_steps=kl_warmup)

  def draw(key, batch, context):
    x = batch['image']
    z_key, *dropout_keys = jax.random.split(key, 3)
    return (x, key_per_example(z_key, len(x))), tuple(dropout_keys)

  def loss(params, context, inputs, dropout_keys):
    x, z_keys = inputs
    reconstruction, groups = terms(params, z_keys, dropout_keys, x)

    def in_bits(nats):
      return bits_per_dim(jnp.mean(nats), x.shape[1:])

    error = in_bits(-reconstruction)
    divergence = penalty = in_bits(jnp.sum(groups, axis=1))
    if free_bits:
      penalty = in_bits(jnp.sum(bound.free_bits(groups, free_bits)))
    weight = beta * warmup(context.state)
    total = error + weight * penalty
    metrics = means(
      loss=total,
      reconstruction=error,
      kl=divergence,
      beta=weight,
      bits_per_dim=error + divergence,
    )
    if by_group:
      layers = (in_bits(groups[:, t]) for t in range(groups.shape[1]))
      metrics |= means(**{f'kl_{t}': kl for t, kl in enumerate(layers, 1)})
    return total, (metrics, ())

  return Objective(
    draw,
    loss,
    lambda state, _: state + 1,
    # Free bits are a maximum of means over the batch.
    separable=not free_bits,
    init=lambda: jnp.zeros((), jnp.int32),  # updates so far
  )
