"""SDEdit, interpolation and repeats draw from their closed-form laws, each frame by its own key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from tests.jitted import at_step, level_at, level_grid
from tests.rows import normal, slow
from tests.sampling.moments import DDPM, GAUSSIAN
from tests.transcribed import transcribes

SCHEDULE = dj.DiscreteSchedule.from_alphas(np.linspace(0.999, 0.9, 50))


def test_each_frame_adds_noise_of_its_own_to_the_one_before(key):
  """z_j = sqrt(abar_j / abar_i) z_i + sqrt(1 - abar_j / abar_i) noise."""
  image = jnp.full((200, 200, 1), 0.5)
  steps = [0, 1, 10, 11, 50]
  z = np.asarray(jax.jit(lambda key: dj.noise_image(key, image, SCHEDULE, steps))(key))
  assert_array_equal(z[0], image)
  alphas = np.asarray(at_step(SCHEDULE, np.array(steps)).alpha, np.float64)
  error = 5 / image.size**0.5
  for a, b, ratio in zip(z[:-1], z[1:], alphas[1:] / alphas[:-1], strict=True):
    noise = (b - ratio * a) / np.sqrt(1 - ratio**2)
    assert abs(noise.mean()) < error
    assert_allclose(noise.std(), 1.0, rtol=error)
    assert abs(np.mean((a - a.mean()) * noise)) < error


def test_noise_of_a_step_that_adds_almost_none(key):
  """alpha_2 is 1 - 1e-8, which float32 rounds to 1: z_2 is z_1."""
  schedule = dj.DiscreteSchedule.from_alphas([0.5, 1.0 - 1e-8, 0.9])
  z = np.asarray(jax.jit(lambda key: dj.noise_image(key, jnp.ones(6), schedule, [1, 2, 3]))(key))
  assert np.isfinite(z).all()
  assert_allclose(z[1], z[0], atol=1e-3)


def test_other_frames_do_not_change_the_noise(key):
  image = np.linspace(-1, 1, 6, dtype=np.float32)
  few, many = (
    jax.jit(lambda x, steps=steps: dj.noise_image(key, x, SCHEDULE, steps))
    for steps in ([50], range(51))
  )
  assert_allclose(few(image)[0], many(image)[-1], rtol=1e-6)


def law_of_sdedit(sampler, guide, level):
  """Returns mean and covariance of edits of Gaussian data, in float64.

  In the axes of C, x_t ~ N(alpha guide, sigma^2). The ODE scales the distance
  from the mean by k = sqrt(v / (alpha^2 v + sigma^2)); the reverse SDE draws
  from p(x_0 | x_t), the regression of x_0 on x_t.
  """
  mean = np.array([0.5, -0.3])
  v, q = np.linalg.eigh(np.array([[1.0, 0.8], [0.8, 1.5]]))
  alpha, sigma = float(level.alpha), float(level.sigma)
  marginal = alpha**2 * v + sigma**2
  if sampler == 'ode':
    gain, rest = np.sqrt(v / marginal), 0.0
  else:
    gain, rest = alpha * v / marginal, v * sigma**2 / marginal
  mean = mean + q @ (gain * alpha * (q.T @ (guide - mean)))
  return mean, q @ np.diag(gain**2 * sigma**2 + rest) @ q.T


SAMPLERS = {'ode': (dj.heun(), 50), 'sde': (dj.ancestral('fixed_large'), 250)}
SLOW = [slow(*case) for case in [('ode', 0.2), ('ode', 0.6), ('sde', 0.6), ('sde', 1.0)]]


@transcribes('SDEdit (Meng et al. 2022)', 'Alg. 1, 2', '`sdedit`')
@pytest.mark.parametrize('name, strength', [('sde', 0.2), ('ode', 1.0), *SLOW])
def test_the_law_of_sdedit(name, strength, key):
  """20,000 edits of a guide; strength 1 gives the distribution of x_0."""
  guide = np.array([2.0, -1.5])
  sampler, num_steps = SAMPLERS[name]
  levels = level_grid(DDPM, num_steps)
  guides = np.repeat(np.float32(guide[None]), 20_000, axis=0)
  edit = lambda key: dj.sdedit(key, GAUSSIAN.denoise, sampler, levels, guides, strength)
  x = np.asarray(jax.jit(edit)(key))
  mean, cov = law_of_sdedit(name, guide, level_at(DDPM, strength))
  error = 5 * np.sqrt(np.diag(cov) / len(x))
  assert (np.abs(x.mean(0) - mean) < error + 0.02).all()
  assert_allclose(np.cov(x.T), cov, atol=0.06)
  if strength == 1.0:
    assert_allclose(mean, GAUSSIAN.mean, atol=0.02)
    assert_allclose(cov, GAUSSIAN.cov, atol=0.01)


@transcribes('SDEdit (Meng et al. 2022)', 'Alg. 1, 2')
def test_every_repeat_has_noise_of_its_own(key):
  """x_n = alpha x_(n-1) + sigma eps + z: from 0 the variances add up."""

  def step(key, x, state, denoise, *, level_s, level_t):
    return x + 0.5 * jax.random.normal(key, x.shape), state

  add_noise = dj.Sampler(lambda x: (), step)
  unused = lambda x, level: dj.Prediction(x)
  levels = level_at(DDPM, np.float32([0.3, 0.0]))
  n = 20_000
  edit = lambda x: dj.sdedit(key, unused, add_noise, levels, x, 1.0, repeats=3)
  x = np.asarray(jax.jit(edit)(np.zeros((n, 1), np.float32)))
  kept = float(levels.alpha[0]) ** 2
  each = float(levels.sigma[0]) ** 2 + 0.25
  variance = each * (1.0 + kept + kept**2)
  z = (np.mean(x**2) / variance - 1.0) * np.sqrt(n / 2)
  assert abs(z) < 4.5


def test_no_strength_is_no_change_and_known_pixels_stay(key):
  """The number of steps is rounded: 3.7 of 10 are 4."""
  guide = normal(3, 2)
  mask = np.array([[True, False]])

  @jax.jit
  def edits():
    levels = level_grid(DDPM, 10)
    edit = lambda *args, **options: dj.sdedit(
      key, GAUSSIAN.denoise, dj.ddim(), levels, guide, *args, **options
    )
    masked = edit(0.8, mask=mask, repeats=2)
    return edit(0.0), edit(0.37), edit(0.4), masked

  none, a, b, found = map(np.asarray, edits())
  assert_array_equal(none, guide)
  assert_allclose(a, b, rtol=1e-6)
  assert_array_equal(found[:, 0], guide[:, 0])
  assert (np.abs(found[:, 1] - guide[:, 1]) > 1e-3).all()


@transcribes('DDIM (Song et al. 2021)', 'section 5.3: interpolation', '`interpolate`')
def test_interpolation_of_white_data_is_slerp():
  """The ODE of N(0, I) is the identity; a and b have one length here."""
  white = oracles.gaussian(np.zeros(4), np.eye(4))
  a, b = np.random.default_rng(0).standard_normal((2, 3, 4))
  b *= (np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))[:, None]
  weights = np.array([0.0, 0.3, 1.0])

  @jax.jit
  def interpolate(a, b):
    levels = level_grid(DDPM, 500)
    return dj.interpolate(white.denoise, levels, a, b, weights)

  found = np.asarray(interpolate(*np.asarray([a, b], np.float32)))
  assert found.shape == (3, 3, 4)
  assert_allclose(found[0], a, atol=0.03)
  assert_allclose(found[2], b, atol=0.03)
  lengths = np.linalg.norm(found[1], axis=1)
  assert_allclose(lengths, np.linalg.norm(a, axis=1), rtol=0.01)
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  whole = np.arccos(np.sum(unit(a) * unit(b), axis=1))
  part = np.arccos(np.sum(unit(a) * unit(found[1]), axis=1))
  assert_allclose(part, 0.3 * whole, atol=0.01)


def test_slerp_of_parallel_images_is_a_line():
  a = np.array([[1.0, 2.0], [0.0, 0.0]], np.float32)
  slerp = jax.jit(dj.slerp)
  for b in (3.0 * a, 0.0 * a):
    found = slerp(a, b, 0.25)
    assert_allclose(found, 0.75 * a + 0.25 * b, rtol=1e-5)
