"""Programs on eight simulated devices compute what one computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.networks.attention import Attention
from diffusion_jax.networks.layers import Conv, GroupNorm
from diffusion_jax.runtime import sharding
from diffusion_jax.training import objectives
from diffusion_jax.training.objectives import make_condition
from diffusion_jax.training.state import init_state
from diffusion_jax.training.step import make_train_step


class Network(nn.Module):
  """A network with a kernel of each kind: it compiles sooner than a U-Net."""

  @nn.compact
  def __call__(self, x, noise, cond):
    h = Conv(8)(x)
    token = nn.Embed(4, 8)(jnp.where(cond.get('drop', False), 3, cond['label']))
    h += (token + nn.Dense(8)(jnp.sin(noise[:, None])))[:, None, None]
    h = Attention(num_groups=4)(jnp.tanh(GroupNorm(4)(h)))
    return Conv(3)(jnp.tanh(h))


NETWORK = Network()


def network_fn(params, x, noise, cond, *, key=None):
  return NETWORK.apply({'params': params}, x, noise, cond)


OBJECTIVE = objectives.denoising(
  dj.Network(network_fn, dj.step_input(1000), condition=make_condition(dropout=0.3)),
  dj.DiscreteSchedule.from_betas(dj.linear_betas(1000)),
  times=dj.step_times(1000),
)
# Plain descent moves by the gradient; Adam would magnify errors of 1e-8.
DESCENT = optax.sgd(1.0)
STEP = make_train_step(OBJECTIVE, DESCENT, lambda step: 0.25)


def batch():
  rng = np.random.default_rng(0)
  return {
    'x': rng.uniform(-1, 1, (16, 8, 8, 3)).astype(np.float32),
    'label': rng.integers(0, 3, 16).astype(np.int32),
  }


@functools.cache
def first_state():
  cond = {'label': jnp.zeros(1, jnp.int32)}
  x, key = jnp.zeros((1, 8, 8, 3)), jax.random.key(0)
  shapes = jax.eval_shape(NETWORK.init, key, x, jnp.zeros(1), cond)['params']
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda p: 0.3 * rng.standard_normal(p.shape, np.float32), shapes)
  return jax.device_get(jax.jit(lambda p: init_state(p, DESCENT))({'network': params}))


@functools.cache
def stepped(mesh_shape, accumulate):
  mesh = sharding.make_mesh(*mesh_shape)
  state = first_state()
  places = sharding.fsdp_sharding(mesh, state, min_size=64)
  placed = jax.device_put(state, places)
  step = make_train_step(OBJECTIVE, DESCENT, lambda step: 0.25, accumulate=accumulate)
  step = jax.jit(step, out_shardings=(places, sharding.replicated(mesh)))
  after, metrics = step(placed, sharding.to_global(mesh, batch()), jax.random.key(3))
  return jax.device_get(after), jax.device_get(metrics), after


def assert_close(a, b, atol=1e-6):
  jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=0, atol=atol), a, b)


@functools.cache
def alone():
  return jax.device_get(jax.jit(STEP)(first_state(), batch(), jax.random.key(3)))


@pytest.mark.parametrize(
  'shape, accumulate', [pytest.param((1, 8), 1, marks=pytest.mark.slow), ((2, 4), 2)]
)
def test_loss_and_gradients_are_those_of_one_device(shape, accumulate):
  state, metrics, _ = stepped(shape, accumulate)
  expected, expected_metrics = alone()
  if accumulate == 1:
    assert_close(metrics['loss'], expected_metrics['loss'])
  for name, mean in metrics.items():
    other = expected_metrics[name]
    assert_allclose(mean.total / mean.count, other.total / other.count, rtol=1e-5)
  moved = jax.tree.map(np.subtract, expected.params, first_state().params)
  assert max(np.abs(x).max() for x in jax.tree.leaves(moved)) > 0.1
  assert_close(state.params, expected.params)  # parameters - gradient
  assert_close(state.ema_params, expected.ema_params)


def test_large_leaves_are_split_and_stay_split():
  _, _, placed = stepped((2, 4), 2)
  for tree in (placed.params, placed.ema_params):
    for leaf in jax.tree.leaves(tree):
      share = leaf.addressable_shards[0].data.size / leaf.size
      splits = leaf.size >= 64 and any(n % 4 == 0 for n in leaf.shape)
      assert share == (1 / 4 if splits else 1), leaf.shape


def test_the_largest_axis_that_divides_is_split():
  mesh = sharding.make_mesh(2, 4)
  tree = {
    'kernel': jax.ShapeDtypeStruct((3, 3, 8, 16), jnp.float32),
    'odd': jax.ShapeDtypeStruct((3, 30, 8), jnp.float32),
    'none': jax.ShapeDtypeStruct((7, 30), jnp.float32),
  }
  found = sharding.fsdp_sharding(mesh, tree, min_size=1)
  assert tuple(found['kernel'].spec) == (None, None, None, 'fsdp')
  assert tuple(found['odd'].spec) == (None, None, 'fsdp')
  assert tuple(found['none'].spec) == ()


def test_the_mesh_takes_what_is_there():
  assert sharding.make_mesh().shape == {'data': 8, 'fsdp': 1}
  assert sharding.make_mesh(-1, 4).shape == {'data': 2, 'fsdp': 4}
  assert sharding.make_mesh(1, 2).size == 2


def test_a_batch_is_spread_in_order():
  mesh = sharding.make_mesh(2, 4)
  assert sharding.local_rows(mesh, 24) == slice(0, 24)
  x = sharding.to_global(mesh, {'x': np.arange(16.0)})['x']
  first = {s.device: s.data.tolist() for s in x.addressable_shards}
  assert first[jax.devices()[0]] == [0.0, 1.0]
  assert len(first) == 8 and x.tolist() == list(range(16))
