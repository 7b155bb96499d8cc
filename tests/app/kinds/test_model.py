"""A model encodes its data and tunes its programs as its training needs."""

import dataclasses

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.app.kinds.model import Frozen, Latents, effort, make_encode, make_mesh
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.sharding import replicate, to_global
from tests.app.conftest import smoke
from tests.app.fields import within


def drawn_latents(std, x, keys):
  """Returns draws of N(x / 2, std^2)."""
  normal = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))
  return x / 2.0 + std * normal(keys)


def test_latents_are_drawn_anew_each_step_on_any_devices(rng):
  latents = Latents(drawn_latents, lambda std, z: 2.0 * z)
  model = dataclasses.replace(
    make_model(smoke(), RunFolder.at('nowhere')),
    latents=latents,
    autoencoder=Frozen(lambda *_: {}, dict),
  )
  batch = {'x': np.float32(rng.uniform(-1, 1, (8, 8, 8, 1))), 'label': np.arange(8)}
  key, draws = jax.random.key(0), {}
  for shape in ((1, 1), (4, 2)):
    mesh = make_mesh(smoke(**{'training.machine.mesh': shape}))
    encode, frozen = make_encode(model, mesh), replicate(mesh, {'autoencoder': np.float32(0.1)})
    for i in (0, 1):
      encoded = encode(frozen, to_global(mesh, batch), key, i)
      assert len(encoded['x'].sharding.device_set) == mesh.size
      assert_array_equal(encoded['label'], batch['label'])
      draws[shape, i] = np.asarray(encoded['x'])
  assert_allclose(draws[(4, 2), 1], draws[(1, 1), 1], atol=1e-5)
  # The steps have one distribution: only the noise differs.
  noise = [draws[(1, 1), i] - batch['x'] / 2.0 for i in (0, 1)]
  assert 0.08 < np.std(noise) < 0.12
  assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.2


def test_a_model_without_an_autoencoder_encodes_nothing():
  model, batch = make_model(smoke(), RunFolder.at('nowhere')), {'x': np.zeros((2, 8, 8, 1))}
  encode = make_encode(model, make_mesh(model.config))
  assert encode({}, batch, jax.random.key(0), 0) is batch


@pytest.mark.parametrize(
  'fields, expected',
  [
    ({'num_steps': 2000}, 'fast'),
    ({'num_steps': 2001}, 'tuned'),
    ({'num_steps': 2001, 'machine__compile': 'fast'}, 'fast'),
    ({'num_steps': 1, 'machine__compile': 'tuned'}, 'tuned'),
  ],
)
def test_a_long_training_is_tuned(fields, expected):
  config = smoke(**within('training', **fields))
  assert effort(config) == expected
