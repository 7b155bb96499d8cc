"""A network of NNX is the same function as its own module; any network is exported."""

import jax
import numpy as np
import pytest
from flax import nnx
from jax import export
from numpy.testing import assert_allclose

from diffusion_jax.networks import functional
from diffusion_jax.networks.unet import UNet
from tests.networks.literal import randomised
from tests.networks.test_options import NETWORKS
from tests.rows import slow

# 32 channels are enough for Winograd's convolution.
NOISY = {'wide': lambda **k: UNet(32, (1,), 1, num_groups=8, **k)} | NETWORKS
del NOISY['autoencoder'], NOISY['hierarchical']


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


@pytest.mark.parametrize(
  'name, dtype, is_called',
  [
    ('wide', 'float32', False),
    ('dit', 'bfloat16', False),
    *(slow(name, dtype, True) for name in NOISY for dtype in ('float32', 'bfloat16')),
  ],
)
def test_a_network_is_exported_for_any_batch(name, dtype, is_called):
  """`jax.export` takes a symbol for the size of the batch; called, it has plain jit's numbers."""
  network = NOISY[name](dtype=dtype)
  rng = np.random.default_rng(0)
  x = rng.standard_normal((5, 4, 4, 3), np.float32)
  noise = rng.uniform(0.1, 0.9, 5).astype(np.float32)
  params = randomised(jax.eval_shape(network.init, jax.random.key(0), x, noise)['params'])

  def outputs(x, noise):
    y, pull = jax.vjp(lambda x: functional.network_fn(network)(params, x, noise, {}), x)
    return y, *pull(y)

  (batch,) = export.symbolic_shape('batch')
  shapes = (jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype) for a in (x, noise))
  exported = export.export(jax.jit(outputs))(*shapes)
  assert [x.shape for x in exported.out_avals] == [(batch, *x.shape[1:])] * 2
  if not is_called:
    return
  found = exported.call(x, noise)
  tolerance = 1e-4 if dtype == 'float32' else 0.03
  for a, b in zip(found, jax.jit(outputs)(x, noise), strict=True):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())
