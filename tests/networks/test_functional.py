"""A network of NNX is the same function as its own module."""

import jax
import numpy as np
from flax import nnx
from numpy.testing import assert_allclose

from diffusion_jax.networks import functional


class Net(nnx.Module):
  def __init__(self, in_channels, *, width: int = 3, dropout=0.5, rngs):
    self.dense = nnx.Linear(in_channels, width, rngs=rngs)
    self.dropout = nnx.Dropout(dropout, rngs=rngs)

  def __call__(self, x, noise, cond=None, *, train=False):
    return self.dropout(self.dense(x + noise[:, None]), deterministic=not train)


def test_a_module_of_nnx_is_the_same_function(key):
  """The output of a module of NNX equals nnx.merge's; dropout follows the key, or is off."""
  module = functional.from_nnx(Net)(in_channels=2, width=5)
  x, noise = np.ones((4, 2), np.float32), np.arange(4.0, dtype=np.float32)

  @jax.jit
  def outputs(key):
    keys = {'params': key, 'dropout': key}
    params = module.init(keys, x, noise, {})['params']
    own = Net(2, width=5, rngs=nnx.Rngs(0))
    nnx.update(own, params)
    trained = functional.network_fn(module)
    rest = functional.network_fn(functional.clone(module, dropout=0.0))
    return (
      trained(params, x, noise, {}),
      own(x, noise),
      rest(params, x, noise, {}, key=key),
      *(trained(params, x, noise, {}, key=k) for k in jax.random.split(key)),
    )

  found, merged, rest, a, b = jax.device_get(outputs(key))
  assert_allclose(found, merged, rtol=1e-6)
  assert_allclose(rest, found, rtol=1e-6)
  assert np.any(a != b) and np.any(a == 0.0)
