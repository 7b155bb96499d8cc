import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.core.parametrization import KINDS
from tests.jitted import jitted

SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
at_step = jax.jit(SCHEDULE.at_step)


@pytest.fixture
def data(rng):
  x0, eps = rng.standard_normal((2, 4, 6), np.float32)
  level = at_step(np.array([50, 300, 600, 900]))
  return x0, eps, jitted(dj.q_sample)(x0, eps, level), level


def test_six_way_cycle(data):
  """Each prediction is converted to the next; errors grow with 1 / alpha."""

  @jax.jit
  def error(x0, eps, xt, level):
    current = x0 + 0.1
    for kind in (*KINDS, 'x0'):
      eps_hat = dj.eps_from_x0(current, xt, level)
      current = dj.to_x0(kind, dj.target(kind, current, eps_hat, level), xt, level)
    return jnp.abs(current - x0 - 0.1) * level.expand_to(x0).alpha

  assert error(*data).max() < 3e-6


def test_the_rows_are_the_published_targets(data):
  *_, level = data
  x0, eps, _ = map(np.asarray, data[:3])
  alpha, sigma = (np.asarray(a)[:, None] for a in level[1:])
  expected = {
    'x0': x0,
    'eps': eps,
    'v': alpha * eps - sigma * x0,
    'score': -eps / sigma,
    'flow': eps - x0,
  }
  for kind, value in expected.items():
    found = jitted(dj.target)(kind, x0, eps, level)
    np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('kind', KINDS)
def test_error_scale_converts_errors(kind, data):

  @jax.jit
  def change_and_scale(x0, eps, xt, level):
    y, y_hat = (dj.target(kind, x, dj.eps_from_x0(x, xt, level), level) for x in (x0, x0 + 0.5))
    return y_hat - y, dj.error_scale(kind, level)

  change, scale = map(np.asarray, change_and_scale(*data))
  expected = np.broadcast_to(0.5 * scale[:, None], change.shape)
  np.testing.assert_allclose(change, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', ['x0', 'v', 'flow', 'edm'])
def test_no_signal_left_is_no_problem(kind, rng):
  x0, eps = rng.standard_normal((2, 3, 2), np.float32)
  level = dj.NoiseLevel(*(jnp.asarray(v) for v in (1.0, 0.0, 1.0)))
  y = jitted(dj.target)(kind, x0, eps, level)
  np.testing.assert_allclose(jitted(dj.to_x0)(kind, y, eps, level), x0, atol=1e-6)


def test_edm_has_unit_variance_targets_and_inputs(rng):
  """Karras et al. derive it from this, for x_0 with deviation sigma_data."""
  x0, eps = rng.standard_normal((2, 1, 200_000), np.float32)
  for sigma in (0.01, 0.5, 10.0):
    level = dj.NoiseLevel(*(jnp.asarray(v) for v in (0.5, 1.0, sigma)))
    y = jitted(dj.target)('edm', 0.3 * x0, eps, level, sigma_data=0.3)
    np.testing.assert_allclose(np.var(y), 1.0, rtol=0.02)


def test_score_is_the_gradient_of_the_gaussian_density(rng):
  """The gradient of log q(x_t | x_0) is -(x_t - alpha x_0) / sigma^2."""
  x0, eps = rng.standard_normal((2, 1, 3), np.float32)
  level = at_step(400)

  @jax.jit
  def scores(x0, eps):
    xt = dj.q_sample(x0, eps, level)
    p = dj.Normal(level.alpha * x0, level.sigma**2)
    log_q = lambda xt: jnp.sum(dj.log_prob(p, xt))
    return dj.score_from_x0(x0, xt, level), jax.grad(log_q)(xt)

  np.testing.assert_allclose(*scores(x0, eps), rtol=1e-4)
