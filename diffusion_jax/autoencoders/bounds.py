"""Evidence lower bounds of VAEs with one latent layer and with a Markov chain.

log p(x) >= elbo, in nats, [B], summed over data axes. A decoder is a function
(x, z) -> log p(x | z), [B], and a distribution of latents a `Normal`.
"""

import math
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.core.arguments import sum_data_axes
from diffusion_jax.core.checked import Key, checked
from diffusion_jax.core.keys import draw_normal, key_per_example, split_key
from diffusion_jax.core.normal import STANDARD, Normal, kl, log_prob
from diffusion_jax.meshes import placed_as
from diffusion_jax.ranges import Count, Finite, Size

Array = jax.Array


class LogLikelihood(Protocol):
  """The decoder of a latent variable model."""

  def __call__(self, x: Array, z: Array, /) -> Array:
    """Returns log p(x | z) in nats, [B]; x: [B, ...], z: [B, ...]."""
    ...


@checked
def reparameterize(key: Key, q: Normal) -> Array:
  """Draws z = mean + sqrt(variance) * eps (Kingma & Welling 2014, section 2.4).

  key: [] or [B]; q: a mean [B, ...] of the shape of z, and a variance that
  broadcasts against it.
  """
  return q.mean + jnp.sqrt(q.variance) * draw_normal(key, jnp.asarray(q.mean))


@checked
def vae_elbo(
  key: Key,
  x: Array,
  q: Normal,
  decode: LogLikelihood,
  *,
  num_samples: Size = 1,
  prior: Normal = STANDARD,
) -> dict[str, Array]:
  """Computes E_q[log p(x | z)] - KL(q(z | x) || p(z)), the ELBO in nats.

  Kingma & Welling 2014, Eq. 3. The KL is in closed form; the expectation, over
  num_samples draws, is 'reconstruction'. key: [] or [B]; x: [B, ...]; q: q(z |
  x), [B, ...]; decode: (x, z) -> log p(x | z), [B]; prior: p(z). Returns
  'reconstruction', 'kl' and 'elbo', each [B].
  """

  def reconstruct(key):
    return decode(x, reparameterize(key, q))

  reconstruction = jnp.mean(jax.lax.map(reconstruct, split_key(key, num_samples)), axis=0)
  divergence = sum_data_axes(kl(q, prior))
  return {'reconstruction': reconstruction, 'kl': divergence, 'elbo': reconstruction - divergence}


@checked
def vae_log_weight(
  key: Key,
  x: Array,
  q: Normal,
  decode: LogLikelihood,
  prior: Normal | Callable[[Array], Array] = STANDARD,
) -> Array:
  """Computes log p(x, z) - log q(z | x) at one draw z ~ q, [B].

  Its mean is the ELBO; `importance_weighted_elbo` takes several. The arguments are
  as in `vae_elbo`, but prior may be z -> log p(z), [B], such as the ODE's likelihood
  of a diffusion model of z (Vahdat et al. 2021).
  """
  z = reparameterize(key, q)
  if isinstance(prior, Normal):
    log_prior = sum_data_axes(log_prob(prior, z))
  else:
    log_prior = prior(z)
  return decode(x, z) + log_prior - sum_data_axes(log_prob(q, z))


@checked
def importance_weighted_elbo(
  key: Key, log_weight: Callable[[Array], Array], num_samples: Size
) -> Array:
  """Computes log (1/k) sum_i p(x, z_i) / q(z_i | x) (Burda 2016, Eq. 8).

  k = num_samples = 1 gives the ELBO; with more draws it comes closer to log
  p(x). log_weight: key [] or [B] -> log p(x, z) - log q(z | x) at one draw,
  [B], such as `vae_log_weight` or the 'elbo' of `hierarchical_elbo`.
  """
  log_weights = jax.lax.map(log_weight, split_key(key, num_samples))
  return jax.nn.logsumexp(log_weights, axis=0) - math.log(num_samples)


@checked
def hierarchical_elbo(
  key: Key,
  x: Array,
  encode: Callable[[int, Array], Normal],
  decode: Callable[[int, Array], Normal],
  log_likelihood: LogLikelihood,
  *,
  num_steps: Size,
  prior: Normal = STANDARD,
) -> dict[str, Array]:
  """Computes the ELBO of a Markov hierarchical VAE from one draw of z_1..z_T.

  The ELBO is E_q[log p(z_T) + sum_t log p(z_{t-1} | z_t) + log p(x | z_1) - log
  q(z_1 | x) - sum_t log q(z_t | z_{t-1})]. Encoders may be learned.

  Args:
    key: [] or [B].
    encode: (t, z_{t-1}) -> q(z_t | z_{t-1}) for t = 1..T, z_0 = x.
    decode: (t, z_t) -> p(z_{t-1} | z_t) for t = 2..T.
    num_steps: T, at least 1.
  Returns:
    'reconstruction' [B]; 'log_ratio' [B, T], whose entry t-1 is
    log q(z_t | z_{t-1}) - log p(z_t | z_{t+1}); 'elbo' [B].
  """
  keys = key_per_example(key, len(x))
  encoded, z = [], [x]
  for t in range(1, num_steps + 1):
    step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
    encoded.append(encode(t, z[-1]))
    z.append(reparameterize(step_keys, encoded[-1]))
  decoded = [decode(t, z[t]) for t in range(2, num_steps + 1)] + [prior]
  ratios = [
    sum_data_axes(log_prob(q, z_t) - log_prob(p, z_t))
    for q, p, z_t in zip(encoded, decoded, z[1:], strict=True)
  ]
  reconstruction = log_likelihood(x, z[1])
  return {
    'reconstruction': reconstruction,
    'log_ratio': jnp.stack(ratios, axis=1),
    'elbo': reconstruction - sum(ratios),
  }


@checked
def rearranged_elbo(
  key: Key,
  x: Array,
  marginal: Callable[[int, Array], Normal],
  posterior: Callable[[int, Array, Array], Normal],
  decode: Callable[[int, Array], Normal],
  log_likelihood: LogLikelihood,
  *,
  num_steps: Size,
  prior: Normal = STANDARD,
) -> dict[str, Array]:
  """Computes the ELBO as a sum of KLs, if q(z_{t-1} | z_t, x) is known.

  The ELBO is E[log p(x | z_1)] - sum_t E[KL(q(z_{t-1} | z_t, x) || p(z_{t-1} |
  z_t))] - KL(q(z_T | x) || p(z_T)); with DDPM's q it is `variational_bound`.
  Each z_t is drawn independently from its marginal. For the other arguments see
  `hierarchical_elbo`.

  Args:
    marginal: (t, x) -> q(z_t | x), t = 1..T.
    posterior: (t, z_t, x) -> q(z_{t-1} | z_t, x), t = 2..T.
  Returns:
    'reconstruction' [B]; 'transitions' [B, T-1], whose entry t-2 is the KL of
    step t; 'prior' [B]; 'elbo' [B].
  """
  keys = key_per_example(key, len(x))

  def draw(t):
    return reparameterize(jax.vmap(jax.random.fold_in, (0, None))(keys, t), marginal(t, x))

  terms = [placed_as(x, jnp.zeros((len(x), 0), x.dtype))]
  for t in range(2, num_steps + 1):
    z = draw(t)
    term = sum_data_axes(kl(posterior(t, z, x), decode(t, z)))
    terms.append(term[:, None])
  transitions = jnp.concatenate(terms, axis=1)
  reconstruction = log_likelihood(x, draw(1))
  prior_term = sum_data_axes(kl(marginal(num_steps, x), prior))
  return {
    'reconstruction': reconstruction,
    'transitions': transitions,
    'prior': prior_term,
    'elbo': reconstruction - jnp.sum(transitions, axis=1) - prior_term,
  }


@checked
def free_bits(divergence: Array, minimum: Finite) -> Array:
  """Computes max(minimum, batch mean) of each group of latents, nats, [G].

  It replaces the KL in the loss (Kingma et al. 2016, Eq. 15). A group below the
  minimum gets no gradient. divergence: [B, G]; minimum=0 only affects negative
  estimates.
  """
  return jnp.maximum(jnp.mean(divergence, axis=0), minimum)


@checked
def kl_warmup(step: Array | Count, num_steps: Count) -> Array:
  """Computes the weight of the KL at a training step, linear from 0 to 1.

  Bowman et al. 2016, section 3.1; Sonderby et al. 2016. num_steps=0 gives 1. step: [].
  """
  if num_steps == 0:
    return jnp.ones(())
  return jnp.minimum(step / num_steps, 1.0)
