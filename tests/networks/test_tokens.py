"""Compares patches, positions and attention with loops in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks import tokens
from tests.networks import literal
from tests.networks.meshes import H100, on


@pytest.mark.parametrize('sides, size, token, place', [
  ((6, 4), 1, 6, np.s_[1:2, 2:3]),
  ((6, 4), 2, 2, np.s_[2:4, 0:2]),  # of row 1, column 0
  ((4,), 2, 1, np.s_[2:4]),
  ((4, 2, 6), 2, 4, np.s_[2:4, 0:2, 2:4]),  # of (1, 0, 1)
])  # fmt: skip
def test_patches_are_cubes_row_by_row_and_go_back(sides, size, token, place):
  x = np.arange(6.0 * np.prod(sides)).reshape(2, *sides, 3)

  @jax.jit
  def both(x):
    patches = tokens.patchify(x, size)
    return patches, tokens.unpatchify(patches, size, sides)

  patches, again = both(x)
  width = 3 * size ** len(sides)
  assert patches.shape == (2, x[0].size // width, width)
  np.testing.assert_array_equal(patches[1, token], x[1][place].reshape(-1))
  np.testing.assert_array_equal(again, x)


def test_grid_positions_have_the_column_first():
  rows, columns, features = 3, 5, 16
  found = tokens.grid_positions((rows, columns), features)
  quarter = features // 4
  for i in range(rows):
    for j in range(columns):
      expected = []
      for place in (j, i):
        angles = [place / 10000 ** (k / quarter) for k in range(quarter)]
        expected += [np.sin(a) for a in angles] + [np.cos(a) for a in angles]
      np.testing.assert_allclose(found[i * columns + j], expected, atol=1e-7)
  with pytest.raises(ValueError, match='divisible by 4, not 6'):
    tokens.grid_positions((2, 2), 6)


def test_attention_is_a_weighted_mean_of_what_the_mask_leaves(key):
  q, k, v = (
    jax.random.normal(k, (2, n, 3, 4))
    for k, n in zip(jax.random.split(key, 3), (5, 6, 6), strict=True)
  )
  mask = np.array([[1, 0, 1, 1, 0, 1], [1, 1, 0, 0, 0, 0]], bool)
  found = jax.jit(tokens.attend)(q, k, v, mask)
  q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
  np.testing.assert_allclose(found, literal.attend(q, k, v, mask), atol=1e-6)


def test_images_two_at_a_time_are_as_all_at_once(key):
  """CPUs split large arrays of scores; values and both derivatives agree."""
  shape = 4, 256, 2, 4
  q, k, v, tangent = jax.random.normal(key, (4, *shape))

  @functools.partial(jax.jit, static_argnums=0)
  def both(attend, q, k, v, tangent):
    def loss(q):
      h = attend(q, k, v)
      return jnp.sum(h.reshape(shape) * tangent), h

    (_, h), grad = jax.value_and_grad(loss, has_aux=True)(q)
    _, forward = jax.jvp(lambda q: loss(q)[0], (q,), (tangent,))
    return h.reshape(shape), grad, forward

  traced = str(jax.make_jaxpr(tokens.attend)(q, k, v))
  assert 'scan' in traced
  sharded = jax.sharding.AbstractMesh((2,), ('data',))
  with jax.sharding.use_abstract_mesh(sharded):
    assert 'scan' not in str(jax.make_jaxpr(tokens.attend)(q, k, v))
  found = both(tokens.attend, q, k, v, tangent)
  expected = both(jax.nn.dot_product_attention, q, k, v, tangent)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    found,
    expected,
  )


def test_heads_are_neighbouring_channels():
  x = np.arange(24.0).reshape(1, 2, 12)
  heads = tokens.split_heads(x, 3)
  np.testing.assert_array_equal(heads[0, 1, 2], x[0, 1, 8:])


@pytest.fixture
def cudnn(monkeypatch):
  """Lets cuDNN's attention be traced without cuDNN."""
  from jax._src.cudnn import fused_attention_stablehlo

  monkeypatch.setattr(
    fused_attention_stablehlo, 'check_cudnn_version', lambda: 90800
  )


@pytest.mark.parametrize('chosen, options', [
  (True, {}),
  (True, {'dtype': jnp.float16}),
  (False, {'device': 'Tesla V100-SXM2-16GB'}),
  (False, {'dtype': jnp.float32}),
  (False, {'size': 256}),
  (False, {'size': 12}),
  (False, {'mask': jnp.ones((2, 6), bool)}),
  (False, {'implementation': 'xla'}),
])  # fmt: skip
def test_cudnn_is_chosen_where_it_can_be_used(chosen, options, cudnn):
  options = {'dtype': jnp.bfloat16, 'size': 64, 'device': H100} | options
  x = jnp.zeros((2, 6, 1, options['size']), options['dtype'])
  implementation = options.get('implementation', 'auto')

  def attend(x):
    return tokens.attend(x, x, x, options.get('mask'), implementation)

  traced = str(jax.make_jaxpr(on(options['device'], attend))(x))
  assert ('dot_product_attention_fwd' in traced) == chosen
  assert 'dot_product_attention_fwd' not in str(jax.make_jaxpr(attend)(x))
