"""The process of a config knows where it has no signal and what it learns."""

import jax
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.app.kinds.process import Process
from diffusion_jax.core.parametrization import Parametrization
from diffusion_jax.errors import UserError
from tests.app.conftest import read

SCHEDULES = {'flow': dj.RectifiedFlowSchedule(), 'vp': dj.LinearVPSchedule()}


@pytest.mark.parametrize('name', SCHEDULES)
@pytest.mark.parametrize('kind', ['eps', 'score', 'v', 'x0', 'flow'])
def test_eps_and_the_score_need_a_signal_at_the_end(name, kind):
  """x_0 = (x_t - sigma eps) / alpha, which is 0 / 0 at alpha = 0."""
  process = Process(SCHEDULES[name], Parametrization(kind), lambda level: level.t, 1000)
  lost = name == 'flow' and kind in ('eps', 'score')
  assert process.kind_without_signal() == kind * lost


def test_a_learned_schedule_is_as_its_parameters_say(key):
  """gamma is gamma_min + (gamma_max - gamma_min) t at first."""
  process = Process.of(read('digits_vdm'))
  assert process.is_learned and not process.kind_without_signal()
  with pytest.raises(UserError, match='config.schedule=learned has values in a trained run only'):
    process.with_params()
  params = jax.jit(process.init)(key)
  found = jax.jit(lambda params: process.with_params(params)(0.5).logsnr)(params)
  c = read('digits_vdm').schedule
  assert_allclose(-found, 0.5 * (c.gamma_min + c.gamma_max), atol=0.02)


def test_a_fixed_schedule_has_no_parameters(key):
  process = Process.of(read('digits'))
  assert process.init(key) == {} and process.with_params() is process.schedule
  assert process.steps == 1000
