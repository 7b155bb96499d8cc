"""Reports of likelihoods; the tests of modes compare their values."""

import numpy as np

from diffusion_jax.metrics import likelihoods


def test_random_steps_have_a_sum_and_no_curves(tmp_path):
  arrays = {name: np.ones(1) for name in ('total', 'prior', 'reconstruction')}
  arrays['diffusion'] = arrays['squared_error'] = np.ones((1, 4))
  assert likelihoods.elbo(random_steps=2).report(arrays, tmp_path) == {
    'bits_per_dim': 1.0,
    'standard_error': None,
    'prior': 1.0,
    'diffusion': 4.0,
    'reconstruction': 1.0,
    'random_steps': 2,
  }
  assert not list(tmp_path.iterdir())
