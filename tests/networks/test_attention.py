import jax
import numpy as np
import pytest

from diffusion_jax.networks.attention import Attention
from tests.networks import literal


@pytest.fixture(scope='module')
def attention():
  """Returns (apply(params, **options), an image, separate parameters)."""
  key = jax.random.key(0)
  x = jax.random.normal(key, (2, 3, 4, 8))
  base = Attention(num_groups=4)

  def apply(p, **options):
    module = Attention(num_groups=4, **options)
    return jax.jit(module.apply)({'params': p}, x)

  return apply, np.asarray(x, np.float64), literal.random_params(base, x)


def test_attention_literally(attention):
  apply, x, p = attention
  expected = literal.attention(p, x)
  np.testing.assert_allclose(apply(p), expected, rtol=1e-4, atol=1e-4)


def fused(p, order):
  """Returns the parameters of one projection, for 2 heads of 4 channels."""

  def join(leaf):
    parts = [np.asarray(p[n][leaf]) for n in ('query', 'key', 'value')]
    out = np.stack(parts, axis=-2)  # [..., 3, C]
    if order == 'legacy':
      out = out.reshape(*out.shape[:-1], 2, 4).swapaxes(-3, -2)
    return out.reshape(*parts[0].shape[:-1], 24)

  qkv = {'kernel': join('kernel'), 'bias': join('bias')}
  return {'norm': p['norm'], 'qkv': qkv, 'proj_out': p['proj_out']}


@pytest.mark.parametrize('heads', [{'num_heads': 2}, {'head_channels': 4}])
@pytest.mark.parametrize('order', ['legacy', 'new'])
def test_fused_attention_is_openais(attention, order, heads):
  apply, x, p = attention
  p = fused(p, 'new')  # any weights would do
  found = apply(p, qkv=order, **heads)
  expected = literal.openai_attention(p, x, order, 4)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('options, message', [
  ({'num_heads': 3}, 'num_heads=3 does not divide the 8 channels'),
  ({'head_channels': 16}, 'head_channels=16 does not divide the 8 channels'),
])  # fmt: skip
def test_attention_refusals(attention, options, message):
  with pytest.raises(ValueError, match=message):
    attention[0](attention[2], **options)
