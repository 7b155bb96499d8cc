"""A wrong layer raises one line; for fields see test_options.py."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.attention import Attention, attend
from diffusion_jax.networks.context import ContextEncoder
from diffusion_jax.networks.ddpmpp import check_filter
from diffusion_jax.networks.embeddings import LabelEmbedding, sinusoidal
from diffusion_jax.networks.inputs import Inputs, Text
from diffusion_jax.networks.layers import Conv
from diffusion_jax.networks.states import StateNetwork
from diffusion_jax.networks.tokens import grid_positions, patchify, rotary_angles
from diffusion_jax.networks.transformer import DiT, block_params
from diffusion_jax.networks.unet import UNet
from tests.networks.test_autoencoder import NETWORK

BLOCKS = {'blocks_0': {'w': jnp.zeros((2, 1))}}


def attended(size):
  x = jnp.zeros((1, 2, 1, size), jnp.bfloat16)
  return attend(x, x, x, implementation='cudnn')


def begun(network, *inputs):
  return jax.eval_shape(network.init, jax.random.key(0), *inputs)


def call_without_a_text(cond):
  inputs = X, NOISE, {'text': TEXT}
  variables = begun(READER, *inputs)
  jax.eval_shape(READER.apply, variables, X, NOISE, cond)


X, NOISE, TEXT = np.zeros((1, 4, 4, 8)), np.zeros(1), np.zeros((1, 3), int)
CUDNN: Any = {
  'attention': 'cudnn',
  'multipliers': (1,),
  'num_blocks': 1,
  'attention_resolutions': (4,),
  'num_groups': 4,
}
SMALL = UNet(8, (1,), 1, (), num_groups=4)
READER = SMALL.clone(inputs=Inputs(text=Text(width=16, layers=1, heads=2)))
THREE_HEADS = SMALL.clone(inputs=Inputs(text=Text(16, layers=1, heads=3)))
CLASSES = LabelEmbedding(Inputs(num_classes=3), 5)
STATES = StateNetwork(DiT(8, 1, 1, out_channels=10), 5, num_outputs=4)


@pytest.mark.parametrize('call, message', [
  (lambda: NETWORK.clone(hidden=(4, 0)), r'^hidden\[1\] must be an integer of'),
  (lambda: NETWORK.clone(latent_dim=0), '^latent_dim must be an integer of at'),
  (lambda: NETWORK.clone(dropout=1.0), r'^dropout must be a number in \[0, 1'),
  (lambda: NETWORK.clone(initializer='a'), "^initializer 'a' is not one of ho"),
  (lambda: UNet(remat_policy='products'), 'no effect without remat=True'),
  (lambda: sinusoidal(jnp.zeros(1), 3), 'needs 4 features or more, not 3'),
  *((lambda w=w: check_filter(w), 'must be an even number of weights')
    for w in ((1,), (1, 2, 1), (1, -1), ())),
  (lambda: begun(Attention(num_groups=4, num_heads=3), X),
   'num_heads=3 does not divide the 8 channels'),
  (lambda: begun(Attention(num_groups=4, head_channels=16), X),
   'head_channels=16 does not divide the 8 channels'),
  (lambda: begun(Conv(8, initializer='he'), X),
   "'he' is not one of ho, torch, lecun"),
  (lambda: grid_positions((2, 2), 6), 'divisible by 4, not 6'),
  (lambda: rotary_angles((2, 2), 6), 'channels divisible by 4, not 6'),
  *((lambda cond=cond: begun(CLASSES, cond, 1), 'no null class')
    for cond in ({}, {'label': TEXT[0, :1], 'drop': np.ones(1, bool)})),
  *((lambda cond=cond: call_without_a_text(cond), 'has no null text')
    for cond in ({}, {'text': TEXT, 'drop': np.ones(1, bool)})),
  (lambda: begun(THREE_HEADS, X, NOISE, {'text': TEXT}),
   'num_heads=3 does not divide the 16'),
  (lambda: begun(STATES, TEXT[:, :, None, None], NOISE),
   'out_channels=10 of the network must be 1 chan'),
  (lambda: STATES.clone(num_states=0), 'num_states must be'),
  (lambda: UNet(8, **CUDNN), "'cudnn' needs dtype bfloat16"),
  (lambda: begun(UNet(8, **CUDNN, head_channels=4, dtype='bfloat16'), X, NOISE),
   'heads of 8, 16, ... 128 channels, not'),
  (lambda: begun(UNet(256, **CUDNN, dtype='bfloat16'), X, NOISE),
   'not 256: change num_heads or head_channels'),
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
