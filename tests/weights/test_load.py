"""One door to the weights of a run and of a shared folder."""

import numpy as np
import pytest

from diffusion_jax.weights import adapters, checkpoints, load
from tests.weights.test_adapters import ADAPTERS, BASE
from tests.weights.test_checkpoints import equal, saved, state_of


def test_the_step_comes_with_the_weights(tmp_path):
  saved(tmp_path, state_of(step=3), state_of(step=5, value=2.0))
  assert load.find_step(tmp_path) == load.open(tmp_path).step == 5
  found = load.open(tmp_path, 'raw', 3)
  assert found.step == 3 and found.config['seed'] == 3
  equal(found.params, state_of().params)


def test_adapters_are_merged_unless_they_are_wanted(tmp_path):
  checkpoints.save_params(tmp_path, 4, ADAPTERS, {})
  equal(load.open(tmp_path, merge=False).params, ADAPTERS)
  with pytest.raises(ValueError, match='base.safetensors is missing'):
    load.open(tmp_path)
  adapters.write(tmp_path, BASE, 1.0)
  kernel = load.open(tmp_path).params['network']['dense']['kernel']
  np.testing.assert_array_equal(kernel, [[1, 1, 1], [4, 4, 4]])
