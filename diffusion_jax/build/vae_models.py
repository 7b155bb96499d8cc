"""Builds the functions of the networks of a variational autoencoder."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.build.make import matmul_precision
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


def build_model(config, network):
  """Returns the functions of a Flax module."""
  c = config.objective
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
