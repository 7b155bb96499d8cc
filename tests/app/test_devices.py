"""Meshes of devices, and how programs are compiled for them."""

import pytest

from diffusion_jax.app import devices
from tests.app.conftest import smoke
from tests.app.fields import within


@pytest.mark.parametrize(
  'fields, expected',
  [
    ({'num_steps': 2000}, 'fast'),
    ({'num_steps': 2001}, 'tuned'),
    ({'num_steps': 2001, 'compile': 'fast'}, 'fast'),
    ({'num_steps': 1, 'compile': 'tuned'}, 'tuned'),
  ],
)
def test_a_long_training_is_tuned(fields, expected):
  config = smoke(**within('training', **fields))
  assert devices.effort(config) == expected
