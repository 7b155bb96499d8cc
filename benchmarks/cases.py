"""The networks that are compared: configs of ours, and models of torch.

The torch side has the same network with the same weights, from diffusers or
from `edm2_torch`. diffusers has no DDPM++: EDM's is compared with a UNet2DModel
of the same widths and number of blocks.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.app.config import experiments
from diffusion_jax.app.kinds import store
from diffusion_jax.app.run import weights
from diffusion_jax.app.train import setup
from diffusion_jax.autoencoders.networks import Autoencoder
from diffusion_jax.interop import (
  diffusers,
  diffusers_autoencoder,
  diffusers_transformer,
  diffusers_unet,
  edm2,
  names,
)
from diffusion_jax.interop.edm import FIELDS
from diffusion_jax.interop.options import options_of
from diffusion_jax.networks.edm2 import EDM2
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.networks.unet import UNet
from diffusion_jax.runtime.run_folder import RunFolder

CONFIGS = Path(__file__).parents[1] / 'configs'
EDM2_FIELDS = {'head_channels': 'channels_per_head'}


class Network(NamedTuple):
  """A config, its variant and flags, and how the network is compared.

  exact: torch has the same network; noise: two of its noise inputs; batch: the
  default on a CPU.
  """

  config: str
  variant: str = ''
  flags: dict[str, str] = {}
  exact: bool = True
  tasks: tuple[str, ...] = ('forward', 'train', 'ddim')
  noise: tuple[float, float] = (10.0, 700.0)
  batch: int = 8


# DiT-S/2 as it was published, with the sinusoids that diffusers has. It is
# trained as DDPM's network is.
DIT = {'network': 'dit', 'network.noise_embedding': 'ho'}
# 256 tokens, as for latents of 32x32.
DIT_XL = DIT | {'network.channels': '1152', 'network.num_blocks': '28', 'network.num_heads': '16'}
# diffusers has neither the bound nor its output. Separate projections are the
# layout that diffusers has: the same products.
ADM = {'objective': 'denoising', 'network.qkv': 'separate', 'network.remat': 'False'}
# The plain loss and one average, as on the torch side.
EDM2_FLAGS = {
  'network.remat': 'False',
  'objective.uncertainty': 'None',
  'training.average': 'decay',
  'training.skip_nonfinite': '0',
}
OF_TWO: Any = {'tasks': ('forward', 'train'), 'batch': 2}
NETWORKS = {
  'ddpm': Network('cifar10'),
  'edm': Network('cifar10_edm', flags={'conditioning.augment': '0.0'}, exact=False),
  'dit': Network('cifar10', 'conditional', DIT),
  'dit_xl': Network('cifar10', 'conditional', DIT_XL),
  'adm': Network('imagenet64', flags=ADM),
  'autoencoder': Network('imagenet256_autoencoder', '', {'data.image_shape': '64,64,3'}, **OF_TWO),
  'edm2': Network('imagenet64_edm2', 'xs', EDM2_FLAGS, noise=(-0.5, 0.5), **OF_TWO),
}


# For benchmarks.curves: DDPM's loss and betas, at small widths.
_DDPM: Any = {
  'schedule': 'linear',
  'parametrization': 'eps',
  'objective': 'denoising',
  'objective.weight': 'snr',
  'network.dropout': '0.0',
  'network.num_groups': '8',
}
CURVES = {
  'mnist': Network('mnist', 'unconditional', _DDPM | {'network.channels': '16'}, batch=32),
  'cifar10': Network(
    'cifar10',
    '',
    _DDPM | {'network.channels': '32', 'network.num_blocks': '1', 'network.multipliers': '1,2,2'},
    batch=32,
  ),
}


def _smoke(name, **fields):
  fields = {'channels': 16, 'num_blocks': 1, 'multipliers': '1,2'} | fields
  flags = {'data': 'synthetic', 'data.image_shape': '16,16,3'}
  flags |= {f'network.{field}': str(x) for field, x in fields.items() if x}
  return NETWORKS[name]._replace(flags=NETWORKS[name].flags | flags)


CURVES['smoke'] = _smoke('ddpm', num_groups=4, attention_resolutions='8')
SMOKE = {
  'smoke_ddpm': _smoke('ddpm', num_groups=4, attention_resolutions='8'),
  'smoke_autoencoder': _smoke('autoencoder', num_groups=4, decoder_blocks=2),
  'smoke_edm2': _smoke('edm2', head_channels=8, attention_resolutions='8'),
  'smoke_dit': _smoke('dit', num_blocks=2, num_heads=2, multipliers=''),
}
# All networks, for benchmarks.on_gpu.
TINY = SMOKE | {
  'smoke_edm': _smoke('edm', num_groups=4, attention_resolutions='8'),
  'smoke_adm': _smoke('adm', num_groups=4, head_channels=8, attention_resolutions='8'),
  'smoke_dit_xl': _smoke('dit_xl', num_blocks=2, num_heads=2, multipliers=''),
}


def network_of(case) -> Network:
  """Returns the network of a case."""
  return (NETWORKS | TINY | CURVES)[case.network]


def make_model(case) -> Any:
  """Returns the model of a case, for one device."""
  network = network_of(case)
  flags = network.flags | {
    'network.dtype': case.dtype,
    'training.machine.mesh': '1,1',
    'training.batch_size': str(case.batch),
    'training.steps_per_call': '1',
  }
  if 'ddim' in network.tasks:
    flags |= {'sampling.sampler': 'ddim', 'sampling.grid': 'steps'}
    flags['sampling.num_steps'] = str(case.ddim_steps)
  if case.remat:
    flags['network.remat'] = 'True'
  path = CONFIGS / f'{network.config}.py'
  config = store.completed(experiments.from_file(str(path), network.variant))
  config = store.with_flags(config, [*flags.items()])
  return weights.make_model(config, RunFolder.at('nowhere'))


def labels_of(model, count):
  """Returns random classes [count], the same ones for both sides.

  Equal classes would make the gradient of their embedding a sum in one row.
  """
  classes = model.facts.num_classes
  return np.random.default_rng(0).integers(classes, size=count)


def train_step(model, mesh):
  """Returns (jitted training step, shapes of its state on the mesh)."""
  objective, optimizer, _, shapes = setup.state_maker(model, mesh)
  step = setup.jit_step(model.config, mesh, objective, optimizer, shapes)
  return step, shapes


def network_fn(model):
  """Returns (params, x, noise, cond) -> the network's output."""
  if isinstance(model.network(), Autoencoder):  # an image of the mean of z
    return lambda params, x, *_: model.network().apply({'params': params}, x)
  return model.noisy.given().apply


def torch_options(model):
  """Returns the options of the torch side's network for a model."""
  network, shape = model.network(), model.facts.x.shape
  if isinstance(network, DiT):
    return diffusers_transformer.write_config(network, shape)
  if isinstance(network, UNet):
    return diffusers_unet.write_config(network, shape)
  if isinstance(network, Autoencoder):
    return diffusers_autoencoder.write_config(network, 1.0)
  if isinstance(network, EDM2):
    facts = {
      'img_resolution': shape[0],
      'img_channels': shape[-1],
      'label_dim': network.inputs.num_classes,
    }
    return facts | options_of(network, FIELDS | EDM2_FIELDS)
  first, *_ = network.multipliers
  of_same_size = UNet(
    channels=int(network.channels * first),
    multipliers=tuple(m / first for m in network.multipliers),
    num_blocks=network.num_blocks,
    attention_resolutions=network.attention_resolutions,
    num_groups=network.num_groups,
    dropout=network.dropout,
  )
  return diffusers_unet.write_config(of_same_size, shape)


def state_dict(model, params):
  """Returns the parameters by the names of the torch side's network."""
  if not isinstance(model.network(), EDM2):
    return diffusers.tensors_of(model.network(), params)
  options = edm2.choose_options(**torch_options(model))
  tensors = names.write(edm2.describe(options).table(), params)
  return names.under(tensors, 'unet.')
