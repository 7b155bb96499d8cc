"""Attention of one head; interop/ has the layouts of several heads."""

import jax
import numpy as np
import pytest

from diffusion_jax.networks.attention import Attention
from tests.networks import literal

X = np.random.default_rng(1).standard_normal((2, 3, 4, 8), np.float32)


def test_attention_literally():
  module = Attention(num_groups=4)
  p = literal.random_params(module, X)
  found = jax.jit(module.apply)({'params': p}, X)
  expected = literal.attention(p, np.float64(X))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('options, message', [
  ({'num_heads': 3}, 'num_heads=3 does not divide the 8 channels'),
  ({'head_channels': 16}, 'head_channels=16 does not divide the 8 channels'),
])  # fmt: skip
def test_attention_refusals(options, message):
  with pytest.raises(ValueError, match=message):
    literal.random_params(Attention(num_groups=4, **options), X)
