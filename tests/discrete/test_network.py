"""A network of states is an embedding, an image network, and a reshape."""

import jax
import numpy as np
from numpy.testing import assert_allclose

from diffusion_jax.discrete.network import StateNetwork
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.mlp import MLP
from diffusion_jax.networks.unet import UNet
from tests.networks.literal import random_params

X = np.random.default_rng(0).integers(0, 5, (2, 4, 4, 2))
NOISE, COND = np.float32([0.1, 0.7]), {'label': np.array([0, 2])}
LABELS = Inputs(num_classes=3)
NETWORK = MLP(channels=8, num_blocks=1, inputs=LABELS, out_channels=10)


def test_logits_are_those_of_the_embedded_states():
  module = StateNetwork(NETWORK, num_states=5, num_outputs=5, features=3)
  params = random_params(module, X, NOISE, COND, scale=0.3)
  logits = jax.jit(module.apply)({'params': params}, X, NOISE, COND)
  assert logits.shape == (2, 4, 4, 2, 5) and np.std(np.asarray(logits)) > 0.01
  table = np.asarray(params['embedding']['embedding'])
  h = np.concatenate([table[X[..., 0]], table[X[..., 1]]], axis=-1)
  output = jax.jit(NETWORK.apply)({'params': params['network']}, h, NOISE, COND)
  assert_allclose(logits, np.reshape(output, (2, 4, 4, 2, 5)), rtol=1e-5, atol=1e-6)


def test_shapes_of_a_u_net_with_means_and_log_scales():
  unet = UNet(channels=8, multipliers=(1, 1), num_blocks=1, num_groups=2, out_channels=4)
  module = StateNetwork(unet, num_states=5, num_outputs=2)
  output = jax.eval_shape(lambda key: module.init_with_output(key, X, NOISE)[0], jax.random.key(0))
  assert output.shape == (2, 4, 4, 2, 2)


def test_a_sequence_is_an_image_of_one_row():
  x = X[:, 0, :, 0]
  module = StateNetwork(NETWORK.clone(out_channels=5), num_states=5, num_outputs=5, features=3)
  params = {'params': random_params(module, x, NOISE, COND, scale=0.3)}
  apply = jax.jit(module.apply)
  found, image = (np.asarray(apply(params, a, NOISE, COND)) for a in (x, x[:, None, :, None]))
  image = image[:, 0, :, 0]
  assert found.shape == (2, 4, 5) and np.std(found) > 0.01
  assert_allclose(found, image, rtol=1e-5, atol=1e-5)
