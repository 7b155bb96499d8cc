"""Objectives of VAEs: -ELBO, in bits per dimension.

The output [B, H, W, P * C] of a decoder has P parameters of p(x | z) for each
channel of each pixel, along the last axis.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.aliases import PyTree
from diffusion_jax.autoencoders import bounds as bound
from diffusion_jax.core.arguments import data_axes
from diffusion_jax.core.decoders import bernoulli_log_prob, discretized_logistic_log_prob
from diffusion_jax.core.keys import key_per_example
from diffusion_jax.core.normal import Normal, bits_per_dim, discretized_log_prob, kl
from diffusion_jax.declared import declares
from diffusion_jax.ranges import Count, NonNegative
from diffusion_jax.training.objectives import Objective, means

Array = jax.Array
# (output of the decoder, x) -> log p(x | z), [B]
OutputLogProb = Callable[[Array, Array], Array]
# (params, t, z, *, key=None) -> Normal; for t = 1 Decode returns the output
Encode = Callable[..., Normal]
Decode = Callable[..., PyTree]

# Largest |log scale| of a pixel. The spacing of 256 levels is 2 / 255, about
# e^-4.85: the smallest scale, e^-7, is about an eighth of it.
_MAX_LOG_SCALE = 7.0


def mean_and_log_scale(output: Array) -> tuple[Array, Array]:
  """Returns mean and log scale, within +-7, [..., C] of output [..., 2C]."""
  mean, log_scale = jnp.split(output, 2, axis=-1)
  return mean, _MAX_LOG_SCALE * jnp.tanh(log_scale / _MAX_LOG_SCALE)


# Each function returns log p per element, from (output, x, num_levels).


def _logistic(output, x, num_levels):
  mean, log_scale = mean_and_log_scale(output)
  return discretized_logistic_log_prob(mean, log_scale, x, num_levels)


def _gaussian(output, x, num_levels):  # DDPM Eq. 13
  mean, log_scale = mean_and_log_scale(output)
  normal = Normal(mean, jnp.exp(2.0 * log_scale))
  return discretized_log_prob(normal, x, num_levels)


def _unit_gaussian(output, x, num_levels):
  # Variance 1: half the squared error up to a constant, for autoencoders.
  normal = Normal(output, jnp.ones_like(output))
  return discretized_log_prob(normal, x, num_levels)


def _bernoulli(output, x, num_levels):  # output: logits of the upper level
  if num_levels != 2:
    raise ValueError(f'a Bernoulli decoder needs 2 levels, got {num_levels}')
  return bernoulli_log_prob(output, x)


# name: (parameters of an element P, log p of output and x, mean of x)
DECODERS = {
  'logistic': (2, _logistic, lambda output: mean_and_log_scale(output)[0]),
  'gaussian': (2, _gaussian, lambda output: mean_and_log_scale(output)[0]),
  'unit_gaussian': (1, _unit_gaussian, lambda output: output),
  'bernoulli': (1, _bernoulli, lambda output: jnp.tanh(output / 2.0)),
}


def log_likelihood(decoder: str, num_levels: int) -> OutputLogProb:
  """Returns (output [B, ..., P C], x [B, ..., C]) -> log p(x | z) in nats, [B].

  decoder: a key of DECODERS; x has num_levels values evenly spaced on [-1, 1].
  """
  _, log_prob, _ = DECODERS[decoder]
  return lambda output, x: jnp.sum(log_prob(output, x, num_levels), axis=data_axes(x))


@declares(
  what='−E[log p(x | z)] + `beta` KL(q(z | x) ‖ p(z)) (Kingma & Welling 2014, Eq. 3; '
  '[VAEs](networks.md#variational-autoencoders))',
  data='levels',
  estimates=False,
)
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
  with one layer; key: of dropout. beta is multiplied by `autoencoders.bounds.kl_warmup`
  over kl_warmup steps. free_bits: see
  `autoencoders.bounds.free_bits`, in nats per channel of z; it needs accumulate = 1.
  params: {'network': ...}. Metrics: loss; bits_per_dim = reconstruction + kl,
  the bound itself; beta.
  """

  def terms(params, z_keys, dropout_keys, x):
    params = params['network']
    q = encode(params, 1, x, key=dropout_keys[0])

    def log_p(x, z):
      return log_likelihood(decode(params, 1, z, key=dropout_keys[1]), x)

    elbo = bound.vae_elbo(z_keys, x, q, log_p)
    divergence = kl(q, bound.STANDARD)
    pixels = tuple(range(1, divergence.ndim - 1))
    return elbo['reconstruction'], jnp.sum(divergence, axis=pixels)

  return _negative_elbo(terms, beta, free_bits, kl_warmup)


@declares(what='−ELBO of a chain of T learned layers', data='levels', estimates=False)
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
  """Makes -ELBO of a Markov hierarchical VAE (`autoencoders.bounds.hierarchical_elbo`).

  encode(params, t, z, key=None) -> Normal, q(z_t | z_{t-1}), t = 1..T =
  num_latents; decode(params, t, z, key=None) -> Normal, p(z_{t-1} | z_t), or
  the output for t = 1. beta and free_bits apply to the log-ratios of the
  layers. Otherwise as `vae`. Metrics: also kl_1 .. kl_T.
  """

  def terms(params, z_keys, dropout_keys, x):
    def at_level(function, key):
      def apply(t, z):
        level_key = None if key is None else jax.random.fold_in(key, t)
        return function(params['network'], t, z, key=level_key)

      return apply

    def log_p(x, z):
      return log_likelihood(decode_at(1, z), x)

    encode_at, decode_at = map(at_level, (encode, decode), dropout_keys)
    elbo = bound.hierarchical_elbo(z_keys, x, encode_at, decode_at, log_p, num_steps=num_latents)
    return elbo['reconstruction'], elbo['log_ratio']

  return _negative_elbo(terms, beta, free_bits, kl_warmup, by_group=True)


def _negative_elbo(terms, beta, free_bits, kl_warmup, by_group=False):
  # terms: (params, z_keys, dropout_keys, x) -> log p(x | z) [B] and KL
  # [B, groups]
  warmup = functools.partial(bound.kl_warmup, num_steps=kl_warmup)

  def draw(key, batch, context):
    x = batch['x']
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
    weight = beta * warmup(context.step)
    total = error + weight * penalty
    metrics = means(
      loss=total, reconstruction=error, kl=divergence, beta=weight, bits_per_dim=error + divergence
    )
    if by_group:
      layers = (in_bits(groups[:, t]) for t in range(groups.shape[1]))
      metrics |= means(**{f'kl_{t}': kl for t, kl in enumerate(layers, 1)})
    return total, (metrics, ())

  # Free bits are a maximum over means of the batch.
  return Objective(draw, loss, separable=not free_bits)
