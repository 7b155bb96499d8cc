"""Attention itself; its layer's equations are in tests/interop/."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.networks.attention import attend
from tests.networks import literal
from tests.networks.meshes import H100, on


def test_attention_is_a_weighted_mean_of_what_the_mask_leaves(rng):
  q, k, v = (rng.standard_normal((2, n, 3, 4), np.float32) for n in (5, 6, 6))
  mask = np.array([[1, 0, 1, 1, 0, 1], [1, 1, 0, 0, 0, 0]], bool)
  found = jax.jit(attend)(q, k, v, mask)
  expected = literal.attend(*map(np.float64, (q, k, v)), mask=mask)
  assert_allclose(found, expected, atol=1e-6)


def test_images_two_at_a_time_are_as_all_at_once(rng):
  """CPUs split large arrays of scores; values and both derivatives agree."""
  shape = 4, 256, 2, 4
  q, k, v, tangent = rng.standard_normal((4, *shape), np.float32)
  mask = rng.random((4, 256)) < 0.5
  theirs = functools.partial(jax.nn.dot_product_attention, mask=mask[:, None, None])
  masked, expected = jax.jit(lambda *a: (attend(*a, mask=mask), theirs(*a)))(q, k, v)
  assert_allclose(np.asarray(masked).reshape(shape), expected, rtol=1e-5, atol=1e-5)

  @functools.partial(jax.jit, static_argnums=0)
  def both(attention, q, k, v, tangent):
    def loss(q):
      h = attention(q, k, v)
      return jnp.sum(h.reshape(shape) * tangent), h

    (_, h), grad = jax.value_and_grad(loss, has_aux=True)(q)
    _, forward = jax.jvp(lambda q: loss(q)[0], (q,), (tangent,))
    return h.reshape(shape), grad, forward

  traced = str(jax.make_jaxpr(attend)(q, k, v))
  assert 'scan' in traced
  sharded = jax.sharding.AbstractMesh((2,), ('data',))
  with jax.sharding.use_abstract_mesh(sharded):
    assert 'scan' not in str(jax.make_jaxpr(attend)(q, k, v))
  found = both(attend, q, k, v, tangent)
  expected = both(jax.nn.dot_product_attention, q, k, v, tangent)
  jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


@pytest.fixture
def cudnn(monkeypatch):
  """Lets cuDNN's attention be traced without cuDNN."""
  from jax._src.cudnn import fused_attention_stablehlo

  monkeypatch.setattr(fused_attention_stablehlo, 'check_cudnn_version', lambda: 90800)


@pytest.mark.parametrize(
  'chosen, options',
  [
    (True, {}),
    (True, {'dtype': jnp.float16}),
    (False, {'device': 'Tesla V100-SXM2-16GB'}),
    (False, {'dtype': jnp.float32}),
    (False, {'size': 256}),
    (False, {'size': 12}),
    (False, {'mask': jnp.ones((2, 6), bool)}),
    (False, {'implementation': 'xla'}),
  ],
)
def test_cudnn_is_chosen_where_it_can_be_used(chosen, options, cudnn):
  options = {'dtype': jnp.bfloat16, 'size': 64, 'device': H100} | options
  x = jnp.zeros((2, 6, 1, options['size']), options['dtype'])
  implementation = options.get('implementation', 'auto')

  def call(x):
    return attend(x, x, x, options.get('mask'), implementation)

  traced = str(jax.make_jaxpr(on(options['device'], call))(x))
  assert ('dot_product_attention_fwd' in traced) == chosen
  assert 'dot_product_attention_fwd' not in str(jax.make_jaxpr(call)(x))
