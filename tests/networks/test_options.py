"""The options of networks by their names, as a config has them."""

import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.networks.autoencoder import Autoencoder
from diffusion_jax.networks.classifier import NoisyClassifier
from diffusion_jax.networks.ddpmpp import DDPMpp
from diffusion_jax.networks.edm2 import EDM2
from diffusion_jax.networks.hierarchical import HierarchicalAutoencoder
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.networks.unet import UNet
from diffusion_jax.networks.vdm import ScoreNetwork

TINY = {'channels': 4, 'num_groups': 2}
LEVELS = {'multipliers': (1,), 'num_blocks': 1}
NETWORKS = {
  'unet': lambda **k: UNet(**TINY, **LEVELS, **k),
  'ddpmpp': lambda **k: DDPMpp(**TINY, **LEVELS, **k),
  'dit': lambda **k: DiT(4, 1, 1, **k),
  'edm2': lambda **k: EDM2(4, **LEVELS, head_channels=4, **k),
  'vdm': lambda **k: ScoreNetwork(num_layers=1, **TINY, **k),
  'classifier': lambda **k: NoisyClassifier(
    2, **TINY, **LEVELS, head_channels=4, **k
  ),
  'autoencoder': lambda **k: Autoencoder((4, 4), 3, **TINY, **LEVELS, **k),
  'hierarchical': lambda **k: HierarchicalAutoencoder(
    3, 1, **TINY, **LEVELS, **k
  ),
}


@pytest.mark.parametrize(
  'names, field, known',
  [
    (list(NETWORKS), 'dtype', 'float32, bfloat16'),
    (
      ['unet', 'vdm', 'classifier', 'autoencoder', 'hierarchical'],
      'initializer',
      'ho, torch, lecun',
    ),
    (['unet', 'classifier'], 'noise_embedding', 'ho, openai'),
    (['ddpmpp'], 'noise_embedding', 'ho, openai, fourier'),
    (['unet', 'classifier'], 'qkv', 'separate, legacy, new, interleaved'),
    (['unet', 'classifier'], 'downsample_padding', 'same, symmetric'),
    (['unet', 'dit'], 'attention', 'xla, cudnn'),
    (
      ['unet', 'ddpmpp', 'dit', 'edm2', 'vdm'],
      'remat_policy',
      'nothing, products',
    ),
  ],
)
def test_an_unknown_option_is_refused_at_construction(names, field, known):
  for name in names:
    with pytest.raises(ValueError) as error:
      NETWORKS[name](**{field: 'other'})
    assert str(error.value) == f"{field} 'other' is not one of {known}"


@pytest.mark.parametrize('name', NETWORKS)
def test_the_name_of_a_dtype_is_the_dtype(name, key):
  """The same computation, operation by operation, in bfloat16."""
  x = jnp.zeros((1, 4, 4, 3))
  inputs = (
    (x,) if 'auto' in name or name == 'hierarchical' else (x, jnp.ones(1))
  )

  def program(dtype):
    network = NETWORKS[name](dtype=dtype)
    return str(jax.make_jaxpr(network.init_with_output)(key, *inputs))

  named = program('bfloat16')
  assert named == program(jnp.bfloat16)
  assert named != program('float32') == program(jnp.float32)
