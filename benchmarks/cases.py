"""The networks that are compared: configs of ours, and models of diffusers.

The torch side has the same network with the same weights where diffusers can
express it; EDM's DDPM++ it cannot, and there it has a UNet2DModel of the same
widths and number of blocks.
"""

import importlib

import jax
import jax.numpy as jnp

from diffusion_jax import build
from diffusion_jax.interop import diffusers_transformer, diffusers_unet
from diffusion_jax.networks.unet import UNet

# DiT-S/2 as it was published, with the waves that diffusers has.
DIT = {
  'noise_embedding': 'ho',
  'positions': 'sincos',
  'norm': 'layer',
  'qk_norm': False,
  'mlp': 'gelu',
  'dropout': 0.0,
  'dropout_blocks': 'all',
}
SMOKE = {
  'channels': 16,
  'multipliers': (1, 2),
  'num_blocks': 1,
  'num_groups': 4,
}
# name: (config, fields of its network here, whether diffusers has it)
NETWORKS = {
  'ddpm': ('cifar10', {}, True),
  'edm': ('cifar10_edm', {}, False),
  # Separate projections are the layout that diffusers has: the same products.
  'adm': ('imagenet64', {'qkv': 'separate'}, True),
  'dit': ('cifar10_dit', DIT, True),
  'smoke_dit': (
    'cifar10_dit',
    DIT | {'channels': 16, 'num_blocks': 2, 'num_heads': 2},
    True,
  ),
  'smoke': ('cifar10', SMOKE | {'attention_resolutions': (8,)}, True),
}


def is_dit(case):
  """Says whether the network of a case is a transformer."""
  return NETWORKS[case.network][0].endswith('_dit')


def make_config(case):
  """Returns the config of a case: one device, DDIM, a network of its type."""
  name, fields, _ = NETWORKS[case.network]
  config = importlib.import_module(f'configs.{name}').get_config()
  base = importlib.import_module('configs.cifar10').get_config()
  config.network.update(fields | {'dtype': case.dtype, 'remat': case.remat})
  if case.attention != 'xla':
    config.network.attention = case.attention
  if case.network.startswith('smoke'):
    config.data.image_shape = (16, 16, 3)
  if case.network == 'adm':  # diffusers has neither the bound nor its output
    config.network.learned_variance = False
    config.objective.name = 'denoising'
  if is_dit(case):  # trained as DDPM's network is
    for section in ('schedule', 'objective', 'conditioning'):
      config[section] = base[section]
    config.conditioning.update({'labels': True, 'dropout': 0.1})
  config.objective.augment = 0.0
  config.training.mesh = (1, 1)
  config.training.batch_size = case.batch
  config.sampling.sampler = 'ddim'
  config.sampling.eta = 0.0
  config.sampling.respacing = ''
  config.sampling.variance = 'fixed_small'
  config.sampling.num_steps = case.ddim_steps
  return config


def torch_options(case):
  """Returns the options of the UNet2DModel, or DiT, of a case."""
  config = make_config(case)
  shape = tuple(config.data.image_shape)
  if is_dit(case):
    network = build.build_network(config)
    return diffusers_transformer.write_config(network, shape)
  if NETWORKS[case.network][2]:
    return diffusers_unet.write_config(build.build_network(config), shape)
  of_same_size = UNet(
    channels=256,
    multipliers=(1, 1, 1),
    num_blocks=4,
    attention_resolutions=(16,),
    dropout=config.network.dropout,
  )
  return diffusers_unet.write_config(of_same_size, shape)


def network_inputs(config, batch):
  """Returns (x, noise, cond): shapes of what the network is given."""
  x = jax.ShapeDtypeStruct((batch, *config.data.image_shape), jnp.float32)
  noise = jax.ShapeDtypeStruct((batch,), jnp.float32)
  label = jax.ShapeDtypeStruct((batch,), jnp.int32)
  return x, noise, {'label': label} if config.conditioning.labels else {}
