"""The networks that are compared: configs of ours, and models of diffusers.

The torch side has the same network with the same weights where diffusers can
express it; EDM's DDPM++ it cannot, and there it has a UNet2DModel of the same
widths and number of blocks.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.app import load, models
from diffusion_jax.app.config import make
from diffusion_jax.app.modes import train_setup
from diffusion_jax.interop import diffusers_transformer, diffusers_unet
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.networks.unet import UNet

CONFIGS = Path(__file__).parents[1] / 'configs'
# DiT-S/2 as it was published, with the sinusoids that diffusers has. It is
# trained as DDPM's network is.
DIT = {'network': 'dit', 'network.noise_embedding': 'ho'}
SMOKE = {
  'data': 'synthetic',
  'data.image_shape': '16,16,3',
  'network.channels': '16',
}
SMOKE_UNET = SMOKE | {
  'network.multipliers': '1,2',
  'network.num_blocks': '1',
  'network.num_groups': '4',
  'network.attention_resolutions': '8',
}
SMOKE_DIT = SMOKE | {'network.num_blocks': '2', 'network.num_heads': '2'}
# diffusers has neither the bound nor its output. Separate projections are the
# layout that diffusers has: the same products.
ADM = {'objective': 'denoising', 'network.qkv': 'separate'}
# name: (config, its variant, flags)
NETWORKS = {
  'ddpm': ('cifar10', '', {}),
  'edm': ('cifar10_edm', '', {'conditioning.augment': '0.0'}),
  'adm': ('imagenet64', '', ADM),
  'dit': ('cifar10', 'conditional', DIT),
  'smoke': ('cifar10', '', SMOKE_UNET),
  'smoke_dit': ('cifar10', 'conditional', DIT | SMOKE_DIT),
}


def make_model(case) -> Any:
  """Returns the model of a case: for one device, sampled by DDIM."""
  name, variant, flags = NETWORKS[case.network]
  flags = flags | {
    'network.dtype': case.dtype,
    'network.remat': str(case.remat),
    'training.mesh': '1,1',
    'training.batch_size': str(case.batch),
    'sampling.sampler': 'ddim',
    'sampling.respacing': '',
    'sampling.num_steps': str(case.ddim_steps),
  }
  if case.attention != 'xla':
    flags['network.attention'] = case.attention
  config = load.from_file(str(CONFIGS / f'{name}.py'), variant)
  config = load.with_flags(config, [*flags.items()])
  return models.make(config, 'nowhere')


def train_step(model, mesh):
  """Returns (jitted training step, shapes of its state on the mesh)."""
  config, objective = model.config, model.objective()
  facts = {'total_steps': config.training.num_steps}
  optimizer, _ = make(model.schema, 'optimizer', config.optimizer, facts)
  _, shapes = train_setup.state_maker(model, objective, optimizer, mesh)
  step = train_setup.jit_step(config, mesh, objective, optimizer, shapes)
  return step, shapes


def torch_options(model):
  """Returns the options of diffusers' network for a model."""
  network, shape = model.network, model.state_shape
  if isinstance(network, DiT):
    return diffusers_transformer.write_config(network, shape)
  if isinstance(network, UNet):
    return diffusers_unet.write_config(network, shape)
  of_same_size = UNet(
    channels=256,
    multipliers=(1, 1, 1),
    num_blocks=4,
    attention_resolutions=(16,),
    dropout=network.dropout,
  )
  return diffusers_unet.write_config(of_same_size, shape)


def network_inputs(model, batch):
  """Returns (x, noise, cond): shapes of what the network is given."""
  x = jax.ShapeDtypeStruct((batch, *model.state_shape), jnp.float32)
  noise = jax.ShapeDtypeStruct((batch,), jnp.float32)
  label = jax.ShapeDtypeStruct((batch,), jnp.int32)
  return x, noise, {'label': label} if model.conditioning.labels else {}
