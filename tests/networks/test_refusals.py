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
from diffusion_jax.networks.tokens import patchify, rotary_angles
from diffusion_jax.networks.transformer import DiT, block_params
from diffusion_jax.networks.unet import UNet
from tests import refusals
from tests.networks.test_options import NETWORKS, NOISELESS, having

X, NOISE, TEXT = np.zeros((1, 4, 4, 8)), np.zeros(1), np.zeros((1, 3), int)
DROP = {'drop': np.ones(1, bool)}
BLOCKS = {'blocks_0': {'w': jnp.zeros((2, 1))}}
CUDNN: Any = dict(attention='cudnn', attention_resolutions=(4,), num_groups=4)
HALF: Any = CUDNN | dict(dtype='bfloat16', multipliers=(1,), num_blocks=1)
SMALL = UNet(8, (1,), 1, (), num_groups=4)
READER = SMALL.clone(inputs=Inputs(text=Text(width=16, layers=1, heads=2)))
LABELS = Inputs(num_classes=3)
CLASSES = LabelEmbedding(LABELS, 5)
STATES = StateNetwork(DiT(8, 1, 1, out_channels=10), 5, num_outputs=4)
HALVED = UNet(4, (1, 2), 1, num_groups=2, out_channels=2)
DIT = DiT(24, 1, 2, out_channels=2)
ROTARY = DIT.clone(channels=8, positions='rotary')
LATE: Any = dict(class_tokens=2, class_tokens_at=1, inputs=LABELS)
CONTEXT = Inputs(context=(5,))


def begun(network, *inputs):
  return jax.eval_shape(network.init, jax.random.key(0), *inputs)


def of_shape(network, *shape):
  return begun(network, np.zeros((1, *shape)), NOISE)


def attended(size):
  x = jnp.zeros((1, 2, 1, size), jnp.bfloat16)
  return attend(x, x, x, implementation='cudnn')


def without_a_text(cond):
  variables = begun(READER, X, NOISE, {'text': TEXT})
  jax.eval_shape(READER.apply, variables, X, NOISE, cond)


def of_context(kind, context):
  encoder = ContextEncoder(kind, width=8, layers=2, heads=2)
  inputs = Inputs(context=context, context_encoder=encoder)
  return begun(MLP(8, 1, inputs=inputs), np.zeros((1, 8, 2)), NOISE, inputs.example())


WRONG = [
  (lambda: UNet(8, ()), 'multipliers must be one or more numbers, not ()'),
  (lambda: NETWORKS['vdm'](fourier=(8, 6)), 'fourier=(8, 6) must be (first, stop)'),
  (lambda: NETWORKS['vdm'](fourier=(6, 25)), 'fourier=(6, 25) must be ... first <= stop <= 24'),
  (lambda: of_shape(NETWORKS['vdm'](gamma_min=5.0), 4, 4, 8), 'gamma_min=5.0 is not below'),
  (lambda: Inputs(context=(5, 0)), 'context[1] must be an integer of at'),
  (lambda: UNet(remat_policy='products'), 'no effect without remat=True'),
  (lambda: sinusoidal(jnp.zeros(1), 3), 'needs 4 features or more, not 3'),
  *((lambda x=x: check_filter(x), 'an even number of weights') for x in ((1,), (1, -1), ())),
  (lambda: begun(Attention(num_groups=4, num_heads=3), X), '=3 does not divide the 8 channels'),
  (lambda: begun(Conv(8, initializer='he'), X), "'he' is not one of ho, torch, lecun"),
  (lambda: begun(STATES, TEXT[..., None, None], NOISE), 'out_channels=10 of the network must be'),
  (lambda: block_params(BLOCKS, -1), '-1 is not a block: they are 0..1'),
  (lambda: block_params(BLOCKS, 2), '2 is not a block: they are 0..1'),
  # the Transformer
  (lambda: DIT.clone(class_tokens=2), 'class_tokens need labels: set inputs.num_classes'),
  (lambda: DIT.clone(**LATE), 'class_tokens_at=1 must be a block, 0..0'),
  (lambda: DiT(value_residual=True, **LATE), 'class_tokens from block 1 on have no values of the'),
  (lambda: DiT(num_blocks=1, value_residual=True), 'value_residual needs two blocks or more'),
  (lambda: DiT(routing=0.5), 'routing=0.5 needs routing_ends, the number of blocks'),
  (lambda: DiT(num_blocks=4, routing_ends=2), 'routing_ends=2 at either end leaves none of 4'),
  # When its parameters are made, which is before any training.
  (lambda: of_shape(NETWORKS['routed'](patch_size=4), 4, 4, 3), 'routing=0.5 needs two patches or'),
  # inputs
  (lambda: begun(CLASSES, {}, 1), 'no null class'),
  (lambda: begun(CLASSES, {'label': TEXT[0, :1]} | DROP, 1), 'no null class'),
  (lambda: without_a_text({}), 'has no null text'),
  (lambda: without_a_text({'text': TEXT} | DROP), 'has no null text'),
  (lambda: Inputs(context=(5,), context_encoder=ContextEncoder('mean')), "'mean' is not one of"),
  (lambda: Inputs(elapsed=True).check({}), "the network needs cond['elapsed'] [B]"),
  (lambda: Inputs().check(DROP), "the network has no condition ['drop']"),
  (lambda: LABELS.check({}), "no null class: cond needs 'label'"),
  (lambda: CONTEXT.check({}), "no null context: cond needs 'context'"),
  (lambda: CONTEXT.check({'context': np.ones((2, 4))}), 'shape [4], but the network needs [5]'),
  (lambda: CONTEXT.check({'context': np.ones((1, 5))} | DROP), 'no null context'),
  (lambda: of_context('auto', (2, 2, 2)), 'neither a vector nor words [N, C] nor on the grid [8]'),
  (lambda: of_context('channels', (7, 1)), 'contexts of the shape [8] and channels ... not [7, 1]'),
  (lambda: of_context('words', (5,)), 'needs contexts of the shape [N, C], not [5]'),
  (lambda: of_context('set', (5,)), 'needs contexts of the shape [N, ...], not [5]'),
  (lambda: of_context('words', (4, 2)), "to the words of a context: set its kind to 'set'"),
  # attention of cuDNN
  (lambda: UNet(8, **CUDNN), "'cudnn' needs dtype bfloat16"),
  (
    lambda: begun(UNet(8, head_channels=4, **HALF), X, NOISE),
    'heads of 8, 16, ... channels, not 4',
  ),
  (lambda: attended(12), '128 channels, not 12: change num_heads or head_channels'),
  (lambda: attended(136), '128 channels, not 136: change num'),
  # sides and ranks
  (lambda: patchify(jnp.zeros((1, 6, 4, 3)), 4), 'images of 6x4 ... patches of 4x4: patch'),
  (lambda: rotary_angles((2, 2), 6), 'rotary positions need head channels divisible by 4, not 6'),
  (lambda: of_shape(HALVED, 6, 7, 2), 'sides of 6x7 cannot be halved 1 times: sides'),
  (lambda: of_shape(HALVED, 5, 2), 'sides of 5 cannot be halved 1 times'),
  (lambda: of_shape(HALVED, 4, 4, 3, 2), 'sides of 4x4x3 cannot be halved'),
  (lambda: of_shape(HALVED, 5), 'have 0 axes before the channels ... 1 or 2 or 3: use network mlp'),
  (lambda: of_shape(DIT, 5), 'out_channels=2 must be a multiple of the 5 numbers of a vector'),
  (lambda: of_shape(DIT, 2, 2, 2, 2, 2), 'have 4 axes ... needs 1 or 2 or 3: use network mlp'),
  (lambda: of_shape(EDM2(4), 8, 2), 'the shape [8, 2] have 1 ... 2: use network unet or dit'),
  (lambda: of_shape(DIT.clone(channels=8), 4, 4, 4, 2), "by 6, not 8: ... set positions='rotary'"),
  (lambda: of_shape(ROTARY, 4, 4, 4, 2), 'divisible by 6, not 4: change channels or num_heads'),
]


test_what_cannot_be_is_refused = refusals.each({ValueError: WRONG})


# Fields that do not fit images of 4x4, of each network that has them.
MISFITS = [
  ({'channels': 9, 'num_groups': 2}, 'num_groups=2 does not divide the 9 channels of a norm'),
  ({'multipliers': (1, 1, 1, 1)}, 'sides of 4x4 cannot be halved 3 times: sides must be multiples'),
  ({'attention_resolutions': (4,), 'head_channels': 3}, 'head_channels=3 does not divide the 4'),
]


@pytest.mark.parametrize('changes, message', MISFITS)
def test_fields_that_do_not_fit_an_image(changes, message):
  names = set.intersection(*(set(having(field)) for field in changes))
  assert len(names) >= 3
  for name in names:
    noise = () if name in NOISELESS else (NOISE,)
    with refusals.one_line(message):
      begun(NETWORKS[name](**changes), X[..., :4], *noise)
