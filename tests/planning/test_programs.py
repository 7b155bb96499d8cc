"""The communication and products of a program are counted where they are known."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax._src.cudnn import fused_attention_stablehlo

from diffusion_jax.app.kinds import store
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.train import setup
from diffusion_jax.networks.attention import Attention
from diffusion_jax.networks.edm2 import EDM2Block, MPConv
from diffusion_jax.networks.layers import Conv, Dense
from diffusion_jax.networks.transformer_block import QKV, Block
from diffusion_jax.planning import programs
from diffusion_jax.runtime import sharding
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training import optimizer
from tests import hlo
from tests.app.conftest import read, smoke, trial


def forward_flops(network, *inputs):
  """Returns the FLOP of all layers in closed form, 2 for each term.

  A convolution has k^2 C terms, a dense layer C, attention 2 T of C channels.
  """
  count = {}

  def is_attending(layer):
    return isinstance(layer, EDM2Block) and layer.num_heads

  def of_layer(layer, x, out):
    if isinstance(layer, (Conv, MPConv)):
      return 2 * max(layer.kernel_size, 1) ** 2 * x.shape[-1] * out.size
    if isinstance(layer, QKV):
      return 2 * x.shape[-1] * 3 * x.size
    if isinstance(layer, (nn.Dense, Dense)):
      return 2 * x.shape[-1] * out.size
    if isinstance(layer, Block):
      x = x[0]
    elif not (isinstance(layer, Attention) or is_attending(layer)):
      return 0
    tokens = math.prod(x.shape[1:-1])
    return 4 * x.shape[0] * tokens**2 * x.shape[-1]

  def see(layer, args, kwargs, context):
    out = layer(*args, **kwargs)
    path = context.module.path
    if context.method_name == '__call__':  # blocks in a scan are traced twice
      scanned = any(name.startswith('blocks_') for name in path)
      times = network.num_blocks if scanned else 1
      count[path] = times * of_layer(context.module, args[0], out)
    return out

  with nn.intercept_methods(see):
    jax.eval_shape(network.init, jax.random.key(0), *inputs)
  return sum(count.values())


@pytest.mark.parametrize('name', ['digits', 'digits_dit', 'digits_edm2'])
def test_products_are_those_of_the_layers(name):
  """A training step has three times the FLOP of the forward pass.

  Gradients of the network's input are not needed.
  """
  config = store.with_flags(
    read(name),
    [
      ('training.machine.mesh', '1,1'),
      ('training.batch_size', '16'),
      ('network.num_blocks', '1'),
      *([] if name == 'digits_dit' else [('network.multipliers', '1,')]),
    ],
  )
  if name != 'digits_dit':
    config = store.with_fields(config, {'network.attention_resolutions': ()})
  step, shapes = setup.abstract_step(config, sharding.make_mesh(1, 1), RunFolder.at('none'))
  model: Any = make_model(config, RunFolder.at('none'))
  x = jnp.zeros((16, *model.facts.x.shape))
  cond = {'label': jnp.zeros(16, jnp.int32)}
  expected = 3 * forward_flops(model.noisy.network, x, jnp.zeros(16), cond)
  found = sum(programs.flops(step.trace(*shapes).jaxpr).values())
  assert abs(found / expected - 1) < 0.02


def test_products_of_a_loop_and_of_the_longest_branch():
  def function(x, w, flag):
    def twice(x):
      return x @ w @ w

    def once(x):
      return x @ w

    x = jax.lax.cond(flag, twice, once, x)
    x = jax.lax.fori_loop(0, 5, lambda i, x: x @ w, x)
    strides = jax.lax.conv_general_dilated(
      x.reshape(2, 4, 4, 1),
      w[:3, :3, None, None],
      (2, 2),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return strides.sum()

  jaxpr = jax.make_jaxpr(jax.grad(function))(jnp.zeros((4, 8)), jnp.zeros((8, 8)), True)
  product, conv = 2 * 4 * 8 * 8, 2 * 9 * 2 * 2 * 2
  # The gradient is with respect to x only; it does not need the last values.
  assert programs.flops(jaxpr)['float32'] <= 2 * (7 * product + conv)
  assert programs.flops(jaxpr)['float32'] >= 7 * product + conv


def compile_step(config):
  data, fsdp = config.training.machine.mesh
  step, shapes = setup.abstract_step(
    config, sharding.make_mesh(data, fsdp), RunFolder.at('nowhere')
  )
  return step.lower(*shapes).compile(), shapes[0]


def state_bytes(like):
  leaves = jax.tree.leaves(like)
  whole = sum(x.size * x.dtype.itemsize for x in leaves)
  part = (math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
  return whole, sum(part)


def test_products_of_attention_by_cudnn(monkeypatch):
  """Two forward; five for the gradient, which computes the weights again."""
  monkeypatch.setattr(fused_attention_stablehlo, 'check_cudnn_version', lambda: 90800)
  q = jax.ShapeDtypeStruct((2, 16, 4, 32), jnp.bfloat16)
  k = jax.ShapeDtypeStruct((2, 24, 4, 32), jnp.bfloat16)

  def loss(q, k):
    h = jax.nn.dot_product_attention(q, k, k, implementation='cudnn')
    return jnp.sum(h.astype(jnp.float32))

  product = 2.0 * 2 * 4 * 16 * 24 * 32
  forward = programs.flops(jax.make_jaxpr(loss)(q, k))
  both = programs.flops(jax.make_jaxpr(jax.grad(loss))(q, k))
  assert forward == {'bfloat16': 2 * product}
  assert both == {'bfloat16': 7 * product}


def test_data_parallelism_sums_the_gradients_once():
  """A single all-reduce sums each gradient and a few numbers for the metrics."""
  # A table of classes is read twice, so its gradient would be summed twice.
  config = smoke(
    **{'training.machine.mesh': (8, 1), 'conditioning.labels': False, 'conditioning.dropout': 0.0}
  )
  step, like = compile_step(config)
  (one,) = hlo.collectives(step.as_text())
  assert (one.kind, one.group) == ('all-reduce', 8)
  leaves = jax.tree.leaves(like.params)
  gradients = 4 * sum(leaf.size for leaf in leaves)
  assert gradients <= one.bytes < gradients + 100
  whole, part = state_bytes(like)
  assert whole == part > 4 * gradients  # no array is large enough to split


def split_all(monkeypatch):
  """Splits small arrays too."""
  split = functools.partial(sharding.fsdp_sharding, min_size=16)
  monkeypatch.setattr(setup, 'fsdp_sharding', split)
  monkeypatch.setattr(optimizer, 'MIN_SIZE', 16)


@pytest.mark.slow
def test_fsdp_sends_weights_of_a_transformer_and_no_tokens(monkeypatch):
  """A device sends adaLN's inputs of the images: less than one map in all."""
  split_all(monkeypatch)
  config = trial(
    'digits_dit',
    **{
      'training.machine.mesh': (1, 8),
      'network.num_heads': 2,
      'training.batch_size': 64 * 8,  # tokens are many times the weights
    },
  )
  step, like = compile_step(config)
  whole, part = state_bytes(like)
  assert part < 1.1 / 8 * whole
  tokens = 4 * config.training.batch_size * 16 * config.network.channels
  found = hlo.collectives(step.as_text())
  assert sum(one.bytes for one in found) < tokens
  assert {one.kind for one in found} >= {'all-gather', 'all-reduce'}


@pytest.mark.slow
def test_fsdp_sends_each_weight_of_edm2_once_and_its_gradient(monkeypatch):
  """FSDP sends (1 + 2) 7 / 8 of the parameters' bytes, to gather and to sum.

  The rest are sums of squares of partial rows, and the metrics.
  """
  split_all(monkeypatch)
  config = trial(
    'digits_edm2',
    **{
      'training.machine.mesh': (1, 8),
      'network.multipliers': (1,),  # compiles in half of the time
      'network.attention_resolutions': (),
      'training.batch_size': 64 * 8,  # a vector of each example is large
    },
  )
  step, like = compile_step(config)
  weights = 4 * sum(leaf.size for leaf in jax.tree.leaves(like.params))
  found = hlo.collectives(step.as_text())
  sent = sum(one.sent for one in found)
  assert 2.6 * weights < sent < 2.9 * weights
