"""Where churn adds noise; for the rest see test_solvers.py and papers/."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from tests.jitted import level_at
from tests.rows import normal, slow
from tests.sampling import moments
from tests.sampling.moments import GAUSSIAN, SCHEDULES, OneOf, build


def compare(name, level_t, key, limits=(0.0, np.inf)):
  """Returns how far churn moves a step of DDIM."""
  return float(moved_by_churn([*SCHEDULES].index(name), level_t, key, limits))


@jax.jit
def moved_by_churn(number, level_t, key, limits):
  schedule = OneOf(number, (*SCHEDULES.values(),))
  x = jnp.linspace(-2.0, 2.0, 8).reshape(4, 2)
  plain, churned = (
    sampler.step(key, x, (), GAUSSIAN.denoise, level_s=schedule(0.4), level_t=level_t)[0]
    for sampler in (dj.ddim(), dj.churn(dj.ddim(), schedule, 0.4, *limits))
  )
  return jnp.abs(churned - plain).max()


@pytest.mark.parametrize('name', SCHEDULES)
def test_churn_adds_nothing_beyond_the_end_of_a_schedule(name, key):
  change = compare(name, level_at(SCHEDULES[name], 1.0), key)
  if name in ('geometric_ve', 'karras'):  # They continue.
    assert change > 0.1
  else:
    assert change < 2e-3  # Rounding may leave a little room for noise.


def test_churn_adds_the_noise_between_the_two_levels():
  """Draws from a marginal become draws from the marginal it raises to."""

  def step(key, x, state, denoise, *, level_s, level_t):
    return x, (x, level_t)

  schedule = dj.LinearVPSchedule()
  level = level_at(schedule, 0.5)
  x = normal(100_000, 2)
  x *= np.hypot(level.alpha, level.sigma)
  for s_noise in (1.0, 1.2):
    sampler = dj.churn(dj.Sampler(lambda x: (), step), schedule, 0.3, s_noise=s_noise)
    step_of = functools.partial(
      sampler.step, state=(), denoise=None, level_s=level_at(schedule, 0.4), level_t=level
    )
    raised, hat = jax.jit(step_of)(jax.random.key(1), x)[1]
    ratio = hat.sigma / hat.alpha
    assert_allclose(ratio, 1.3 * level.sigma / level.alpha, 1e-5)
    shrunk = np.float64(hat.alpha / level.alpha) ** 2
    added = np.float64(hat.sigma) ** 2 - shrunk * np.float64(level.sigma) ** 2
    expected = shrunk + s_noise**2 * added
    assert_allclose(np.var(np.asarray(raised)), expected, rtol=0.015)


def test_churn_is_limited_in_sigma_over_alpha(key):
  level = level_at(SCHEDULES['linear'], 0.5)
  ratio = float(level.sigma / level.alpha)
  assert compare('linear', level, key) > 0.1
  for limits in ((1.01 * ratio, 1e9), (0.0, 0.99 * ratio)):
    assert compare('linear', level, key, limits) < 1e-5
  # Both limits belong to the range.
  level = level_at(SCHEDULES['flow'], 0.5)
  assert compare('flow', level, key, (1.0, 1.0)) > 0.1


# Their cleanest levels are noisy.
ENDS = {
  'karras': dj.KarrasSchedule(0.1, 80.0),
  've': dj.GeometricVESchedule(0.3, 50.0),
  'cosine': dj.CosineSchedule(-5.0, 3.0),
}
# Solvers of the ODE that keep nothing of earlier steps.
ODES = [
  name
  for name in moments.SAMPLERS
  if moments.solves_the_ode(name) and not jax.tree.leaves(build(name, ENDS['ve']).init(np.ones(1)))
]


# tests/papers/test_samplers.py has these.
DEAR = 'heun', 'dpm_solver_2'


@pytest.mark.parametrize('name', [slow(n) if n in DEAR else n for n in ODES])
def test_ancestral_noise_is_that_of_ddim_at_every_level(name, key):
  """Data that are 0 have x_s ~ N(0, sigma_s^2), a known part of it new."""
  zero = lambda x, level: dj.Prediction(jnp.zeros_like(x))

  @jax.jit
  def step(number, level_s, level_t, x):
    schedule = OneOf(number, (*ENDS.values(),))
    sampler = dj.with_ancestral_noise(build(name, schedule), schedule)
    return sampler.step(key, x, (), zero, level_s=level_s, level_t=level_t)[0]

  x = np.random.default_rng(0).standard_normal((50_000, 1))
  for number, schedule in enumerate(ENDS.values()):
    for times in ((0.0, 0.03), (0.03, 0.06)):
      s, t = (level_at(schedule, time) for time in times)
      moved = step(number, s, t, np.float32(t.sigma * x))
      a_s, s_s, a_t, s_t = map(float, (*s[1:], *t[1:]))
      share = (a_t * s_s / (a_s * s_t)) ** 2
      old = np.vdot(x, moved) / np.vdot(x, x)
      rtol = 0.1 if name.startswith('velocity') else 0.03  # of its own steps, in t
      assert_allclose(old, share**0.5 * s_s, rtol=rtol)
      assert_allclose(np.std(moved - old * x), (1.0 - share) ** 0.5 * s_s, rtol=0.03)


def test_annealed_langevin_without_steps_only_follows_the_signal(key):
  """x times alpha_s / alpha_t, the identity for Song & Ermon's levels."""
  levels = level_at(SCHEDULES['linear_vp'], np.float32([0.9, 0.4]))
  sampler, x = dj.annealed_langevin(1, step_size=0.0), normal(3, 2)
  found = jax.jit(
    lambda x: sampler.step(
      key, x, (), GAUSSIAN.denoise, level_t=levels.take(0), level_s=levels.take(1)
    )[0]
  )(x)
  assert_allclose(found, levels.alpha[1] / levels.alpha[0] * x, rtol=1e-5)


def test_gamma_of_churn():
  assert dj.churn_gamma(40.0, 256) == 40.0 / 256
  assert dj.churn_gamma(80.0, 18) == 2.0**0.5 - 1.0


@pytest.mark.parametrize('name', ['linear', 'linear_vp', 'sub_vp'])
def test_churn_adds_nothing_at_a_level_noisier_than_any_of_the_schedule(name, key):
  end = level_at(SCHEDULES[name], 1.0)
  assert compare(name, end._replace(sigma=3.0 * end.sigma), key) == 0.0
