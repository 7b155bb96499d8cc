import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffusion_jax.networks import functional


class Net(nnx.Module):
  def __init__(self, in_channels, *, width: int = 3, dropout=0.5, rngs):
    self.dense = nnx.Linear(in_channels, width, rngs=rngs)
    self.dropout = nnx.Dropout(dropout, rngs=rngs)

  def __call__(self, x, noise, cond=None, *, train=False):
    return self.dropout(self.dense(x + noise[:, None]), deterministic=not train)


def test_a_module_of_nnx_is_the_same_function(key):
  """Its output equals nnx.merge's; dropout follows the key, or is off."""
  module = functional.from_nnx(Net)(in_channels=2, width=5)
  x, noise = jnp.ones((4, 2)), jnp.arange(4.0)
  params = module.init({'params': key, 'dropout': key}, x, noise, {})['params']
  own = Net(2, width=5, rngs=nnx.Rngs(0))
  nnx.update(own, params)
  found = functional.network_fn(module)(params, x, noise, {})
  np.testing.assert_allclose(found, own(x, noise), rtol=1e-6)
  trained = functional.network_fn(module)
  a, b = (trained(params, x, noise, {}, key=jax.random.key(i)) for i in (1, 2))
  assert np.any(a != b) and np.any(a == 0.0)
  rest = functional.network_fn(functional.clone(module, dropout=0.0))
  np.testing.assert_allclose(rest(params, x, noise, {}, key=key), found)
