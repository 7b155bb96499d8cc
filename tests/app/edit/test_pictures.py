"""Edits of pictures, and what they read from files."""

from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.app.edit import methods, pictures
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import normal_params, smoke, untrained
from tests.app.edit.conftest import QUICK, picture, run
from tests.app.fields import typed

COLOUR = typed("""
  data=synthetic data.image_shape=8,8,3 conditioning.labels=False conditioning.image=colorize
""")


@pytest.fixture(scope='module')
def colour(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'colour'
  return untrained(smoke(**QUICK | COLOUR), workdir)


def test_what_is_known_is_what_the_operator_makes_of_the_picture():
  model = make_model(smoke(), RunFolder.at('nowhere'))
  x = np.random.default_rng(0).uniform(-1.0, 1.0, (2, 8, 8, 1))
  mask, x = np.arange(64).reshape(1, 8, 8, 1) % 3 == 0, x.astype(np.float32)
  known = pictures.Inpaint().known(model, {'image': x, 'mask': mask})
  assert_array_equal(known.y, np.where(mask, x, 0.0))
  assert_array_equal(known.forward(x), known.y)
  small = x.reshape(2, 4, 2, 4, 2, 1).mean(axis=(2, 4))
  known = pictures.Superres(factor=2).known(model, {'image': small})
  assert_allclose(known.forward(x), known.y, atol=1e-6)


def test_sdedit_of_no_strength_is_the_picture(plain, files):
  changes = {'edit': 'sdedit', 'edit.strength': 0.0}
  results = run(plain, files, changes, image='digit')['arr_0']
  given = picture(files, 'digit')
  assert_array_equal(results[1, ..., 0], given)
  changes = {'edit': 'sdedit', 'edit.strength': 1.0, 'edit.label': 4}
  results = run(plain, files, changes, image='digit', mask='mask')['arr_0']
  assert_array_equal(results[1, :4, :, 0], given[:4])
  assert (results[1, 4:, :, 0] != given[4:]).any()


def test_an_interpolation_is_not_clipped():
  """If eps = 30 for any x, x_0 leaves [-1, 1] between the ends."""
  config = smoke(**QUICK | {'sampling.bound': 'clip', 'edit': 'interpolate'})
  model: Any = make_model(config, RunFolder.at('nowhere'))
  params = normal_params(model, deviation=0)
  params['network']['conv_out']['bias'] += 30.0
  ends = np.random.default_rng(0).uniform(-1.0, 1.0, (2, 8, 8, 1)).astype(np.float32)
  inputs = {'image': ends[:1], 'image2': ends[1:], 'weight': np.float32([0.0, 1.0])}
  cond = {'label': np.zeros(2, np.int32)}

  @jax.jit
  def draw(params, keys):
    batch = methods.Batch(model.plan(params), keys, cond, inputs)
    return pictures.Interpolate().results(model, batch)['x']

  results = draw(params, jax.random.split(jax.random.key(0), 2))
  assert_allclose(results, ends, atol=1e-3)


def test_colours_by_a_run_that_learned_them(colour, files, capsys):
  changes = COLOUR | {'edit': 'colorize'}
  arrays = run(colour, files, changes, image='colours')
  assert 'its colours are left out' in capsys.readouterr().out
  assert arrays['image'].shape == (8, 8, 1)
  assert arrays['arr_0'].shape == (2, 8, 8, 3)
  other = run(colour, files, changes, image='digit')['arr_0']
  assert (other != arrays['arr_0']).any()  # the network sees the picture
