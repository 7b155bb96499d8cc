"""Losses of exact denoisers against closed forms and float64 NumPy."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.core import losses, parametrization
from diffusion_jax.data.sources import ArraySource
from diffusion_jax.testing import floors
from diffusion_jax.training.objectives import Context, denoising

RNG = np.random.default_rng(0)
MEAN, COV = (
  np.array([0.5, -0.3, 1.0]),
  np.array([[1.0, 0.8, 0.0], [0.8, 1.5, 0.02], [0, 0.02, 0.01]]),
)
FLOW, DDPM = dj.RectifiedFlowSchedule(), dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
# (kind, schedule, weight, times)
RUNS = [
  ('eps', DDPM, losses.snr_weight, losses.step_times(1000)),
  ('v', DDPM, losses.truncated_snr_weight, losses.step_times(1000)),
  ('x0', DDPM, losses.min_snr_weight(), losses.step_times(1000)),
  ('flow', FLOW, losses.min_flow_weight(), losses.uniform_times),
]


def network(kind='eps', **options) -> Any:
  never = lambda *args, **kwargs: pytest.fail('an exact denoiser calls the network')
  return dj.Network(never, lambda level: level.t, parametrization=kind, **options)


def level_of(schedule, times):
  return jax.jit(schedule)(jnp.asarray(times))


@pytest.mark.parametrize('kind, schedule, weight, times', RUNS)
def test_for_gaussian_data_the_linear_line_is_the_least_loss(kind, schedule, weight, times, key):
  """The mean of weight(t) tr Cov[x_0 | x_t] / D, by its closed form over t."""
  of = denoising(floors.exact(network(kind), 'linear'), schedule, times=times, weight=weight)
  known = floors.fit_moments(MEAN, COV, MEAN[None])

  @jax.jit
  def batches(keys, x):
    return jax.vmap(lambda k, x: of({'network': known}, Context(), k, {'x': x})[0])(keys, x)

  x = RNG.multivariate_normal(MEAN, COV, (200, 100)).astype(np.float32)
  found = np.asarray(batches(jax.random.split(key, 200), x), np.float64)
  at = np.arange(1, 1001) / 1000 if schedule is DDPM else (np.arange(20_000) + 0.5) / 20_000
  level = level_of(schedule, at)
  alpha, sigma = (np.asarray(a, np.float64)[:, None] for a in level[1:])
  v = np.linalg.eigvalsh(COV)
  left = (sigma**2 * v / (alpha**2 * v + sigma**2)).mean(axis=1)
  least = np.mean(np.asarray(weight(level), np.float64) * left)
  error = found.std(ddof=1) / np.sqrt(len(found))
  assert error < 0.03 * least  # small against a covariance that is wrong
  assert abs(found.mean() - least) < 4.5 * error


def literal(x, xt, alpha, sigma):
  """Returns sum_i w_i x_i in float64, example by example."""
  x0 = []
  for row, a, s in zip(xt.astype(np.float64), alpha, sigma, strict=True):
    log_w = -((row - a * x.astype(np.float64)) ** 2).sum(axis=1) / (2 * s**2)
    w = np.exp(log_w - log_w.max())
    x0.append((w / w.sum()) @ x)
  return np.array(x0)


@functools.partial(jax.jit, static_argnums=1)
def estimates(known, line, xt, level):
  return floors.estimate(known, line, xt, level)


def test_of_20_points_the_memorised_line_is_the_mean_given_x_t():
  """At levels from clean data to noise, of points far from the origin too."""
  x = (RNG.normal(size=(20, 2, 3)) + 3.0).astype(np.float32)
  level = level_of(DDPM, np.linspace(0.001, 1.0, 60))
  alpha, sigma = (np.asarray(a, np.float64) for a in level[1:])
  x0 = x[RNG.integers(20, size=60)]
  xt = (alpha[:, None, None] * x0 + sigma[:, None, None] * RNG.normal(size=x0.shape)).astype('f')
  found, eps = estimates(floors.fit(x), 'memorised', xt, level)
  right = literal(x.reshape(20, 6), xt.reshape(60, 6), alpha, sigma).reshape(xt.shape)
  assert_allclose(found, right, atol=2e-4)
  a, s = (q[:, None, None] for q in (alpha, sigma))
  assert_allclose(eps * s, xt - a * right, atol=2e-4)


def test_linear_is_the_regression_of_float64_numpy():
  """m + alpha C (alpha^2 C + sigma^2)^-1 (x_t - alpha m), at levels [] too."""
  x = (RNG.normal(size=(400, 3)) @ np.linalg.cholesky(COV).T + MEAN).astype(np.float32)
  m, c = x.mean(axis=0, dtype=np.float64), np.cov(x.T, bias=True)
  xt = RNG.normal(size=(5, 3)).astype(np.float32)
  for t in 0.01, 0.3, 1.0:
    level = level_of(DDPM, t)
    alpha, sigma = (float(a) for a in level[1:])
    gain = alpha * c @ np.linalg.inv(alpha**2 * c + sigma**2 * np.eye(3))
    right = m + (xt - alpha * m) @ gain.T
    assert_allclose(estimates(floors.fit(x), 'linear', xt, level)[0], right, atol=3e-5)


@pytest.mark.parametrize('kind', parametrization.KINDS)
def test_nothing_learnt_predicts_the_mean_of_the_target(kind):
  """Of eps it is 0, so that the loss is 1; a learned variance is the smaller one."""
  x = RNG.normal(2.0, 1.0, (50, 4)).astype(np.float32)
  level = level_of(DDPM, np.array([0.2, 0.9]))
  blind = floors.exact(network(kind, learned_variance=True), 'nothing_learnt')
  output = blind.output(floors.fit(x), jnp.ones((2, 4)), level)
  mean = jnp.broadcast_to(jnp.asarray(x.mean(axis=0))[None], (2, 4))
  right = dj.target(kind, mean, jnp.zeros((2, 4)), level)
  assert_allclose(output[:, :4], right, rtol=1e-4, atol=1e-5)
  assert_array_equal(output[:, 4:], -1.0)


@pytest.mark.parametrize('count, shift', [(3, 0.0), (2500, 0.0), (2500, 500.0)])
def test_moments_are_of_all_rows(count, shift):
  """Also of fewer rows than numbers, and far from 0; one number never changes."""
  x = (RNG.normal(size=(count, 5)) * [1, 2, 3, 4, 0] + shift).astype(np.float32)
  known = floors.fit(x)
  assert_allclose(known.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-6, atol=1e-6)
  q, v = (np.asarray(a, np.float64) for a in (known.eigenvectors, known.eigenvalues))
  assert_allclose((q * v) @ q.T, np.cov(x.T, bias=True), atol=2e-4)
  assert (v >= 0.0).all()


def test_a_source_gives_all_its_rows_and_some_examples():
  x = RNG.integers(0, 256, (2300, 2, 2, 1)).astype(np.uint8)
  known = floors.of_source(ArraySource(x), lambda x: x / 127.5 - 1.0, 100)
  assert known.examples.shape == (100, 4)
  assert_allclose(known.mean, (x / 127.5 - 1.0).mean(axis=0).ravel(), atol=1e-6)


def test_the_loss_of_constant_data_is_0_in_one_channel_or_row(key):
  """Each denoiser knows x_0, so that only 'nothing_learnt' keeps the noise."""
  x = np.full((1, 2, 2, 1), 0.25, np.float32)
  for line, least in {'nothing_learnt': 1.0, 'linear': 0.0, 'memorised': 0.0}.items():
    of = denoising(floors.exact(network(), line), DDPM, times=losses.step_times(1000))
    batch = {'x': jnp.broadcast_to(jnp.asarray(x), (4000, 2, 2, 1))}
    found, _ = jax.jit(of)({'network': floors.fit(x)}, Context(), key, batch)
    assert abs(found - least) < 4.5 * np.sqrt(2 / 16_000)
    assert found < 1e-6 or least


def test_above_4096_numbers_there_is_no_linear_line():
  known = floors.fit(np.zeros((2, floors.MOST_NUMBERS + 1), np.float32))
  assert known.lines == ('nothing_learnt', 'memorised')
  with pytest.raises(ValueError, match='linear needs a covariance'):
    floors.estimate(known, 'linear', jnp.zeros((1, 4097)), level_of(DDPM, [0.5]))
  with pytest.raises(ValueError, match='no training examples'):
    floors.fit(np.zeros((0, 3)))


def test_the_metric_of_a_learned_variance_is_without_it():
  names = ['loss', 'vlb', 'simple'], ['loss', 'error'], ['loss', 'loss_quarter_1']
  assert [floors.metric_of(x) for x in names] == ['simple', 'error', 'loss']
