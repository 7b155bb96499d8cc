"""config -> the networks, functions and objectives of variational autoencoders.

Of runs with objective.name=vae, whose z is a vector or an image, and hvae.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax.build.make import choose, matmul_precision
from diffusion_jax.errors import UserError
from diffusion_jax.training import vae

# objective.name: network.name
NAMES = {'vae': 'autoencoder', 'hvae': 'hierarchical'}


def is_vae(config):
  """Returns whether the config is that of a VAE, which has no noise levels."""
  return config.objective.name in NAMES


def check(config):
  """Raises UserError for fields of a VAE that contradict each other."""
  objective, network = config.objective.name, config.network.name
  if (objective in NAMES or network in NAMES.values()) and (
    NAMES.get(objective) != network
  ):
    pairs = ' or '.join(f'{o} with {n}' for o, n in NAMES.items())
    raise UserError(
      f'config.objective.name={objective!r} with network.name={network!r}: of '
      f'these take {pairs}'
    )
  if not is_vae(config):
    return
  c = config.objective
  choose(vae.DECODERS, 'objective', 'decoder', c.decoder)
  if c.decoder == 'bernoulli' and config.data.num_levels != 2:
    raise UserError(
      'config.objective.decoder=bernoulli knows 2 grey levels, not '
      f'{config.data.num_levels}: take objective.decoder=logistic, or '
      'data.num_levels=2, which makes every pixel black or white'
    )
  if c.free_bits and config.training.accumulate > 1:
    raise UserError(
      'config.objective.free_bits are of a whole batch: set '
      'training.accumulate=1'
    )


def out_channels(config):
  """Numbers that the decoder gives each pixel, of all colours together."""
  parameters, *_ = vae.DECODERS[config.objective.decoder]
  return parameters * config.data.image_shape[-1]


class Model(NamedTuple):
  """The functions of a VAE; params: those of the network.

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
  one = c.name == 'vae'
  _, _, mean = vae.DECODERS[c.decoder]

  def method(name):
    def apply(params, t, z, *, key=None):
      inputs = (z,) if one else (t, z)
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
    1 if one else network.num_latents,
    method('encode'),
    method('decode'),
    vae.log_likelihood(c.decoder, config.data.num_levels),
    lambda output: jnp.clip(mean(output), -1.0, 1.0),
  )


def build_objective(config, network, test=False):
  """Returns the objective of config.objective; test: the plain bound."""
  c = config.objective
  model = build_model(config, network)
  names = () if test else ('beta', 'free_bits', 'kl_warmup')
  options = {name: c[name] for name in names if c[name] is not None}
  if c.name == 'hvae':
    return vae.hvae(*model[1:4], num_latents=model.num_latents, **options)

  def encode(params, x, *, key=None):
    return model.encode(params, 1, x, key=key)

  def decode(params, z, *, key=None):
    return model.decode(params, 1, z, key=key)

  return vae.vae(encode, decode, model.log_likelihood, **options)
