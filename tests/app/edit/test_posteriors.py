"""Methods of posteriors against closed forms, and rewards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.app.config import trust
from diffusion_jax.app.edit import methods, posteriors
from diffusion_jax.app.kinds.choices import TABLES
from diffusion_jax.app.kinds.sampling import Plan
from diffusion_jax.testing import oracles
from tests.app.conftest import refused, smoke
from tests.app.edit.conftest import QUICK, edited
from tests.app.fields import within
from tests.rows import slow

SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
PRIOR = oracles.gaussian(np.array([0.3, -0.2]), np.array([[1.0, 0.5], [0.5, 1]]))
MATRIX, Y, STD = np.array([[0.6, 0.8]]), np.array([0.5]), 0.4


def batch_of(keys, schedule):
  """Returns a batch of an exact denoiser, 40 ancestral steps."""

  def step_function(cond, after_guidance=None, clip=True):
    return after_guidance(PRIOR.denoise) if after_guidance else PRIOR.denoise

  plan = Plan(
    schedule,
    dj.level_grid(schedule, 40),
    dj.ancestral(),
    step_function,
    lambda keys, level: dj.prior_sample(keys, (*keys.shape, 2), level),
    denoises=True,
  )
  return methods.Batch(plan, keys, {})


def draws(method, known, schedule, key):
  """Returns 1000 draws; the schedule is traced, as one that is learned."""
  draw = jax.jit(lambda keys, schedule: method.draw(batch_of(keys, schedule), known)['x'])
  return np.asarray(draw(jax.random.split(key, 1000), schedule), np.float64)


# The mean errors that the methods are known for, in standard deviations.
METHODS = {
  'moment': ({}, 0.1),
  'pseudoinverse': ({'iterations': 1}, 0.25),
  'steered': ({'particles': 8, 'iterations': 1}, 0.15),
  'decoupled': ({'iterations': 1}, 0.25),
  'decoupled by steps': ({'step_size': 0.1, 'langevin_steps': 10}, 0.25),
  'gibbs': ({'iterations': 1}, 0.15),
  'proximal': ({'iterations': 1}, 0.35),
  'dps': ({'step_size': 0.1}, 0.5),
  'red_diff': ({'rate': 0.05}, 0.5),
}
assert {name.split()[0] for name in METHODS} == {*TABLES['edit.posterior']}


# They are drawn by tests of their own in this file, or by the row of the same method.
# tests/posteriors/test_reconstruction.py has the exact posterior of the next two.
AS_OTHERS = 'steered', 'decoupled by steps', 'gibbs', 'proximal', 'pseudoinverse'


@pytest.mark.parametrize('name', [slow(x) if x in AS_OTHERS else x for x in METHODS])
def test_each_method_moves_towards_the_posterior(name, key):
  fields, most = METHODS[name]
  method = TABLES['edit.posterior'][name.split()[0]](**fields)
  forward = lambda x: x @ jnp.asarray(MATRIX.T, jnp.float32)
  y = jnp.broadcast_to(jnp.asarray(Y, jnp.float32), (1000, 1))
  x = draws(method, methods.Known(y, forward, STD), SCHEDULE, key)
  exact = PRIOR.posterior(MATRIX, Y, STD)
  error = np.linalg.norm(x.mean(axis=0) - exact.mean)
  assert error / np.sqrt(np.trace(exact.cov)) < most


def test_half_of_the_rounds_of_gibbs_have_falling_widths():
  widths = posteriors.widths_of(5, 4.0, 0.25)
  assert_allclose(widths, [4.0, 1.0, 0.25, 0.25, 0.25], rtol=1e-6)
  assert_allclose(posteriors.widths_of(1, 3.0, 3.0), [3.0])


def test_gibbs_reaches_the_noise_of_y_on_a_straight_path(key):
  """On a straight path sigma / alpha falls from infinity; the last width is the noise's."""
  method = posteriors.gibbs(iterations=1, rounds=20, inner_steps=10)
  known = methods.Known(jnp.full((1000, 2), 0.5), lambda x: x, 0.2)
  x = draws(method, known, dj.RectifiedFlowSchedule(), key)
  exact = PRIOR.posterior(np.eye(2), np.full(2, 0.5), 0.2)
  # The width adds its own 0.2 to the noise, and 1 would add 25 times as much.
  assert 0.7 < np.trace(np.cov(x.T)) / np.trace(exact.cov) < 2.5


@pytest.mark.parametrize('is_linear, spread', [(True, 25.0), (False, 1.0)])
def test_a_measurement_adds_the_variance_of_x0(is_linear, spread):
  """V = r^2 A A^T + s^2 if y = A x, and else r^2 + s^2."""
  level = dj.NoiseLevel(*(np.full(1, x, np.float32) for x in (0.5, 0.6, 0.8)))
  forward = lambda x: x @ np.array([[3.0], [4.0]], np.float32)
  known = methods.Known(np.ones((1, 1), np.float32), forward, STD, is_linear)
  twist = jax.jit(posteriors._twist(known, 1))(np.zeros((1, 2), np.float32), level)
  variance = 0.8**2 * spread + STD**2
  assert_allclose(twist, [-0.5 / variance], rtol=1e-4)


def test_the_variance_that_methods_take_is_compared_with_the_models(key):
  """The exact covariance, which is the same at all x_t, has this trace."""
  exact = np.array([[1.0, 0.5], [0.5, 1.0]])
  x0 = np.random.default_rng(0).multivariate_normal([0.3, -0.2], exact, 4000)
  share = jax.jit(lambda keys, x0: posteriors.whiteness(batch_of(keys, SCHEDULE), x0))
  cov = np.linalg.inv(np.linalg.inv(exact) + np.eye(2))  # where sigma = alpha
  found = np.asarray(share(jax.random.split(key, 4000), x0.astype(np.float32)), np.float64)
  # r^2 is a half, of each of two coordinates
  error = found.std() / np.sqrt(len(found))
  assert abs(found.mean() - np.trace(cov)) < 4.0 * error
  assert 0.8 < np.trace(cov) < 0.95 and error < 0.01


def steered(workdir, **fields):
  changes = within('edit', 'steer', output=fields['reward'].replace(':', '_'), **fields)
  return edited(smoke(**QUICK | changes), workdir)


def test_steering_has_more_reward(plain, tmp_path, monkeypatch, capsys):
  """A user's function wants a dark left; the brightness is a mean."""
  (tmp_path / 'rewards.py').write_text(
    'def left(x0, size=3.0):\n'
    '  return size * x0[:, :, :4].mean(axis=(1, 2, 3))\n'
    'def whole(x0):\n'
    '  return x0.mean()\n'
  )
  monkeypatch.chdir(tmp_path)
  trust.allow(['rewards:left', 'rewards:whole'])
  few = {'num_samples': 8, 'particles': 8, 'reward': 'rewards:left', 'reward.size': -15.0}
  found = steered(plain, **few)
  x = found['arr_0'] / 127.5 - 1.0
  left, right = (half.mean(axis=(1, 2, 3)) for half in np.split(x, 2, axis=2))
  assert left.mean() < right.mean() - 0.1
  assert_allclose(found['reward'], -15.0 * left, atol=0.2)
  assert np.isfinite(found['log_evidence']).all()
  config = smoke(**within('edit', 'steer', reward='brightness', reward__strength=4.0))
  assert_allclose(config.edit.reward.make({'x0': x}), 4.0 * x.mean(axis=(1, 2, 3)), rtol=1e-5)
  assert 'reward' in capsys.readouterr().out
  message = r'its result has the shape \[\], \[2\] is needed'
  refused(message, steered, plain, reward='rewards:whole')


@pytest.mark.parametrize(
  'found, part',
  [
    ({'residual': 1.2}, ''),
    ({'residual': 3.2}, 'try edit.posterior=decoupled, more posterior.iteration'),
    ({'residual': 0.2}, 'noise is too large'),
    ({'residual': 1.0, 'lowest_ess': 1.02}, 'log_evidence are reliable'),
    ({'reward': 3.0, 'lowest_ess': 4.0}, ''),
    ({'reward': 3.0, 'lowest_ess': 4.0, 'particles': 50}, 'take more particles, or'),
  ],
)
def test_a_warning_says_what_to_try(found, part):
  text = posteriors.warning(**found)
  assert part in text and bool(part) == bool(text)
