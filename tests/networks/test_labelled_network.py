"""The network sees x, its level and the state of the label, and says both."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.labelled_network import LabelledNetwork
from diffusion_jax.networks.mlp import MLP

INPUTS = Inputs(num_classes=3, null_class=True)
NETWORK: Any = LabelledNetwork(MLP(8, num_blocks=1, out_channels=6, inputs=INPUTS), 3, features=4)
X = {'x': jnp.array([[0.3, -1.0], [0.7, 0.2]]), 'label': jnp.array([1, 3])}
NOISE = {'x': jnp.array([0.5, 0.5]), 'label': jnp.array([0.0, 0.5])}


def applied():
  params = NETWORK.init(jax.random.key(0), X, NOISE)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda a: a + 0.3 * rng.normal(size=a.shape).astype(np.float32), params)
  return lambda x=X, noise=NOISE: NETWORK.apply(params, x, noise)


def test_outputs_are_of_x_and_of_each_state():
  """Both see x and the label; the masked state is the network's null class."""
  apply = applied()
  first = apply()
  assert first['x'].shape == (2, 2) and first['label'].shape == (2, 4)
  for changed in ({'label': jnp.array([2, 3])}, {'x': X['x'].at[0, 0].set(1.0)}):
    other = apply({**X, **changed})
    for name in ('x', 'label'):
      assert np.abs(other[name][0] - first[name][0]).max() > 1e-3
      assert_allclose(other[name][1], first[name][1], rtol=1e-6)
  masked = apply({**X, 'label': jnp.array([0, 0])})
  assert np.abs(masked['x'][1] - first['x'][1]).max() > 1e-3


def test_the_level_of_the_label_is_in_its_state():
  apply = applied()
  other = apply(X, {**NOISE, 'label': jnp.array([0.9, 0.1])})
  assert_array_equal(other['x'], apply()['x'])
  moved = apply(X, {**NOISE, 'x': jnp.array([0.1, 0.5])})
  assert np.abs(moved['label'][0] - apply()['label'][0]).max() > 1e-3


def test_all_labels_are_as_probable_at_first():
  outputs = NETWORK.apply(NETWORK.init(jax.random.key(0), X, NOISE), X, NOISE)
  assert_allclose(outputs['x'], 0.0, atol=1e-5)
  assert_allclose(jax.nn.softmax(outputs['label']), 0.25, rtol=1e-4)
