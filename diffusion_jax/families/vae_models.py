"""Builds the functions of a VAE's networks, its parameters and objective."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax import build
from diffusion_jax.build.make import matmul_precision
from diffusion_jax.errors import UserError
from diffusion_jax.training import vae


class Model(NamedTuple):
  """Holds the functions of a VAE; params: those of the network.

  encode(params, t, z, key=None) -> Normal, q(z_t | z_{t-1}), t = 1..T =
  num_latents, z_0 = x; decode(params, t, z, key=None) -> Normal, p(z_{t-1} |
  z_t), and for t = 1 the output, which decides p(x | z_1). objective.name=vae
  is T = 1. log_likelihood(output, x) -> log p(x | z), nats, [B]; image(output)
  -> the mean of p(x | z), in [-1, 1]. The key is that of dropout, in training.
  """

  num_latents: int
  encode: Callable
  decode: Callable
  log_likelihood: Callable
  image: Callable


def build_model(config, network=None):
  """Returns the functions of the network, by default that of the config."""
  c = config.objective
  network = build.build_network(config) if network is None else network
  num_latents = 1 if c.name == 'vae' else network.num_latents
  _, _, mean = vae.DECODERS[c.decoder]

  def method(name):
    def apply(params, t, z, *, key=None):
      inputs = (z,) if c.name == 'vae' else (t, z)
      rngs = {} if key is None else {'dropout': key}
      with matmul_precision(config):
        found = network.apply(
          {'params': params}, *inputs, key is not None, rngs=rngs, method=name
        )
      if not isinstance(found, tuple):
        return found
      return dj.Normal(found[0], jnp.exp(found[1]))

    return apply

  return Model(
    num_latents,
    method('encode'),
    method('decode'),
    vae.log_likelihood(c.decoder, config.data.num_levels),
    lambda output: jnp.clip(mean(output), -1.0, 1.0),
  )


def init(config):
  """Returns key -> {'network': params}."""
  network = build.build_network(config)
  x = jnp.zeros((1, *config.data.image_shape))

  def apply(key):
    # The first of two keys, as for networks with a learned schedule.
    key, _ = jax.random.split(key)
    return {'network': network.init(key, x)['params']}

  return apply


def objective(config, test=False):
  """Returns the `Objective` of the config; for `test` the plain bound.

  Raises UserError for a decoder or free bits that the config cannot have.
  """
  c = config.objective
  if c.decoder == 'bernoulli' and config.data.num_levels != 2:
    raise UserError(
      'config.objective.decoder=bernoulli has 2 grey levels, not '
      f'{config.data.num_levels}: take objective.decoder=logistic, or '
      'data.num_levels=2, which makes every pixel black or white'
    )
  if c.free_bits and config.training.accumulate > 1:
    raise UserError(
      'config.objective.free_bits are of a whole batch: set '
      'training.accumulate=1'
    )
  if test:
    config = config.copy_and_resolve_references()
    for field in ('beta', 'free_bits', 'kl_warmup'):
      config.objective[field] = None

  def functions(network):
    model = build_model(config, network)._asdict()
    return {name: lambda value=value: value for name, value in model.items()}

  return build.build_objective(config, test, functions)
