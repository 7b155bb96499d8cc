"""Choices that join rooms: a learned schedule, and the pairs of reflow."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.app.kinds import parts
from diffusion_jax.testing import oracles
from diffusion_jax.training.objectives import Context


def test_ends_of_a_schedule_in_the_wrong_order_are_refused():
  with pytest.raises(ValueError, match='gamma_min=3.0 is not below gamma_max=-8.0'):
    parts.learned('scalar', 3.0, -8.0)


def test_reflow_regresses_on_what_unipc_makes_of_the_noise(key):
  """A network that returns 0 has the mean of (eps - x_0)^2 as its loss."""
  normal = oracles.gaussian([0.5, -1.0], 0.3 * np.eye(2))
  schedule = dj.RectifiedFlowSchedule()
  zeros = dj.Network(
    lambda params, x, noise, cond, *, key=None: 0.0 * x, dj.logsnr_input, parametrization='flow'
  )
  teacher = lambda frozen, cond: normal.denoise
  objective = parts.reflow(zeros, schedule, dj.uniform_times, teacher, dj.flow_weight, 0.0, 8)

  @jax.jit
  def both(key):
    inputs, keys = objective.draw(key, {'x': np.zeros((64, 2), np.float32)}, Context())
    x0 = dj.sample(key, normal.denoise, dj.unipc(), dj.level_grid(schedule, 8), inputs.eps)
    loss, _ = objective.loss({'network': ()}, Context(), inputs, keys)
    return loss, inputs.eps - x0

  loss, difference = both(key)
  assert_allclose(loss, np.mean(difference**2), rtol=1e-5)
