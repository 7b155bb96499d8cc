"""Discretisations of the reverse SDE against steps written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj

BETAS = np.array([0.01, 0.4, 0.05, 0.3, 0.02])  # Neighbours differ much.
SCHEDULE = dj.DiscreteSchedule.from_betas(BETAS)


@pytest.mark.parametrize('i', [2, 3, 4, 5])
def test_euler_maruyama_undoes_beta_i(i, key):
  """x_{i-1} = x (1 + b / 2) + b score + sqrt(b) z, b = -log(1 - beta_i)."""
  x, x0 = jnp.array([[0.3, -1.2]]), jnp.array([[0.5, 0.1]])
  levels = SCHEDULE.at_step(np.array([i, i - 1]))
  found, _ = dj.euler_maruyama(SCHEDULE).step(
    key,
    x,
    (),
    lambda x, level: dj.Prediction(x0),
    level_s=levels.take(1),
    level_t=levels.take(0),
  )
  alpha_bar = np.cumprod(1 - BETAS)[i - 1]
  score = (np.sqrt(alpha_bar) * np.float64(x0) - x) / (1 - alpha_bar)
  b = -np.log(1 - BETAS[i - 1])
  z = np.float64(jax.random.normal(key, x.shape))
  expected = x * (1 + b / 2) + b * score + np.sqrt(b) * z
  np.testing.assert_allclose(found, expected, rtol=1e-5)


FLOW = dj.RectifiedFlowSchedule()


@pytest.mark.parametrize(
  'diffusion, w',
  [('constant', 1.0), ('sigma', 0.7), ('sde', 2 * 0.7 / (1 - 0.7))],
)
def test_the_step_of_sit_literally(diffusion, w, key):
  """In SiT's time s = 1 - t the drift is u + w score / 2.

  On the straight path g^2 is 2 t / (1 - t).
  """
  x, x0 = jnp.array([[0.3, -1.2]]), jnp.array([[0.5, 0.1]])
  found, _ = dj.velocity_sde(FLOW, diffusion, 0.5).step(
    key,
    x,
    (),
    lambda x, level: dj.Prediction(x0),
    level_s=FLOW(0.6),
    level_t=FLOW(0.7),
  )
  data, noisy = np.float64(x0), np.float64(x)
  noise = (noisy - 0.3 * data) / 0.7
  u, score = data - noise, -noise / 0.7
  mean = noisy + 0.1 * (u + 0.25 * w * score)
  z = np.float64(jax.random.normal(key, x.shape))
  expected = mean + np.sqrt(0.5 * w * 0.1) * z
  np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_the_own_diffusion_of_a_schedule_is_euler_maruyama(key):
  schedule, x = dj.LinearVPSchedule(), jnp.array([[0.3, -1.2]])
  ends = {'level_s': schedule(0.35), 'level_t': schedule(0.4)}

  def denoise(x, level):
    return dj.Prediction(jnp.tanh(x))

  found, expected = (
    sampler.step(key, x, (), denoise, **ends)[0]
    for sampler in (
      dj.velocity_sde(schedule, 'sde'),
      dj.euler_maruyama(schedule),
    )
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def variance_at_the_end(sampler, w, num_steps, data_variance=0.4):
  """Returns the variance of samples of Gaussian data without Monte Carlo.

  A step is x -> a x + sqrt(w dt) z, and a is the difference of two calls.
  """
  levels = dj.level_grid(FLOW, num_steps)
  key, ends = jax.random.key(0), jnp.array([[0.0], [1.0]])

  def denoise(x, level):
    t = level.expand_to(x)
    total = t.alpha**2 * data_variance + t.sigma**2
    return dj.Prediction(t.alpha * data_variance / total * x)

  def body(variance, pair):
    s, t = pair
    keys = jnp.stack([key, key])  # The same noise cancels.
    x, _ = sampler.step(keys, ends, (), denoise, level_s=s, level_t=t)
    added = jnp.where(s.sigma > 0, w(t.sigma) * (t.t - s.t), 0.0)
    return (x[1, 0] - x[0, 0]) ** 2 * variance + added, None

  pairs = levels.take(slice(1, None)), levels.take(slice(None, -1))
  return jax.lax.scan(body, jnp.ones(()), pairs)[0]


@pytest.mark.parametrize(
  'diffusion, scale, w',
  [
    ('sigma', 2.0, lambda sigma: 2.0 * sigma),
    ('constant', 0.5, lambda sigma: 0.5),
    ('constant', 0.0, lambda sigma: 0.0),
  ],
)
def test_every_diffusion_has_the_marginals_to_first_order(diffusion, scale, w):
  with jax.enable_x64(True):
    sampler = dj.velocity_sde(FLOW, diffusion, scale)
    run = jax.jit(variance_at_the_end, static_argnums=(0, 1, 2))
    errors = [float(run(sampler, w, n)) - 0.4 for n in (200, 400, 800)]
  errors = np.abs(errors)
  assert errors[-1] < 4e-3
  np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), 1.0, atol=0.15)


def test_other_diffusions_are_refused():
  with pytest.raises(ValueError, match="'linear' is not one of constant, sig"):
    dj.velocity_sde(FLOW, 'linear')
  with pytest.raises(ValueError, match='scale is -1: it cannot be negative'):
    dj.velocity_sde(FLOW, 'sigma', -1.0)
