"""Schedules of a list of alphas are the list at its steps, and continuous between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.app.kinds.choices import SCHEDULES
from tests.jitted import at_step, level_at
from tests.refusals import one_line
from tests.schedules import anything

LECTURE = [0.99, 0.98, 0.97, 0.96, 0.95]


@pytest.mark.parametrize('num_steps', [1, 40])
@settings(anything, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_sequence_of_alphas_is_a_schedule(num_steps, seed):
  alphas = np.random.default_rng(seed).uniform(0.01, 0.999, num_steps)
  schedule = dj.DiscreteSchedule.from_alphas(alphas)
  T = len(alphas)
  assert schedule.num_steps == T
  level = at_step(schedule, np.arange(T + 1))
  alpha_bars = np.append(1.0, np.cumprod(alphas))
  assert_allclose(level.alpha, np.sqrt(alpha_bars), rtol=1e-5)
  assert_allclose(level.sigma, np.sqrt(1 - alpha_bars), rtol=1e-5)
  assert_allclose(schedule.alphas, alphas, rtol=1e-6)
  same = dj.DiscreteSchedule.from_betas(1 - np.array(alphas))
  assert_allclose(same.neg_log_alpha_bar, schedule.neg_log_alpha_bar)


def test_zero_as_the_last_alpha_leaves_no_signal():
  schedule = dj.DiscreteSchedule.from_alphas([0.9, 0.5, 0.0])
  last = at_step(schedule, 3)
  assert last.alpha == 0.0 and last.sigma == 1.0
  between = level_at(schedule, np.linspace(2 / 3, 1.0, 20))
  assert np.isfinite(between.alpha).all() and np.isfinite(between.sigma).all()
  assert_allclose(schedule.alphas, [0.9, 0.5, 0.0], rtol=1e-6)


@pytest.mark.parametrize('T', [1, 3, 1000, 4000])
def test_at_step_is_the_table_itself(T):
  schedule = dj.DiscreteSchedule.from_betas(dj.cosine_betas(T))
  steps = np.arange(T + 1)
  a, b = jax.jit(lambda i, t: (schedule.at_step(i), schedule(t)))(steps, steps / T)
  assert_array_equal(a.alpha, b.alpha)
  exact = np.exp(-0.5 * schedule.neg_log_alpha_bar).astype(np.float32)
  assert_array_equal(a.alpha, exact)


def test_between_steps_log_alpha_bar_is_linear():
  schedule = dj.DiscreteSchedule.from_alphas(LECTURE)
  log = np.log(np.append(1.0, np.cumprod(LECTURE)))
  t = np.linspace(0, 1, 41)
  expected = np.exp(0.5 * np.interp(t, np.linspace(0, 1, 6), log))
  level = level_at(schedule, t)
  assert_allclose(level.alpha, expected, rtol=1e-6)


def test_gradients_flow_through_the_table():
  schedule = dj.DiscreteSchedule.from_alphas(LECTURE)
  grad = jax.jit(jax.grad(lambda s: s(jnp.array(0.4)).alpha))(schedule)
  # alpha = exp(-L_2 / 2) at step 2, so d alpha / d L_2 = -alpha / 2
  expected = np.zeros(6)
  expected[2] = -0.5 * np.sqrt(0.99 * 0.98)
  assert_allclose(grad.neg_log_alpha_bar, expected, atol=1e-6)


NAMED = {n: getattr(dj, f'{n}_betas') for n in SCHEDULES if hasattr(dj, f'{n}_betas')}


@pytest.mark.parametrize('name', NAMED)
@pytest.mark.parametrize('T', [50, 1000])
def test_every_sequence_makes_a_schedule(name, T):
  betas = NAMED[name](T)
  assert betas.shape == (T,) and betas.dtype == np.float64
  schedule = dj.DiscreteSchedule.from_betas(betas)
  assert_allclose(schedule.betas, betas, rtol=1e-5)


@pytest.mark.parametrize('name', NAMED)
def test_one_step_is_allowed_none_is_not(name):
  assert NAMED[name](1).shape == (1,)
  with pytest.raises(ValueError, match='num_steps must be an integer of at least 1, not 0'):
    NAMED[name](0)


NO_TABLES = {
  'betas': dj.linear_betas(1000),
  'alphas': 1.0 - dj.linear_betas(1000),
  'a step too few': np.zeros(1),
  'without noise': np.zeros(3),
  'falling': np.array([0.0, 2.0, 1.0]),
  'infinite': np.array([0.0, 1.0, np.inf]),
  'of two axes': np.zeros((2, 3)),
}


@pytest.mark.parametrize('name', NO_TABLES)
def test_the_class_takes_a_table_as_it_stands_and_no_betas(name):
  table = np.append(0.0, np.cumsum(-np.log1p(-dj.linear_betas(1000))))
  assert_allclose(dj.DiscreteSchedule(table).betas, dj.linear_betas(1000), 1e-5)
  with one_line('begins at 0 and rises', 'DiscreteSchedule.from_betas(betas)'):
    dj.DiscreteSchedule(NO_TABLES[name])


def test_linear_is_ddpms():
  betas = dj.linear_betas(1000)
  assert betas[0] == 1e-4 and betas[-1] == 0.02
  assert_allclose(np.diff(betas), 0.0199 / 999, rtol=1e-9)
  # "L_T ~ 1e-5 bits per dimension": alpha_bar_T = 4.04e-5 (DDPM section 4)
  assert_allclose(np.prod(1 - betas), 4.04e-5, rtol=1e-2)


@pytest.mark.parametrize('T', [100, 250, 4000])
def test_rescaled_linear_keeps_the_end(T):
  alpha_bar = np.prod(1 - dj.rescaled_linear_betas(T))
  assert 1e-5 < alpha_bar < 6e-5


@pytest.mark.parametrize(
  'found, expected',
  [
    (dj.quadratic_betas(20, 0.01, 0.25), np.linspace(0.1, 0.5, 20) ** 2),
    (dj.sigmoid_betas(20, 0.1, 0.4), 0.1 + 0.3 / (1 + np.exp(-np.linspace(-6, 6, 20)))),
    # alpha_bar falls along a line.
    (dj.reciprocal_betas(20), 1 / (21 - np.arange(1, 21))),
  ],
)
def test_formulas(found, expected):
  assert_allclose(found, expected, rtol=1e-9)


def test_warmup_climbs_then_stays():
  betas = dj.warmup_betas(100, 0.1, 0.001, 0.02)
  assert_allclose(betas[:10], np.linspace(0.001, 0.02, 10))
  assert_array_equal(betas[10:], 0.02)
  # Ho et al.'s code takes int(T * fraction) steps, here int(2.9).
  assert_array_equal(dj.warmup_betas(29, 0.1)[1:], 0.02)


def test_cosine_cap_can_be_chosen():
  assert dj.cosine_betas(10, max_beta=0.5).max() == 0.5
