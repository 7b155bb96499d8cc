"""Averages by a power of time against float64 loops and integrals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.training import optimizer, power_ema
from diffusion_jax.training.objectives import Objective
from diffusion_jax.training.state import init_state
from diffusion_jax.training.step import make_train_step
from tests.transcribed import transcribes

STEPS = 2048
TRACKED = (0.05, 0.10)


def recursion(sigma_rel, values, more=0):
  """Computes the averages after each step by the recursion in float64."""
  power = power_ema.exponent(sigma_rel) + 1.0
  averages, found = np.zeros_like(values[0]), []
  for i, value in enumerate(values):
    beta = (1.0 - 1.0 / (i + 1.0 + more)) ** power if i else 0.0
    averages = beta * averages + (1.0 - beta) * value
    found.append(averages)
  return np.stack(found)


def test_the_profile_of_an_exponent_has_the_width():
  """The width is the standard deviation of the density (gamma + 1) tau^gamma, by EDM2's Eq. 3."""
  for sigma_rel in (1e-3, 0.01, 0.05, 0.0777, 0.1, 0.2, 0.288, 0.2886751345):
    gamma = power_ema.exponent(sigma_rel)
    width = math.sqrt((gamma + 1.0) / ((gamma + 2.0) ** 2 * (gamma + 3.0)))
    assert_allclose(width, sigma_rel, rtol=1e-10)
  assert_allclose(power_ema.exponent(0.05), 16.972198602303447)
  assert_allclose(power_ema.exponent(0.10), 6.937203937601809)


@transcribes(
  'EDM2 (Karras et al. 2024)',
  'section 3, appendix C: averages by a power of time; their sums',
  '`training.optimizer.ema_power`, `training.power_ema`',
)
def test_products_of_profiles_are_their_integrals():
  tau = np.linspace(0.0, 5.0, 500_001)

  def profile(t, gamma):
    return np.where(tau <= t, (gamma + 1) * (tau / t) ** gamma / t, 0.0)

  first, other = (2.0, 3.0), (5.0, 1.5)
  same_time = (4.0, 7.0), (4.0, 17.0)
  for a, b in (first, other), (other, first), same_time:
    expected = np.trapezoid(profile(*a) * profile(*b), tau)
    found = power_ema.inner_product(*a, *b)
    assert_allclose(found, expected, rtol=1e-4)


def test_a_late_step_moves_the_average_by_its_exact_rate(key):
  """An average of 0 becomes 1 - (1 - 1 / t)^(gamma + 1) where params are 1."""

  def loss(params, context, inputs, keys):
    return 0.0 * params, ({}, ())

  still = Objective(lambda *_: ((), ()), loss)
  rates = {str(width): optimizer.ema_power(width) for width in TRACKED}
  sgd = optax.sgd(0.0)
  step = jax.jit(make_train_step(still, sgd, optimizer.ema_decay(0.9), rates))
  state = init_state(jnp.ones(()), sgd)
  state = state._replace(more_ema_params=dict.fromkeys(rates, jnp.zeros(())))
  for t in (10, 250_000, 1_000_000):
    after, _ = step(state._replace(step=jnp.array(t - 1)), {}, key)
    for width in TRACKED:
      power = power_ema.exponent(width) + 1.0
      expected = -np.expm1(power * np.log1p(-1.0 / t))
      found = after.more_ema_params[str(width)]
      assert_allclose(found, expected, rtol=1e-6)


# Relative errors |made - true| / |true - last| of 8, 16 and 32 snapshots, twice
# the errors of another implementation on another trajectory.
BOUNDS = {
  0.03: (0.16, 0.03, 4e-3),
  0.075: (8e-3, 9e-4, 1.1e-4),
  0.15: (0.018, 2.2e-3, 2.2e-4),
  0.20: (0.07, 0.016, 3.4e-3),
}


@pytest.fixture(scope='module')
def trajectory():
  """Returns a random walk with drift, and its averages of every width."""
  rng = np.random.default_rng(0)
  values = np.cumsum(rng.normal(size=(STEPS, 64)), axis=0)
  values += 0.05 * np.arange(1, STEPS + 1)[:, None] * rng.normal(size=64)
  widths = (*TRACKED, *BOUNDS)
  return values, {width: recursion(width, values) for width in widths}


def made(averages, steps, sigma_rel, batch_size=64):
  """Returns the sum of the tracked averages at `steps` for the last step."""
  t = np.repeat(batch_size * np.array(steps), len(TRACKED))
  gamma = np.tile([power_ema.exponent(w) for w in TRACKED], len(steps))
  solution = power_ema.solve(t, gamma, t[-1], power_ema.exponent(sigma_rel))
  assert_allclose(solution.weights.sum(), 1.0, rtol=1e-9)
  arrays = [{'x': averages[w][s - 1]} for s in steps for w in TRACKED]
  parts = zip(solution.weights, arrays, strict=True)
  return power_ema.combine(parts)['x'], solution


@transcribes(
  'EDM2 (Karras et al. 2024)',
  'section 3, appendix C: averages by a power of time; their sums',
)
def test_averages_are_made_of_snapshots(trajectory):
  values, averages = trajectory
  for i, count in enumerate((8, 16, 32)):
    steps = [STEPS * (k + 1) // count for k in range(count)]
    for sigma_rel in TRACKED:
      found, solution = made(averages, steps, sigma_rel)
      assert_allclose(found, averages[sigma_rel][-1], rtol=1e-12)
      assert np.count_nonzero(solution.weights) == 1
      assert solution.residual < 1e-7
    for sigma_rel, bounds in BOUNDS.items():
      found, solution = made(averages, steps, sigma_rel)
      true = averages[sigma_rel][-1]
      scale = np.linalg.norm(true - values[-1])
      assert np.linalg.norm(found - true) < bounds[i] * scale
      assert np.linalg.norm(found - true) < solution.residual * scale * 1.2
  # the same for the first half of training
  found, _ = made(averages, steps[:16], 0.075)
  true = averages[0.075][STEPS // 2 - 1]
  scale = np.linalg.norm(true - values[STEPS // 2 - 1])
  assert np.linalg.norm(found - true) < 9e-4 * scale


def test_sums_keep_their_digits():
  parts = [
    (10.0, {'a': np.float32([1.0]), 'b': np.float32(2.0)}),
    (-9.0, {'a': np.float32([1.0 + 2**-23]), 'b': np.float32(2.0)}),
  ]
  found = power_ema.combine(iter(parts))
  assert found['a'].dtype == np.float32 and found['b'].shape == ()
  assert found['b'] == 2.0
  assert found['a'] == np.float32(1.0 - 9.0 * 2**-23)
