"""The bounds of masked diffusion against exact values and D3PM's bound."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.testing import discrete_oracles
from tests.states import LINEAR, NUM_STEPS, TABLE, matrices_of, prior_of

PROCESS = dj.masking_process(3)
SCHEDULES = {
  'linear': LINEAR,
  'cosine': dj.CosineMasking(),
  'cubic': dj.PolynomialMasking(3.0),
}
denoise = TABLE.denoiser(PROCESS)


@functools.partial(jax.jit, static_argnums=(1, 2))
def bound(schedule, num_times, num_steps=None):
  """Computes the bound of 20,000 draws of x_0, [N]."""
  x0 = TABLE.sample(jax.random.key(0), 20_000)
  return dj.masked_bound(
    jax.random.key(1),
    denoise,
    PROCESS,
    schedule,
    x0,
    num_times=num_times,
    num_steps=num_steps,
  )


@pytest.mark.parametrize('name', SCHEDULES)
def test_in_continuous_time_the_bound_is_the_entropy(name):
  """It holds for the exact denoiser and every schedule."""
  nats = np.asarray(bound(SCHEDULES[name], 4), np.float64)
  error = nats.std() / len(nats) ** 0.5
  assert error < 0.02
  assert abs(nats.mean() - TABLE.entropy()) < 4.5 * error


def test_the_bound_in_steps_is_the_oracles():
  """At T = 6 the mean over drawn steps is KL + entropy."""
  nats = np.asarray(bound(LINEAR, 2, NUM_STEPS), np.float64)
  expected = discrete_oracles.expected_bound(
    TABLE, matrices_of('masking'), prior_of('masking')
  )['total']
  error = nats.std() / len(nats) ** 0.5
  assert abs(nats.mean() - expected) < 4.5 * error
  assert expected - TABLE.entropy() > 5 * error


@pytest.mark.parametrize('name', SCHEDULES)
def test_weights(name):
  """They are MD4's formulas, and T steps approach continuous time."""
  t = np.array([0.25, 0.5, 1.0])
  alpha = {
    'linear': lambda t: 1 - t,
    'cosine': lambda t: 1 - np.cos(np.pi / 2 * (1 - t)),
    'cubic': lambda t: 1 - t**3,
  }[name]
  slope = {
    'linear': -np.ones(3),
    'cosine': -np.pi / 2 * np.sin(np.pi / 2 * (1 - t)),
    'cubic': -3 * t**2,
  }[name]
  schedule = SCHEDULES[name]
  level = schedule(jnp.asarray(t))
  expected = -slope / (1 - alpha(t))
  weight = dj.masked_weight(schedule)(level)
  np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6)
  for num_steps in (4, 1000):
    steps = alpha(t - 1 / num_steps) - alpha(t)
    weight = dj.masked_weight(schedule, num_steps)(level)
    np.testing.assert_allclose(
      weight, num_steps * steps / (1 - alpha(t)), rtol=1e-3, atol=1e-4
    )
  np.testing.assert_allclose(weight, expected, rtol=0.01, atol=2e-3)


def test_times_are_antithetic():
  times = []

  def watched(xt, level):
    jax.debug.callback(lambda t: times.append(np.array(t)), level.t)
    return jnp.zeros((*xt.shape, 4))

  x0 = jnp.zeros((3, 2), int)
  dj.masked_bound(jax.random.key(0), watched, PROCESS, LINEAR, x0, num_times=4)
  jax.effects_barrier()
  t = np.sort(times, axis=0)
  assert t.shape == (4, 3) and (t > 0).all() and (t <= 1).all()
  np.testing.assert_allclose(np.diff(t, axis=0), 0.25, atol=1e-6)
  assert len(np.unique(t[0])) == 3  # Each example has its own u.


@pytest.mark.parametrize('process, options, match', [
  (dj.uniform_process(3), {}, 'such as masking_process .* got one without'),
  (PROCESS, {'num_times': 0}, 'num_times is 0: .* at least 1'),
  (PROCESS, {'num_steps': 0}, 'num_steps is 0: .* at least 1'),
])  # fmt: skip
def test_refusals(process, options, match):
  args = jax.random.key(0), denoise, process, LINEAR, jnp.zeros((1, 3), int)
  with pytest.raises(ValueError, match=match):
    dj.masked_bound(*args, **options)
