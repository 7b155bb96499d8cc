"""Networks refuse wrong values of their fields at construction."""

import collections
import dataclasses
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

from diffusion_jax.app.kinds import store
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.layers import Conv
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.networks.unet import UNet
from tests.networks.jaxprs import equations
from tests.networks.literal import randomised, shapes
from tests.rows import slow

# Fields of small networks, for those that have them.
SMALL: Any = {
  'channels': 4, 'head_channels': 4, 'image_size': (4, 4), 'multipliers': (1,), 'num_blocks': 1,
  'num_classes': 2, 'num_groups': 2, 'num_heads': 1, 'num_latents': 1, 'num_layers': 1,
  'out_channels': 3,
}  # fmt: skip
ROUTED: Any = {'registers': 1, 'value_residual': True, 'routing': 0.5, 'routing_ends': 1}


def small(make, **fields):
  """Returns a network with small fields, and with those that are given."""
  names = inspect.signature(make).parameters
  return make(**{n: x for n, x in SMALL.items() if n in names} | fields)


# The networks of all kinds of models. A perceptron has no channels (tests/autoencoders/).
TABLE = {n: make for kind in store.KINDS for n, make in kind.tables['network'].items()}
NETWORKS: Any = {
  n: functools.partial(small, make) for n, make in TABLE.items() if n != 'perceptron'
} | {'routed': lambda **k: small(DiT, **{'num_blocks': 3} | ROUTED | k)}
NOISELESS = 'autoencoder', 'hierarchical'


def having(field):
  return [name for name, make in NETWORKS.items() if field in vars(make())]


@pytest.mark.parametrize('field, known', [
  ('dtype', 'float32, bfloat16'),
  ('initializer', 'ho, torch, lecun'),
  ('noise_embedding', 'ho, openai'),
  ('qkv', 'separate, legacy, new, interleaved'),
  ('downsample_padding', 'same, symmetric'),
  ('attention', 'auto, xla, cudnn'),
  ('middle_attention', 'norm, plain, none'),
  ('positions', 'sincos, rotary, both, learned, none'),
  ('norm', 'layer, rms'),
  ('mlp', 'gelu, swiglu'),
  ('dropout_blocks', 'all, middle'),
  ('text_attention', 'joint, cross'),
  ('remat_policy', 'nothing, products'),
])  # fmt: skip
def test_an_unknown_option_is_refused_at_construction(field, known):
  names = [n for n in having(field) if not isinstance(getattr(NETWORKS[n](), field), bool)]
  assert names
  for name in names:
    with pytest.raises(ValueError) as error:
      NETWORKS[name](**{field: 'xyz'})
    more = ', fourier' * ((name, field) == ('ddpmpp', 'noise_embedding'))
    assert str(error.value) == f"{field} 'xyz' is not one of {known}{more}"


# The numbers that may be 0, and numbers of any sign.
FROM_0 = 'bottleneck causal class_tokens class_tokens_at latent_dim registers routing_ends'.split()
SIGNED = 'gamma_min', 'gamma_max'


def wrong_numbers_of(network):
  """Yields the fields with numbers, and for each numbers that it may not be."""
  for field in dataclasses.fields(network):
    name, value = field.name, getattr(network, field.name)
    if isinstance(value, tuple):
      yield name, tuple(-1 for _ in value or (1,))
    elif isinstance(value, int | float) and not isinstance(value, bool) and name not in SIGNED:
      yield from ((name, -1), (name, float('nan')), (name, True))
      if isinstance(value, int) and name not in FROM_0 or name == 'norm_eps':
        yield name, 0
  yield 'dropout', 1.0


@pytest.mark.parametrize('name', NETWORKS)
def test_sizes_out_of_range_are_refused_by_their_names(name):
  network = NETWORKS[name]()
  wrong = [*wrong_numbers_of(network)]
  assert {'dropout', 'channels'} <= {field for field, _ in wrong}
  for field, value in wrong:
    with pytest.raises(ValueError, match=rf'^{field}(\[0\])? must be an? '):
      network.clone(**{field: value})


@functools.cache
def initial(name, **options):
  x = jnp.zeros((1, 4, 4, 3))
  noise = () if name in NOISELESS else (jnp.ones(1),)
  init = NETWORKS[name]().clone(**options).init_with_output
  return jax.eval_shape(init, jax.random.key(0), x, *noise)


@pytest.mark.parametrize('name', NETWORKS)
def test_options_do_not_change_parameters(name):
  """Parameters and outputs stay float32, with explicit names, for every option."""
  options = {'dtype': 'bfloat16', 'dropout': 0.5}
  if 'remat' in {f.name for f in dataclasses.fields(NETWORKS[name]())}:
    options['remat'] = True
  plain, other = initial(name), initial(name, **options)
  assert other == plain
  names = set()
  for path, leaf in jax.tree_util.tree_leaves_with_path(plain):
    assert leaf.dtype == jnp.float32
    names |= {key.key for key in path if hasattr(key, 'key')}
  assert not [n for n in names if n[0].isupper()]


@pytest.mark.parametrize('name', NETWORKS)
def test_dropout_is_drawn_in_training_only(name):
  network, variables = NETWORKS[name](dropout=0.5), initial(name)[1]
  noise = () if name in NOISELESS else (jnp.ones(1),)

  def apply(variables, train):
    x = jnp.zeros((1, 4, 4, 3))
    return network.apply(variables, x, *noise, train=train)

  jax.eval_shape(functools.partial(apply, train=False), variables)
  with pytest.raises(InvalidRngError, match='dropout'):
    jax.eval_shape(functools.partial(apply, train=True), variables)


PLAIN = {'dropout': 0.5, 'attention_resolutions': ()}
TRAINED: Any = {
  'ddpmpp': (
    PLAIN | {'noise_embedding': 'fourier', 'inputs': Inputs(augment_dim=9)},
    {'augment': np.ones((2, 9), np.float32)},
  ),
  'edm2': (
    PLAIN | {'inputs': Inputs(num_classes=3, null_class=True)},
    {'label': np.array([0, 2]), 'drop': np.array([False, True])},
  ),
}


@pytest.mark.parametrize('name', [slow(n) if n == 'ddpmpp' else n for n in TRAINED])
def test_gradients_reach_all_but_random_frequencies_and_dropout_acts(name, key, rng):
  options, cond = TRAINED[name]
  network, x = NETWORKS[name](**options), rng.standard_normal((2, 4, 4, 3), np.float32)
  p = randomised(shapes(network, 4, cond=jax.tree.map(lambda a: a[:1], cond)))

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def gradient(p, key):
    out: Any = network.apply(
      {'params': p}, x, np.float32([-1.5, 0.75]), cond, train=True, rngs={'dropout': key}
    )
    return jnp.sum(out**2), out

  gradients, found = jax.device_get(gradient(p, key))
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(leaf).all()
    assert leaf.any() == (path[-1].key not in ('frequencies', 'phases')), path
  other = gradient(p, jax.random.key(7))[1]
  assert np.abs(other - found).max() > 1e-3


@pytest.mark.parametrize('name', ['float32', 'bfloat16'])
def test_the_name_of_a_dtype_is_the_dtype(name):
  x = jnp.ones((1, 4, 4, 3))
  programs = [
    str(jax.make_jaxpr(Conv(2, dtype=dtype).init)(jax.random.key(0), x))
    for dtype in (name, jnp.dtype(name))
  ]
  assert programs[0] == programs[1]
  assert ('bf16' in programs[0]) == (name == 'bfloat16')


OF_BLOCKS: Any = {
  'unet': lambda **k: UNet(8, (1,), 1, (), num_groups=4, **k),
  'dit': lambda **k: DiT(8, 1, 2, **k),
}


ARGUMENTS = jnp.zeros((2, 4, 4, 3)), jnp.zeros(2)


def computed(network, params):
  """Returns how many of each kind of product a gradient takes."""

  def loss(params, x, noise):
    return jnp.sum(network.apply(params, x, noise))

  jaxpr = jax.make_jaxpr(jax.grad(loss))(params, *ARGUMENTS).jaxpr
  found = collections.Counter()
  for eqn in equations(jaxpr):
    name = eqn.primitive.name
    if name == 'dot_general':
      (_, _), (batched, _) = eqn.params['dimension_numbers']
      name = 'batched product' if batched else name
    found[name] += 1
  kinds = 'conv2d', 'linear', 'batched product', 'exp'
  return {kind: found[kind] for kind in kinds}


@pytest.mark.parametrize('name', OF_BLOCKS)
def test_products_with_weights_are_computed_again_unless_they_are_stored(name):
  """Either policy computes attention again, and `products` stores products with weights."""
  options = {}, {'remat': True}, {'remat': True, 'remat_policy': 'products'}
  networks = [OF_BLOCKS[name](**k) for k in options]
  params = jax.eval_shape(networks[0].init, jax.random.key(0), *ARGUMENTS)
  plain, again, stored = (computed(network, params) for network in networks)
  assert again['linear'] > plain['linear'] == stored['linear']
  if name != 'dit':
    assert again['conv2d'] > plain['conv2d'] == stored['conv2d']
  for kind in ('batched product', 'exp'):  # of scores, and of the softmax
    assert again[kind] == stored[kind] > plain[kind]
