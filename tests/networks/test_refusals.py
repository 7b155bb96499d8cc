"""A mistake in a layer raises one line; for fields see test_options.py."""

import jax.numpy as jnp
import pytest

from diffusion_jax.networks.attention import attend
from diffusion_jax.networks.context import ContextEncoder
from diffusion_jax.networks.ddpmpp import check_filter
from diffusion_jax.networks.embeddings import sinusoidal
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.tokens import patchify
from diffusion_jax.networks.transformer import block_params
from diffusion_jax.networks.unet import UNet
from tests.networks.test_autoencoder import NETWORK

BLOCKS = {'blocks_0': {'w': jnp.zeros((2, 1))}}


def attended(size):
  x = jnp.zeros((1, 2, 1, size), jnp.bfloat16)
  return attend(x, x, x, implementation='cudnn')


@pytest.mark.parametrize('call, message', [
  (lambda: NETWORK.clone(hidden=(4, 0)), r'^hidden\[1\] must be an integer of'),
  (lambda: NETWORK.clone(latent_dim=0), '^latent_dim must be an integer of at'),
  (lambda: NETWORK.clone(dropout=1.0), r'^dropout must be a number in \[0, 1'),
  (lambda: NETWORK.clone(initializer='a'), "^initializer 'a' is not one of ho"),
  (lambda: UNet(remat_policy='products'), 'no effect without remat=True'),
  (lambda: sinusoidal(jnp.zeros(1), 3), 'needs 4 features or more, not 3'),
  *((lambda w=w: check_filter(w), 'must be an even number of weights')
    for w in ((1,), (1, 2, 1), (1, -1), ())),
  (lambda: Inputs(num_classes=-1), '^num_classes must be .* not -1$'),
  (lambda: Inputs(context=(5,), context_encoder=ContextEncoder('mean')),
   "'mean' is not one of auto, vector, set"),
  (lambda: Inputs(context=(5, 0)), r'^context\[1\] must be an integer of at'),
  (lambda: patchify(jnp.zeros((1, 6, 4, 3)), 4),
   'images of 6x4 .* patches of 4x4: patch'),
  *((lambda n=n: attended(n), f'128 channels, not {n}: change num')
    for n in (4, 12, 136)),
  *((lambda i=i: block_params(BLOCKS, i), f'{i} is not a block: they are 0..1')
    for i in (-1, 2)),
])  # fmt: skip
def test_what_cannot_be_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
