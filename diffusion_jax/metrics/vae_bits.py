"""Bits per dimension of VAEs and of diffusion models of their latents: bounds and likelihoods."""

import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.aliases import Params
from diffusion_jax.autoencoders import bounds as bound
from diffusion_jax.core.arguments import check_at_least
from diffusion_jax.core.keys import split_key
from diffusion_jax.core.normal import kl
from diffusion_jax.declared import declares
from diffusion_jax.metrics.bits import in_bits
from diffusion_jax.metrics.likelihoods import DiffusionModel, log_p_by_ode
from diffusion_jax.metrics.metric import ExampleArrays, ModelMetric

Array = jax.Array


class LatentModel(Protocol):
  """A VAE, as its bounds need it; its layers of latents are z_1..z_T."""

  @property
  def num_latents(self) -> int:
    """T."""
    ...

  def encode(self, params: Params, t: int, z: Array) -> dj.Normal:
    """Returns q(z_t | z_{t-1}), z_0 = x."""
    ...

  def log_likelihood_of(self, params: Params) -> Callable[[Array, Array], Array]:
    """Returns (x, z_1) -> log p(x | z_1), [B], in nats."""
    ...

  def chain_elbo(self, params: Params, keys: Array, x0: Array) -> dict[str, Array]:
    """Returns the terms of `dj.hierarchical_elbo`."""
    ...


class LatentDiffusion(DiffusionModel, Protocol):
  """A diffusion model of scale * z, z the latents of a VAE."""

  def autoencoder(self) -> LatentModel:
    """Returns the VAE, whose parameters and scale are a run's 'autoencoder'."""
    ...


@declares(data='levels')
def vae_elbo() -> ModelMetric:
  """Bound of a VAE and its terms, by one draw of z for each image, bits/dim."""

  def measure(model: LatentModel) -> ExampleArrays:
    def function(params, keys, x0, cond):
      params, shape = params['network'], x0.shape[1:]
      if model.num_latents == 1:
        q = model.encode(params, 1, x0)
        terms = bound.vae_elbo(keys, x0, q, model.log_likelihood_of(params))
        parts = kl(q, bound.STANDARD)
        parts = jnp.sum(parts, axis=tuple(range(1, parts.ndim - 1)))
        nats = {'kl_of_channels': parts}
      else:
        terms = model.chain_elbo(params, keys, x0)
        nats = {'kl_of_layers': terms['log_ratio']}
      size = jnp.full(len(x0), x0.size // len(x0))
      return nats | {
        'total': dj.bits_per_dim(-terms['elbo'], shape),
        'reconstruction': dj.bits_per_dim(-terms['reconstruction'], shape),
        'dimensions': size,
      }

    return function

  return in_bits('elbo', measure, _vae_terms, calls=lambda model, train: 1)


def _vae_terms(arrays, out):
  # Returns the terms of a VAE's bound; the KL is summed in nats.
  count, size = len(arrays['total']), arrays['dimensions'][0]
  reconstruction = float(arrays['reconstruction'].mean())
  by_layer = arrays.get('kl_of_layers')
  total = arrays['kl_of_channels'] if by_layer is None else by_layer
  nats = total.sum(axis=0) / count
  parts = nats / (size * np.log(2.0))
  divergence = float(parts.sum())
  if by_layer is None:
    used = int((nats > 0.01).sum())
    note = f'{used} of {len(nats)} channels of z carry more than 0.01 nats'
  else:
    layers = ', '.join(f'{x:.4f}' for x in parts)
    note = f'of z_1..z_{len(parts)}: {layers}'
  print(f'reconstruction {reconstruction:.4f} + KL {divergence:.4f}; {note}')
  return {'reconstruction': reconstruction, 'kl': divergence, 'kl_parts': parts.tolist()}


@declares(
  what=(
    'for a [VAE](networks.md#variational-autoencoders): the importance-weighted bound of '
    '`evaluation.iw.num_samples` draws'
  ),
  needs='as many calls of the decoder',
  data='levels',
)
def importance_weighted(num_samples: int = 100) -> ModelMetric:
  """Log-likelihood of a VAE by several draws of z, in bits/dim.

  num_samples: draws for each image (Burda et al. 2016).
  """
  check_at_least(1, num_samples=num_samples)

  def measure(model: LatentModel) -> ExampleArrays:
    def function(params, keys, x0, cond):
      params = params['network']
      if model.num_latents == 1:
        q, decode = model.encode(params, 1, x0), model.log_likelihood_of(params)
        weight = functools.partial(bound.vae_log_weight, x=x0, q=q, decode=decode)
      else:

        def weight(key):
          return model.chain_elbo(params, key, x0)['elbo']

      log_p = bound.importance_weighted_elbo(keys, weight, num_samples)
      return {'total': dj.bits_per_dim(-log_p, x0.shape[1:])}

    return function

  def details(arrays, out):
    return {'num_samples': num_samples}

  return in_bits('iw', measure, details, calls=lambda model, train: num_samples)


@declares(needs_denoiser=True)
def latent_ode(t_min: float = 1e-3, tolerance: float = 1e-4, num_probes: int = 1) -> ModelMetric:
  """Bound of a diffusion model of latents, in bits/dim.

  log p(x | z) + log p(z) - log q(z | x) at one draw of z, with log p(z) by the
  probability-flow ODE (Vahdat et al. 2021). It has the fields of `ode`.
  """
  log_p_of = log_p_by_ode(t_min, tolerance, num_probes)

  def measure(model: LatentDiffusion) -> ExampleArrays:
    def function(params, keys, x0, cond):
      keys, probe_keys = split_key(keys, 2)
      weights, scale = (params['autoencoder'][n] for n in ('network', 'scale'))

      def log_prior(z):
        denoise = model.denoiser(params, cond)
        log_p = log_p_of(probe_keys, denoise, model.schedule(params), scale * z)
        return log_p + z.size // len(z) * jnp.log(scale)

      vae = model.autoencoder()
      q, decode = vae.encode(weights, 1, x0), vae.log_likelihood_of(weights)
      log_p = bound.vae_log_weight(keys, x0, q, decode, log_prior)
      return {'total': dj.bits_per_dim(-log_p, x0.shape[1:])}

    return function

  return in_bits('ode', measure)
