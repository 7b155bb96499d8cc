"""What blocks compute: of networks that end there, and of what Flax captures."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.networks import functional
from diffusion_jax.networks.inputs import ContextEncoder, Inputs
from diffusion_jax.networks.mlp import MLP
from diffusion_jax.networks.row_network import RowNetwork
from diffusion_jax.networks.tokens import patchify
from diffusion_jax.networks.transformer import DiT, block_params
from diffusion_jax.networks.unet import UNet
from tests.networks.literal import layer_norm, random_params, swish
from tests.networks.test_labelled_network import NETWORK as LABELLED
from tests.rows import slow

# Two channels in patches of 2 x 2 are as wide as the tokens, so that an output may be the tokens.
TINY: Any = {'channels': 8, 'num_blocks': 3, 'num_heads': 2, 'patch_size': 2, 'out_channels': 2}
WORDS = Inputs(context=(3, 2), context_encoder=ContextEncoder('words'))
CLASSES = {'inputs': Inputs(num_classes=3), 'class_tokens': 2, 'class_tokens_at': 1}
DITS: Any = {
  'plain': {},
  'unrolled': {'unroll': True, 'remat': True},
  'tokens': {'registers': 1, **CLASSES},
  'values': {'value_residual': True, 'causal': 1},
  'joint': {'inputs': WORDS},
}
NETWORKS: dict[str, Any] = {name: functools.partial(DiT, **TINY | x) for name, x in DITS.items()}
NETWORKS['unet'] = functools.partial(UNet, 4, (1, 2), 1, (2,), out_channels=2, num_groups=4)
NETWORKS['mlp'] = functools.partial(MLP, 16, 3, out_channels=2)
ATS = {'plain': (0, 1, 2), 'unet': (4,), 'mlp': (0, 1, 2), 'tokens': (0, 1), 'joint': (2,)}
EACH = ['plain', slow('unrolled'), 'tokens', slow('values'), slow('joint'), slow('unet'), 'mlp']
SCHEDULE = dj.CosineSchedule()
T = np.array([0.3, 0.8], np.float32)


def given():
  rng = np.random.default_rng(0)
  xt = rng.standard_normal((2, 4, 4, 2), np.float32)
  context = rng.standard_normal((2, 3, 2), np.float32)
  return xt, {'label': np.array([0, 2]), 'context': context}


@functools.cache
def made(name):
  """Returns (a network, its parameters, x_t, cond)."""
  module = NETWORKS[name]()
  xt, cond = given()
  cond = {n: a for n, a in cond.items() if n in module.inputs.names}
  network = dj.Network(functional.network_fn(module), dj.logsnr_input, parametrization='edm')
  return network, module, random_params(module, xt, T, cond, scale=0.3), xt, cond


@functools.cache
def found(name):
  """Returns the output alone, and for some blocks the output with what they compute."""
  network, _, params, xt, cond = made(name)

  def of(at, params):
    return network.with_hidden(params, xt, SCHEDULE(T), cond, at=at)

  alone = jax.jit(lambda params: network.output(params, xt, SCHEDULE(T), cond))(params)
  each = jax.jit(lambda params: {at: of(at, params) for at in ATS.get(name, (1,))})(params)
  return alone, each


@pytest.mark.parametrize('name', EACH)
def test_the_output_is_unchanged_bit_for_bit(name):
  alone, each = found(name)
  for output, hidden in each.values():
    assert_array_equal(output, alone)
    assert hidden.dtype == jnp.float32 and np.std(hidden) > 0.1


def shortened(module, params, length):
  """Returns a DiT of the first blocks, whose output is its tokens, normalised."""
  short = module.clone(num_blocks=length)
  xt, cond = given()
  cond = {n: a for n, a in cond.items() if n in module.inputs.names}
  shapes = jax.eval_shape(short.init, jax.random.key(0), xt, T, cond)['params']
  own = {n: x for n, x in params.items() if n in shapes}
  for name in (n for n in shapes if n.startswith('blocks_')):
    start, count = int(name.removeprefix('blocks_')), len(jax.tree.leaves(shapes[name])[0])
    blocks = [block_params(params, i) for i in range(start, start + count)]
    own[name] = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
  own['modulation_out'] = jax.tree.map(jnp.zeros_like, params['modulation_out'])
  own['patch_out'] = {'kernel': np.eye(8, dtype=np.float32), 'bias': np.zeros(8, np.float32)}
  return short, own


@pytest.mark.parametrize('name, length', [
  ('plain', 1), ('plain', 3), slow('tokens', 1), ('tokens', 2), slow('values', 2),
  slow('joint', 3),
])  # fmt: skip
def test_tokens_are_those_of_a_transformer_that_ends_there(name, length):
  network, module, params, xt, cond = made(name)
  if name == 'tokens' and length == 1:  # Class tokens come later.
    module = module.clone(class_tokens=0, class_tokens_at=0)
  short, own = shortened(module, params, length)
  ends = dj.Network(functional.network_fn(short), dj.logsnr_input, parametrization='edm')
  output = jax.jit(lambda own: ends.output(own, xt, SCHEDULE(T), cond))(own)
  hidden = np.asarray(found(name)[1][length - 1][1], np.float64)
  assert_allclose(patchify(output, 2), layer_norm(hidden), rtol=0, atol=3e-5)


@pytest.mark.slow
def test_loops_have_the_tokens_of_blocks_after_another():
  assert_allclose(found('plain')[1][1][1], found('unrolled')[1][1][1], rtol=0, atol=1e-5)


def test_maps_of_a_unet_are_those_that_flax_captures():
  """They are the very arrays, so that nothing is compiled."""
  _, module, params, xt, cond = made('unet')
  names = 'down_0_0_block', 'down_1_0_attention', 'middle_attention', 'middle_1_block'
  names += 'up_1_0_attention', 'up_1_1_attention', 'up_0_0_block', 'up_0_1_block'

  def check(params):
    for at, name in enumerate(names):
      run = functools.partial(module.apply, capture_intermediates=True, at=at)
      (_, hidden), captured = run({'params': params}, xt, T, cond)
      assert hidden is captured['intermediates'][name]['__call__'][0]

  jax.eval_shape(check, params)


@pytest.mark.parametrize('length', [1, 3])
def test_h_of_a_perceptron_is_that_of_one_that_ends_there(length):
  _, module, params, xt, cond = made('mlp')
  params = params | {'out_modulation': jax.tree.map(jnp.zeros_like, params['out_modulation'])}
  short = module.clone(num_blocks=length)
  ends = dj.Network(functional.network_fn(short), dj.logsnr_input, parametrization='edm')
  output = jax.jit(lambda own: ends.output(own, xt, SCHEDULE(T), cond))(params)
  h = np.asarray(found('mlp')[1][length - 1][1], np.float64)
  out = swish(layer_norm(h)) @ np.float64(params['dense_out']['kernel'])
  expected = out + np.float64(params['dense_out']['bias'])
  assert_allclose(output.reshape(2, -1), expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize('name, later', [
  ('plain', ('patch_out',)), ('mlp', ('block_2_dense_1', 'dense_out')),
  slow('unrolled', ('patch_out',)),
])  # fmt: skip
def test_gradients_flow_through_both(name, later):
  """A slope of the loss is its difference; what is after the block has none of its own."""
  network, _, params, xt, cond = made(name)

  @jax.jit
  def loss(params, share, key):
    output, hidden = network.with_hidden(params, xt, SCHEDULE(T), cond, key, at=1)
    return share * jnp.mean(jnp.sin(output)) + jnp.mean(jnp.sin(3.0 * hidden))

  slopes = jax.jit(jax.grad(loss))
  rng, key = np.random.default_rng(1), jax.random.key(0)
  step = jax.tree.map(lambda a: 1e-3 * np.float32(rng.choice([-1, 1], a.shape)), params)
  ends = (jax.tree.map(change, params, step) for change in (operator.add, operator.sub))
  both = slopes(params, 1.0, key)
  along = sum(jax.tree.leaves(jax.tree.map(lambda a, b: np.sum(a * b), both, step)))
  up, down = (float(loss(end, 1.0, key)) for end in ends)
  assert_allclose(2 * along, up - down, rtol=0.05)
  alone = slopes(params, 0.0, key)
  for name in later:
    for of_hidden, of_both in zip(*(jax.tree.leaves(x[name]) for x in (alone, both)), strict=True):
      assert_array_equal(of_hidden, 0.0)
      assert np.abs(of_both).max() > 0.0
  assert np.abs(alone['noise_dense_1']['kernel']).max() > 0.0


def test_skipped_patches_are_as_they_were(key):
  """Half of the patches skip block 1; the others leave it changed."""
  module = DiT(**TINY | {'routing': 0.5, 'routing_ends': 1})
  xt, _ = given()
  params = random_params(module, xt, T, scale=0.3)
  apply = functional.network_fn(module)
  run = jax.jit(lambda: [apply(params, xt, T, {}, key=key, at=at)[1] for at in range(3)])
  first, second, last = map(np.asarray, run())
  same = (first == second).all(axis=-1)
  assert_array_equal(same.sum(axis=1), 2)
  assert not (last == second).all(axis=-1).any()


def test_rows_of_a_table_have_the_tokens_of_their_network():
  body = DiT(**TINY | {'out_channels': 4, 'patch_size': 1})
  module = RowNetwork(body, num_numbers=2, sizes=(3,), features=4)
  x = {'numbers': np.ones((2, 2), np.float32), 'categories': np.array([[0], [3]])}
  noise = {'numbers': np.ones((2, 2), np.float32), 'categories': np.zeros((2, 1), np.float32)}
  params = random_params(module, x, noise)
  run = jax.jit(module.apply, static_argnames='at')
  output = run({'params': params}, x, noise)
  again, tokens = run({'params': params}, x, noise, at=1)
  jax.tree.map(assert_array_equal, again, output)
  assert tokens.shape == (2, 3, 8) and np.std(tokens) > 0.1


class Own(nnx.Module):
  def __init__(self, rngs):
    self.dense = nnx.Linear(2, 2, rngs=rngs)

  def __call__(self, x, noise, cond=None, *, train=False, at=None):
    h = self.dense(x)
    return x if at is None else (x, h)


def test_a_module_of_nnx_has_hidden_layers():
  module, (xt, _) = functional.from_nnx(Own)(), given()
  params: Any = module.init({'params': jax.random.key(0)}, xt, T)['params']
  network = dj.Network(functional.network_fn(module), dj.logsnr_input)
  output, hidden = network.with_hidden(params, xt, SCHEDULE(T), at=0)
  assert_array_equal(output, xt)
  assert_allclose(hidden, xt @ params['dense']['kernel'], rtol=1e-5, atol=1e-6)


def test_what_has_no_such_block_is_one_line():
  xt, _ = given()
  for name, count in {'plain': 3, 'unet': 8, 'mlp': 3}.items():
    network, _, params, _, cond = made(name)
    hidden = functools.partial(network.with_hidden, params, xt, SCHEDULE(T), cond)
    line = f'^at={count} is not a block: the network has {count}, counted from 0'
    with pytest.raises(ValueError, match=line):
      jax.eval_shape(functools.partial(hidden, at=count))
    with pytest.raises(ValueError, match='^at must be an integer of at least 0, not -1'):
      hidden(at=-1)

  def plain(params, x, noise, cond, *, key=None):
    return x

  def single(params, x, noise, cond, *, key=None, at=None):
    return x

  for apply, error, line in (
    (plain, ValueError, 'this network has no hidden layers: its function takes no `at`'),
    (single, TypeError, 'with `at` a network returns .output, hidden., not an array'),
    (functional.network_fn(LABELLED), ValueError, 'LabelledNetwork.__call__ takes no `at`'),
    (functional.without_key(plain), ValueError, 'this network has no hidden layers'),
  ):
    network = dj.Network(apply, dj.logsnr_input)
    with pytest.raises(error, match=f'^{line}'):
      network.with_hidden({}, xt, SCHEDULE(T), at=0)
