"""Adapters against the paper's equation in float64, and their objective."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.training.lora import lora_init, lora_merge, lora_objective, merge_network
from diffusion_jax.training.objectives import Context, Mean, Objective
from tests.transcribed import transcribes

RNG = np.random.default_rng(0)
SHAPES = {
  'dense': {'kernel': (5, 7), 'bias': (7,)},
  'blocks': {'qkv': {'kernel': (3, 4, 12)}},
  'conv': {'kernel': (3, 3, 2, 6)},
  'embedding': {'embedding': (10, 4)},
}


def normal(shapes):
  return jax.tree.map(
    lambda shape: RNG.standard_normal(shape).astype(np.float32),
    shapes,
    is_leaf=lambda x: isinstance(x, tuple),
  )


init = jax.jit(lora_init, static_argnums=2, static_argnames='convolutions')


def shapes_of(tree):
  return jax.tree.map(lambda x: x.shape, tree)


def as_float64(tree):
  return jax.tree.map(np.float64, tree)


def test_new_adapters_change_nothing_and_have_the_rank_by_inputs_and_outputs():
  """Merged weights are equal bit for bit, as B is 0; others have no adapter."""
  params = normal(SHAPES)
  found = init(jax.random.key(0), params, 2, convolutions=True)
  merged = jax.jit(lora_merge)(params, found, 0.5)
  jax.tree.map(assert_array_equal, merged, params)
  down = {'dense': {'kernel': (5, 2)}, 'blocks': {'qkv': {'kernel': (3, 4, 2)}}}
  up = {'dense': {'kernel': (2, 7)}, 'blocks': {'qkv': {'kernel': (3, 2, 12)}}}
  conv = {'conv': {'kernel': (3, 3, 2, 2)}}, {'conv': {'kernel': (2, 6)}}
  assert shapes_of(found) == {'lora_A': down | conv[0], 'lora_B': up | conv[1]}
  without = init(jax.random.key(0), params, 2)
  assert shapes_of(without) == {'lora_A': down, 'lora_B': up}


def test_a_convolution_of_one_axis_or_three_is_no_stack():
  """A network that names its stacks has adapters of dense layers only, or of all convolutions."""
  shapes = {'blocks_0': (3, 4, 5), 'line': (3, 4, 5), 'volume': (3, 3, 3, 4, 5)}
  params = {name: {'kernel': np.zeros(shape)} for name, shape in shapes.items()}
  few, every = (lora_init(jax.random.key(0), params, 2, x, ('blocks_',)) for x in (False, True))
  expected = {'blocks_0': (3, 2, 5), 'line': (2, 5), 'volume': (2, 5)}
  up = {name: x['kernel'].shape for name, x in every['lora_B'].items()}
  assert up == expected and [*few['lora_B']] == ['blocks_0']
  merged = lora_merge(params, every, 1.0)
  assert {name: x['kernel'].shape for name, x in merged.items()} == shapes


def test_each_kernel_has_other_random_numbers_of_variance_one_over_inputs():
  shapes = {
    'a': {'kernel': jax.ShapeDtypeStruct((300, 5), jnp.float32)},
    'b': {'kernel': jax.ShapeDtypeStruct((300, 5), jnp.float32)},
    'stack': {'kernel': jax.ShapeDtypeStruct((20, 300, 5), jnp.float32)},
  }
  draw = jax.jit(lambda key: lora_init(key, shapes, 100))
  down = draw(jax.random.key(0))['lora_A']
  a, b = np.float64(down['a']['kernel']), np.float64(down['b']['kernel'])
  # 30,000 normal numbers: the deviation is within 5 standard errors.
  for x in (a, b, np.float64(down['stack']['kernel'])):
    error = 5.0 / np.sqrt(2.0 * x.size)
    assert abs(x.std() * np.sqrt(300.0) - 1.0) < error
  assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5.0 / np.sqrt(a.size)


@transcribes('LoRA (Hu et al. 2021)', '3: W + (α / r) B A', '`training.lora.lora_merge`')
def test_merging_is_the_papers_equation():
  """h = x W + scale x A B (eq. 3), and for images conv(x, A), then 1x1 by B."""
  params = normal(SHAPES)
  adapters = init(jax.random.key(0), params, 2, convolutions=True)
  adapters['lora_B'] = normal(shapes_of(adapters['lora_B']))
  merged = as_float64(jax.jit(lora_merge)(params, adapters, 0.7))
  w, adapters = as_float64(params), as_float64(adapters)
  down, up = adapters['lora_A'], adapters['lora_B']

  def check(x, kernels, product=np.matmul):
    kernel, a, b, found = kernels
    expected = product(x, kernel) + 0.7 * product(x, a) @ b
    assert_allclose(product(x, found), expected, 1e-5, 1e-5)

  trees = w, down, up, merged
  check(RNG.standard_normal((4, 5)), [t['dense']['kernel'] for t in trees])
  for i in range(3):
    kernels = [t['blocks']['qkv']['kernel'][i] for t in trees]
    check(RNG.standard_normal((4, 4)), kernels)
  kernels = [t['conv']['kernel'] for t in trees]
  check(RNG.standard_normal((2, 6, 6, 2)), kernels, convolve)


def convolve(x, kernel):
  windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
  return np.einsum('bhwcij,ijco->bhwo', windows, kernel)


def squares(params, context, inputs, keys):
  """Returns the mean square of x W, plus its distance from the average's."""
  x = inputs @ params['network']['dense']['kernel']
  average = inputs @ context.ema_params['network']['dense']['kernel']
  loss = jnp.mean(x**2) + jnp.mean((x - average) ** 2)
  return loss, ({'loss': Mean(loss, jnp.ones(()))}, ())


def test_only_adapters_have_gradients_which_are_those_of_the_merged_kernel():
  """dL/dA = scale dL/dW B', dL/dB = scale A' dL/dW; the average is merged."""
  plain = Objective(lambda key, batch, context: (batch, ()), squares)
  base = {'network': normal({'dense': SHAPES['dense']})}
  adapters = init(jax.random.key(0), base['network'], 2)
  ema = {'network': adapters}
  adapters = adapters | {'lora_B': normal(shapes_of(adapters['lora_B']))}
  params, x = {'network': adapters}, normal({'x': (6, 5)})['x']
  objective = lora_objective(plain, 0.7)
  context = Context(ema_params=ema, frozen={'base': base})

  @jax.jit
  def gradients(params, key):
    loss = lambda p: objective(p, context, key, x)[0]
    # New adapters, here the average's, are the base itself.
    of_base = lambda p: plain(p, Context(ema_params=base), key, x)[0]
    merged = merge_network(base, params, 0.7)
    return jax.grad(loss)(params), jax.grad(of_base)(merged)

  gradient, of_merged = gradients(params, jax.random.key(0))
  assert jax.tree.structure(gradient) == jax.tree.structure(params)
  of_kernel = of_merged['network']['dense']['kernel']
  of_kernel = np.asarray(of_kernel, np.float64)
  kernels = lambda tree: [tree[f'lora_{n}']['dense']['kernel'] for n in 'AB']
  a, b = map(np.float64, kernels(adapters))
  of_a, of_b = kernels(gradient['network'])
  assert_allclose(of_a, 0.7 * of_kernel @ b.T, rtol=1e-5)
  assert_allclose(of_b, 0.7 * a.T @ of_kernel, rtol=1e-5)
