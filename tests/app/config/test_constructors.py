"""Constructors that only configs need."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.app.config import constructors
from tests.app.config.test_tables import model_of
from tests.app.conftest import refused


@pytest.mark.parametrize('gamma', ['scalar', 'network', 'fixed'])
def test_every_gamma_is_its_line_before_training(gamma, key):
  flags = f'gamma={gamma}', 'gamma_min=-6', 'gamma_max=4'
  model = model_of(*[f'schedule.{x}' for x in flags], name='digits_vdm')
  module = constructors.gamma_of(model.noisy.process.schedule)

  @jax.jit
  def first(key):
    params = module.init(key, jnp.zeros(1)).get('params', {})
    schedule = model.noisy.schedule({'schedule': params})
    return params, schedule(np.float32([0.0, 0.5, 1.0])).logsnr

  params, logsnr = first(key)
  assert model.noisy.learns_schedule == (gamma != 'fixed') == bool(params)
  # the small random part of 'network' is far below a tenth
  np.testing.assert_allclose(-logsnr, [-6.0, -1.0, 4.0], atol=0.02)


def test_a_learned_schedule_has_values_in_a_trained_run_only():
  refused('^config.schedule=learned has values in', model_of('schedule=learned').plan)
