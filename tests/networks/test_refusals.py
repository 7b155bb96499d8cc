"""A wrong layer raises one line; for fields see test_options.py."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.discrete.network import StateNetwork
from diffusion_jax.networks.attention import Attention, attend
from diffusion_jax.networks.ddpmpp import check_filter
from diffusion_jax.networks.edm2 import EDM2
from diffusion_jax.networks.embeddings import LabelEmbedding, sinusoidal
from diffusion_jax.networks.inputs import ContextEncoder, Inputs, Text
from diffusion_jax.networks.layers import Conv
from diffusion_jax.networks.mlp import MLP
from diffusion_jax.networks.tokens import grid_positions, patchify, rotary_angles
from diffusion_jax.networks.transformer import DiT, block_params
from diffusion_jax.networks.unet import UNet
from tests import refusals
from tests.autoencoders.test_networks import NETWORK
from tests.networks.test_options import NETWORKS

X, NOISE, TEXT = np.zeros((1, 4, 4, 8)), np.zeros(1), np.zeros((1, 3), int)
DROP = np.ones(1, bool)
BLOCKS = {'blocks_0': {'w': jnp.zeros((2, 1))}}
LEVELS: Any = {'multipliers': (1,), 'num_blocks': 1}
CUDNN: Any = {'attention': 'cudnn', 'attention_resolutions': (4,), 'num_groups': 4, **LEVELS}
HALF: Any = CUDNN | {'dtype': 'bfloat16'}
SMALL = UNet(8, (1,), 1, (), num_groups=4)
READER = SMALL.clone(inputs=Inputs(text=Text(width=16, layers=1, heads=2)))
CLASSES = LabelEmbedding(Inputs(num_classes=3), 5)
STATES = StateNetwork(DiT(8, 1, 1, out_channels=10), 5, num_outputs=4)
HALVED = UNet(4, (1, 2), 1, num_groups=2, out_channels=2)
DIT = DiT(24, 1, 2, out_channels=2)


def changed(name, **fields):
  return NETWORKS[name]().clone(**fields)


def begun(network, *inputs):
  return jax.eval_shape(network.init, jax.random.key(0), *inputs)


def of_shape(network, *shape):
  return begun(network, np.zeros((1, *shape)), NOISE)


def attended(size):
  x = jnp.zeros((1, 2, 1, size), jnp.bfloat16)
  return attend(x, x, x, implementation='cudnn')


def call_without_a_text(cond):
  variables = begun(READER, X, NOISE, {'text': TEXT})
  jax.eval_shape(READER.apply, variables, X, NOISE, cond)


def of_context(kind, context):
  encoder = ContextEncoder(kind, width=8, layers=2, heads=2)
  inputs = Inputs(context=context, context_encoder=encoder)
  return begun(MLP(8, 1, inputs=inputs), np.zeros((1, 8, 2)), NOISE, inputs.example())


WRONG = [
  (lambda: changed('unet', multipliers=()), 'multipliers must be one or more numbers, not ()'),
  (lambda: changed('autoencoder', image_size=(4,)), 'image_size must be a list of 2, not (4,)'),
  (lambda: changed('vdm', fourier=(8, 6)), 'fourier=(8, 6) must be (first, stop)'),
  (lambda: changed('vdm', fourier=(6, 25)), 'fourier=(6, 25) must be ... first <= stop <= 24'),
  (lambda: NETWORK.clone(hidden=(4, 0)), 'hidden[1] must be an integer of'),
  (lambda: UNet(remat_policy='products'), 'no effect without remat=True'),
  (lambda: sinusoidal(jnp.zeros(1), 3), 'needs 4 features or more, not 3'),
  (lambda: check_filter((1,)), 'must be an even number of weights'),
  (lambda: check_filter((1, -1)), 'must be an even number of weights'),
  (lambda: check_filter(()), 'must be an even number of weights'),
  (
    lambda: begun(Attention(num_groups=4, num_heads=3), X),
    'num_heads=3 does not divide the 8 channels',
  ),
  (
    lambda: begun(Attention(num_groups=4, head_channels=16), X),
    'head_channels=16 does not divide the 8',
  ),
  (lambda: begun(Conv(8, initializer='he'), X), "'he' is not one of ho, torch, lecun"),
  (lambda: STATES.clone(num_states=0), 'num_states must be'),
  (
    lambda: begun(STATES, TEXT[:, :, None, None], NOISE),
    'out_channels=10 of the network must be 1 chan',
  ),
  (lambda: block_params(BLOCKS, -1), '-1 is not a block: they are 0..1'),
  (lambda: block_params(BLOCKS, 2), '2 is not a block: they are 0..1'),
  (
    lambda: of_shape(DIT.clone(class_tokens=2), 4, 4, 2),
    'class_tokens need labels: set inputs.num_classes',
  ),
  (
    lambda: of_shape(
      DIT.clone(class_tokens=2, class_tokens_at=1, inputs=Inputs(num_classes=3)), 4, 4, 2
    ),
    'class_tokens_at=1 must be a block, 0..0',
  ),
  (
    lambda: DiT(
      value_residual=True, class_tokens=2, class_tokens_at=1, inputs=Inputs(num_classes=3)
    ),
    'class_tokens from block 1 on have no values of the first block: set class_tokens_at=0',
  ),
  (lambda: DiT(num_blocks=1, value_residual=True), 'value_residual needs two blocks or more'),
  (lambda: DiT(routing=0.5), 'routing=0.5 needs routing_ends, the number of blocks'),
  (
    lambda: DiT(num_blocks=4, routing_ends=2),
    'routing_ends=2 at either end leaves none of 4 blocks between them',
  ),
  (
    # When its parameters are made, which is before any training.
    lambda: jax.eval_shape(
      DiT(num_blocks=3, routing=0.5, routing_ends=1).init,
      jax.random.key(0),
      jnp.zeros((1, 2, 2, 3)),
      jnp.zeros(1),
    ),
    'routing=0.5 needs two patches or more: change patch_size',
  ),
  # inputs
  (lambda: begun(CLASSES, {}, 1), 'no null class'),
  (lambda: begun(CLASSES, {'label': TEXT[0, :1], 'drop': DROP}, 1), 'no null class'),
  (lambda: call_without_a_text({}), 'has no null text'),
  (lambda: call_without_a_text({'text': TEXT, 'drop': DROP}), 'has no null text'),
  (
    lambda: begun(
      SMALL.clone(inputs=Inputs(text=Text(16, layers=1, heads=3))), X, NOISE, {'text': TEXT}
    ),
    'num_heads=3 does not divide the 16',
  ),
  (
    lambda: Inputs(context=(5,), context_encoder=ContextEncoder('mean')),
    "'mean' is not one of auto, vector,",
  ),
  (lambda: Inputs(context=(5, 0)), 'context[1] must be an integer of at'),
  (lambda: Inputs(elapsed=True).check({}), "the network needs cond['elapsed'] [B]"),
  (lambda: Inputs().check({'drop': DROP}), "the network has no condition ['drop']"),
  (lambda: Inputs(num_classes=3).check({}), "no null class: cond needs 'label'"),
  (lambda: Inputs(text=Text()).check({}), "no null text: cond needs 'text'"),
  (lambda: Inputs(context=(5,)).check({}), "no null context: cond needs 'context'"),
  (
    lambda: Inputs(context=(5,)).check({'context': np.ones((2, 4))}),
    "each cond['context'] has the shape [4], but the network needs [5]",
  ),
  (
    lambda: Inputs(context=(5,)).check({'context': np.ones((1, 5)), 'drop': DROP}),
    'no null context',
  ),
  (
    lambda: of_context('auto', (2, 2, 2)),
    '[2, 2, 2] is neither a vector nor words [N, C] nor on the grid [8] of x: set '
    'context_encoder.kind to',
  ),
  (
    lambda: of_context('channels', (7, 1)),
    'contexts of the shape [8] and channels, as x has, not [7, 1]',
  ),
  (lambda: of_context('words', (5,)), 'needs contexts of the shape [N, C], not [5]'),
  (lambda: of_context('set', (5,)), 'needs contexts of the shape [N, ...], not [5]'),
  (lambda: of_context('words', (4, 2)), "to the words of a context: set its kind to 'set'"),
  # attention of cuDNN
  (lambda: UNet(8, **CUDNN), "'cudnn' needs dtype bfloat16"),
  (
    lambda: begun(UNet(8, head_channels=4, **HALF), X, NOISE),
    'heads of 8, 16, ... 128 channels, not',
  ),
  (lambda: begun(UNet(256, **HALF), X, NOISE), 'not 256: change num_heads or head_channels'),
  (lambda: attended(12), '128 channels, not 12: change num'),
  (lambda: attended(136), '128 channels, not 136: change num'),
  # sizes that do not fit together
  (
    lambda: begun(changed('vdm', num_groups=3), X, NOISE),
    'num_groups=3 does not divide the 4 channels',
  ),
  (
    lambda: begun(changed('unet', num_groups=3), X, NOISE),
    'num_groups=3 does not divide the 4 channels',
  ),
  (
    lambda: begun(changed('autoencoder', num_groups=3), X),
    'num_groups=3 does not divide the 4 channels',
  ),
  (
    lambda: begun(changed('unet', multipliers=(1.25,)), X, NOISE),
    'num_groups=2 does not divide the 5 ch',
  ),
  (lambda: begun(changed('unet', stem_channels=3), X, NOISE), 'does not divide the 3 channels'),
  (
    lambda: begun(changed('ddpmpp', channels=9), X, NOISE),
    'does not divide the 9 channels of a norm',
  ),
  (
    lambda: begun(changed('edm2', attention_resolutions=(4,), head_channels=3), X, NOISE),
    'head_channels=3 does not divide the 4',
  ),
  (lambda: begun(changed('vdm', gamma_min=5.0), X, NOISE), 'gamma_min=5.0 is not below'),
  (
    lambda: begun(changed('ddpmpp', multipliers=(1, 1, 1, 1)), X, NOISE),
    'sides of 4x4 cannot be halved 3',
  ),
  (
    lambda: begun(changed('edm2', multipliers=(1, 1, 1, 1)), X, NOISE),
    'sides of 4x4 cannot be halved 3 times',
  ),
  (
    lambda: begun(changed('autoencoder', multipliers=(1, 1, 1, 1)), X),
    'sides of 4x4 cannot be halved 3 times',
  ),
  # sides and ranks
  (lambda: patchify(jnp.zeros((1, 6, 4, 3)), 4), 'images of 6x4 ... patches of 4x4: patch'),
  (lambda: grid_positions((2, 2), 6), 'divisible by 4, not 6'),
  (lambda: rotary_angles((2, 2), 6), 'channels divisible by 4, not 6'),
  (lambda: of_shape(HALVED, 6, 7, 2), 'sides of 6x7 cannot be halved 1 times: sides'),
  (lambda: of_shape(HALVED, 5, 2), 'sides of 5 cannot be halved 1 times'),
  (lambda: of_shape(HALVED, 4, 4, 3, 2), 'sides of 4x4x3 cannot be halved'),
  (
    lambda: of_shape(HALVED, 5),
    'examples of the shape [5] have 0 axes before the channels, and the network needs 1 or 2 '
    'or 3: use network mlp',
  ),
  (lambda: of_shape(DIT, 5), 'out_channels=2 must be a multiple of the 5 numbers of a vector'),
  (lambda: of_shape(DIT, 2, 2, 2, 2, 2), 'have 4 axes ... needs 1 or 2 or 3: use network mlp'),
  (lambda: of_shape(EDM2(4), 8, 2), 'the shape [8, 2] have 1 ... 2: use network unet or dit'),
  (
    lambda: of_shape(DIT.clone(channels=8), 4, 4, 4, 2),
    "divisible by 6, not 8: change channels, or set positions='rotary'",
  ),
  (
    lambda: of_shape(DIT.clone(channels=8, positions='rotary'), 4, 4, 4, 2),
    'head channels divisible by 6, not 4: change channels or num_heads',
  ),
]


@pytest.mark.parametrize('error, call, message', [*refusals.rows(ValueError, WRONG)])
def test_what_cannot_be_is_refused(error, call, message):
  with refusals.one_line(error=error, match=message):
    call()
