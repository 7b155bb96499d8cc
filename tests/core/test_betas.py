import numpy as np
import pytest

import diffusion_jax as dj

NAMED = {
  'linear': dj.linear_betas,
  'rescaled_linear': dj.rescaled_linear_betas,
  'quadratic': dj.quadratic_betas,
  'scaled_linear': dj.scaled_linear_betas,
  'cosine': dj.cosine_betas,
  'sigmoid': dj.sigmoid_betas,
  'constant': dj.constant_betas,
  'warmup': dj.warmup_betas,
  'reciprocal': dj.reciprocal_betas,
}


@pytest.mark.parametrize('name', NAMED)
@pytest.mark.parametrize('T', [50, 1000])
def test_every_sequence_makes_a_schedule(name, T):
  betas = NAMED[name](T)
  assert betas.shape == (T,) and betas.dtype == np.float64
  schedule = dj.DiscreteSchedule.from_betas(betas)
  np.testing.assert_allclose(schedule.betas, betas, rtol=1e-5)


@pytest.mark.parametrize('name', NAMED)
def test_one_step_is_allowed_none_is_not(name):
  assert NAMED[name](1).shape == (1,)
  with pytest.raises(ValueError, match='num_steps is 0'):
    NAMED[name](0)


def test_linear_is_ddpms():
  betas = dj.linear_betas(1000)
  assert betas[0] == 1e-4 and betas[-1] == 0.02
  np.testing.assert_allclose(np.diff(betas), 0.0199 / 999, rtol=1e-9)
  # "L_T ~ 1e-5 bits per dimension": alpha_bar_T = 4.04e-5 (DDPM section 4)
  np.testing.assert_allclose(np.prod(1 - betas), 4.04e-5, rtol=1e-2)


@pytest.mark.parametrize('T', [100, 250, 4000])
def test_rescaled_linear_keeps_the_end(T):
  alpha_bar = np.prod(1 - dj.rescaled_linear_betas(T))
  assert 1e-5 < alpha_bar < 6e-5


@pytest.mark.parametrize('found, expected', [
  (dj.quadratic_betas(20, 0.01, 0.25), np.linspace(0.1, 0.5, 20) ** 2),
  (dj.sigmoid_betas(20, 0.1, 0.4),
   0.1 + 0.3 / (1 + np.exp(-np.linspace(-6, 6, 20)))),
  # alpha_bar falls along a line.
  (dj.reciprocal_betas(20), 1 / (21 - np.arange(1, 21))),
])  # fmt: skip
def test_formulas(found, expected):
  np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_warmup_climbs_then_stays():
  betas = dj.warmup_betas(100, 0.1, 0.001, 0.02)
  np.testing.assert_allclose(betas[:10], np.linspace(0.001, 0.02, 10))
  np.testing.assert_array_equal(betas[10:], 0.02)
  # Ho et al.'s code takes int(T * fraction) steps, here int(2.9).
  np.testing.assert_array_equal(dj.warmup_betas(29, 0.1)[1:], 0.02)


def test_cosine_cap_can_be_chosen():
  assert dj.cosine_betas(10, max_beta=0.5).max() == 0.5
