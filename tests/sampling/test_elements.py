"""Samples of a stationary AR(1) whose tokens have their own levels, by its exact denoiser.

x_t = A x_0 + S eps with diagonal A and S has E[x_0 | x_t] = C A (A C A + S S)^-1 x_t. It is
linear, so that a sampler of the ODE maps x_T to M x_T, and its samples have exactly the
covariance M M^T.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from tests.rows import slow
from tests.transcribed import transcribes

T = 6
PLACES = np.arange(T)
COVARIANCE = jnp.asarray(0.8 ** np.abs(PLACES[:, None] - PLACES), jnp.float32)
COSINE, FLOW = dj.CosineSchedule(), dj.RectifiedFlowSchedule()


def denoise(x, level):
  level = level.expand_to(x)
  alpha, sigma = (jnp.broadcast_to(a, x.shape) for a in (level.alpha, level.sigma))
  of_xt = alpha[:, :, None] * COVARIANCE[None] * alpha[:, None]
  of_xt += jnp.square(sigma)[:, :, None] * jnp.eye(T)[None]
  of_xt += 1e-6 * jnp.eye(T)[None]
  solved = jnp.linalg.solve(of_xt, x[..., None])
  return dj.Prediction((COVARIANCE[None] @ (alpha[..., None] * solved))[..., 0])


@transcribes(
  'Diffusion Forcing (Chen et al. 2024)',
  '3.3: a schedule of levels for each token, such as a pyramid',
  '`staggered`',
)
def test_a_pyramid_literally():
  """Its matrix of K levels for T tokens: token t begins at row d t, and waits at noise."""
  levels, delay = dj.level_grid(COSINE, 5), 2
  rows = [
    [levels.sigma[min(max(m - delay * t, 0), 5)] for t in range(T)]
    for m in range(5 + delay * 5 + 1)
  ]
  assert_array_equal(dj.staggered(levels, delay * PLACES).sigma[:, 0], rows)


def path(schedule, kind, steps):
  """Returns a grid of `steps` steps in all; tokens of `one by one` have steps / T each."""
  delay = {'together': 0, 'pyramid': steps // 15, 'one by one': steps // T}[kind]
  return dj.staggered(dj.level_grid(schedule, steps - (T - 1) * delay), PLACES * delay)


def covariance_error(sampler, schedule, kind, steps):
  """Returns the largest error of the covariance of samples, without an error of draws."""
  draw = jax.jit(lambda levels, x: dj.sample(jax.random.key(0), denoise, sampler, levels, x))
  mapped = np.asarray(draw(path(schedule, kind, steps), jnp.eye(T)), np.float64)
  return np.abs(mapped.T @ mapped - np.asarray(COVARIANCE)).max()


# Samplers of the ODE, a schedule, and bounds of the errors together, in a pyramid and one by one.
# On the cosine schedule the variance of one number by 40 steps of DPM-Solver++ is .035 too large.
ODE = {
  'ddim': (dj.ddim(), COSINE, (0.045, 0.07, 0.10)),
  'lms': (dj.lms(2), COSINE, (0.05, 0.05, 0.05)),
  'dpm_solver_pp': (dj.dpm_solver_pp(2), FLOW, (0.04, 0.04, 0.04)),
  'unipc': (dj.unipc(2), FLOW, (0.04, 0.04, 0.04)),
  'velocity_heun': (dj.velocity_heun(COSINE), COSINE, (0.04, 0.04, 0.04)),
  'heun': (dj.heun(), FLOW, (0.04, 0.04, 0.04)),
}
KINDS = 'together', 'pyramid', 'one by one'


# Each element of every sampler follows its own levels, in tests/laws/test_levels_of_any_shape.py.
OWN = 'ddim', 'lms', 'velocity_heun', 'heun'


@pytest.mark.parametrize('name', [slow(n) if n in OWN else n for n in ODE])
def test_samples_along_any_path_have_the_covariance_of_the_data(name):
  sampler, schedule, bounds = ODE[name]
  errors = [covariance_error(sampler, schedule, kind, 240) for kind in KINDS]
  assert all(error < bound for error, bound in zip(errors, bounds, strict=True)), errors


@pytest.mark.parametrize('name', ('velocity_heun', slow('dpm_solver_pp')))
def test_second_order_stays_second_order_one_token_after_another(name):
  sampler = {'velocity_heun': dj.velocity_heun(FLOW), 'dpm_solver_pp': dj.dpm_solver_pp(2)}[name]
  coarse, fine = (covariance_error(sampler, FLOW, 'one by one', n) for n in (120, 480))
  assert fine < coarse / 6, (coarse, fine)


def test_given_tokens_stay_and_others_have_their_conditional_law():
  """Given x_1 = a of N(0, C), the mean of the others is C_21 a / C_11."""
  a = 1.5
  x = jnp.zeros((1, T)).at[:, 0].set(a)
  levels = dj.staggered(dj.level_grid(COSINE, 200), [-np.inf, *[0] * (T - 1)])
  samples = dj.sample(jax.random.key(0), denoise, dj.dpm_solver_pp(2), levels, x)
  assert samples[0, 0] == a
  assert_allclose(samples[0], a * COVARIANCE[0], atol=0.01)


def test_a_grid_from_pure_noise_is_taken_outside_of_jit():
  """Its first level is looked at before the loop; states of solvers hold levels."""
  levels, x = dj.staggered(dj.level_grid(FLOW, 8), [0, 2, 4, 4, 4, 4]), jnp.ones((2, T))
  for sampler in (dj.dpm_solver_pp(3), dj.lms(4), dj.unipc(3)):
    assert np.isfinite(dj.sample(jax.random.key(0), denoise, sampler, levels, x)).all()
  with pytest.raises(ValueError, match='without signal eps does not determine'):
    of_eps = dj.Network(
      lambda params, x, noise, cond, *, key=None: x, dj.time_input(), level_axes=2
    )
    dj.sample(jax.random.key(0), of_eps.denoiser({}), dj.dpm_solver_pp(2), levels, x)


def test_tokens_held_at_noise_are_integrated_out():
  levels = dj.staggered(dj.level_grid(COSINE, 200), [0, 0, 0, *[np.inf] * (T - 3)])
  x = dj.prior_sample(jax.random.key(1), (4, T), levels.take(0))
  draw = functools.partial(dj.sample, jax.random.key(0), denoise, dj.dpm_solver_pp(2), levels)
  samples, others = draw(x), draw(x.at[:, 3:].set(9.0))
  assert_allclose(samples[:, :3], others[:, :3], atol=2e-3)
  assert (samples[:, 3:] == x[:, 3:]).all()


@pytest.mark.slow  # 10,000 draws of 240 steps
@pytest.mark.parametrize('kind, bound', [*zip(KINDS, (0.05, 0.10, 0.15), strict=True)])
def test_ancestral_samples_have_the_covariance_of_the_data(kind, bound):
  levels = path(COSINE, kind, 240)
  x = dj.prior_sample(jax.random.key(1), (10_000, T), levels.take(0))
  draw = jax.jit(functools.partial(dj.sample, jax.random.key(0), denoise, dj.ancestral()))
  assert np.abs(np.cov(draw(levels, x).T) - np.asarray(COVARIANCE)).max() < bound
