"""Metrics measure the network of a run by its own schedule, sampler and autoencoder."""

from typing import Any

import pytest

from diffusion_jax.app.kinds.measured import Measured
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import read, smoke


def measured(config) -> Any:
  """Returns what metrics measure of an untrained model."""
  return make_model(config, RunFolder.at('nowhere')).measured


@pytest.mark.parametrize('variance', ['fixed_small', 'fixed_large'])
def test_the_reverse_process_has_the_variance_of_the_sampler(variance):
  fields = {'sampling.sampler': 'ancestral', 'sampling.sampler.variance': variance}
  assert measured(smoke(**fields)).reverse_variance == variance
  assert measured(smoke(**{'sampling.sampler': 'ddim'})).reverse_variance == 'fixed_small'


@pytest.mark.parametrize(
  'name, noisy', [('digits', False), ('digits_flow', False), ('digits_vdm', True)]
)
def test_noise_at_t_0_is_of_the_schedule(name, noisy):
  """Step 0 of DDPM is clean; a learned schedule begins at gamma_min."""
  assert measured(read(name)).starts_noisy == noisy


def test_latents_have_their_autoencoder():
  """It is opened when it is asked for, not before."""
  asked = []
  model = Measured(measured(smoke()).noisy, autoencoder_of=lambda: asked.append(1))
  assert not asked
  assert model.autoencoder is None and asked
