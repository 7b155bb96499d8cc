"""Losses of exact denoisers against closed forms and float64 NumPy."""

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
  v, q = np.linalg.eigh(COV)
  known = floors.fit_moments(MEAN, v, q, 1000, MEAN[None])
  x = RNG.multivariate_normal(MEAN, COV, (200, 100)).astype(np.float32)
  check_least(kind, schedule, weight, times, known, x, v, key)


def check_least(kind, schedule, weight, times, known, x, v, key):
  """Compares the loss on batches x [N, B, ...] with that of variances v [D]."""
  of = denoising(floors.exact(network(kind)), schedule, times=times, weight=weight)

  @jax.jit
  def batches(known, keys, x):
    return jax.vmap(lambda k, x: of({'network': known}, Context(), k, {'x': x})[0])(keys, x)

  found = np.asarray(batches(known, jax.random.split(key, len(x)), x), np.float64)
  at = np.arange(1, 1001) / 1000 if schedule is DDPM else (np.arange(20_000) + 0.5) / 20_000
  level = level_of(schedule, at)
  alpha, sigma = (np.asarray(a, np.float64)[:, None] for a in level[1:])
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


@jax.jit
def estimates(known, xt, level):
  return floors.estimate(known, xt, level)


def test_of_20_points_the_memorised_line_is_the_mean_given_x_t():
  """At levels from clean data to noise, of points far from the origin too."""
  x = (RNG.normal(size=(20, 2, 3)) + 3.0).astype(np.float32)
  level = level_of(DDPM, np.linspace(0.001, 1.0, 60))
  alpha, sigma = (np.asarray(a, np.float64) for a in level[1:])
  x0 = x[RNG.integers(20, size=60)]
  xt = (alpha[:, None, None] * x0 + sigma[:, None, None] * RNG.normal(size=x0.shape)).astype('f')
  found, eps = estimates(floors.fit(x).of('memorised'), xt, level)
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
    assert_allclose(estimates(floors.fit(x), xt, level)[0], right, atol=3e-5)


@pytest.mark.parametrize('kind', parametrization.KINDS)
def test_nothing_learnt_predicts_the_mean_of_the_target(kind):
  """Of eps it is 0, so that the loss is 1; a learned variance is the smaller one."""
  x = RNG.normal(2.0, 1.0, (50, 4)).astype(np.float32)
  level = level_of(DDPM, np.array([0.2, 0.9]))
  blind = floors.exact(network(kind, learned_variance=True))
  output = blind.output(floors.fit(x).of('nothing_learnt'), jnp.ones((2, 4)), level)
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
  q, v = (np.asarray(a, np.float64) for a in (known.axes, known.variances))
  assert_allclose((q * v) @ q.T, np.cov(x.T, bias=True), atol=2e-4)
  assert (v >= 0.0).all()


def test_a_source_gives_all_its_rows_and_some_examples(monkeypatch):
  x = RNG.integers(0, 256, (2300, 2, 2, 1)).astype(np.uint8)
  known = floors.of_source(ArraySource(x), lambda x: x / 127.5 - 1.0, 100)
  assert known.examples.shape == (100, 4)
  assert_allclose(known.mean, (x / 127.5 - 1.0).mean(axis=0).ravel(), atol=1e-6)
  monkeypatch.setattr(floors, 'MOST_VALUES', 100)
  assert floors.of_source(ArraySource(x), lambda x: x / 127.5).examples.shape == (25, 4)


def test_the_loss_of_constant_data_is_0_in_one_channel_or_row(key):
  """Each denoiser knows x_0, so that only 'nothing_learnt' keeps the noise."""
  x = np.full((1, 2, 2, 1), 0.25, np.float32)
  of = denoising(floors.exact(network()), DDPM, times=losses.step_times(1000))
  loss = lambda known, x: of({'network': known}, Context(), key, {'x': x})[0]
  batch = jnp.broadcast_to(jnp.asarray(x), (4000, 2, 2, 1))
  row = np.zeros(4000, int)
  by_line = jax.jit(lambda known: floors.by_line(loss, known, batch, row))(floors.fit(x))
  assert by_line.keys() == floors.ROWS.keys()
  for line, found in by_line.items():
    least = float(line == 'nothing_learnt')
    assert abs(found - least) < 4.5 * np.sqrt(2 / 16_000)
    assert found < 1e-6 or least


def waves(count, shape=(4, 6, 2)):
  """Returns examples whose cosines along two axes are independent, and the variances."""
  variances = 1.0 / (1.0 + np.arange(np.prod(shape)).reshape(shape)) ** 1.5
  rows = RNG.normal(size=(count, *shape)) * np.sqrt(variances)
  mixed = np.linalg.qr([[1.0, 0.7], [-0.4, 1.0]])[0]
  for axis in 1, 2:
    n = shape[axis - 1]
    wave = np.cos(np.pi * np.outer(np.arange(n), np.arange(n) + 0.5) / n)
    wave /= np.linalg.norm(wave, axis=1)[:, None]
    rows = np.moveaxis(np.tensordot(rows, wave, (axis, 0)), -1, axis)
  return (rows @ mixed + 0.3).astype(np.float32), variances.ravel()


def test_above_4096_numbers_cosines_are_the_covariance_of_stationary_data(key, monkeypatch):
  """Their loss is the closed form's, and their denoiser that of all moments."""
  x, variances = waves(20_000)
  dense = floors.fit(x)
  monkeypatch.setattr(floors, 'MOST_NUMBERS', 47)
  known = floors.fit(x)
  assert known.variances.shape == (4, 6, 2) and known.axes.shape == (2, 2)
  assert_allclose(np.sort(np.ravel(known.variances)), np.sort(variances), rtol=0.06)
  level = level_of(DDPM, np.array([0.05, 0.3, 0.6, 1.0]))
  xt = RNG.normal(size=(4, 4, 6, 2)).astype(np.float32)
  found, right = (estimates(fitted, xt, level)[0] for fitted in (known, dense))
  assert_allclose(found, right, atol=0.05)
  held_out = waves(20_000)[0].reshape(200, 100, 4, 6, 2)
  check_least(*RUNS[0], known, held_out, variances, key)


def test_what_linear_could_have_known_is_said():
  """Of pictures of 64x64x3, of one long row of numbers, and of few examples."""
  x = RNG.normal(size=(30, 64, 64, 3)).astype(np.float32)
  known = floors.fit(x)
  assert known.limit == 'by the variances of the cosine transform of 12,288 numbers, of 30 examples'
  assert_allclose(known.variances.mean(), x.var(axis=0).mean(), rtol=1e-4)
  assert floors.fit(x.reshape(30, -1)).variances.shape == (12_288, 1)
  x = RNG.normal(size=(31, 3))
  assert floors.fit(x).limit == ''
  assert floors.fit(x[:29]).limit == '29 examples are few for the covariance of 3 numbers'
  with pytest.raises(ValueError, match='no training examples'):
    floors.fit(np.zeros((0, 3)))
  with pytest.raises(ValueError, match="line 'best' is not one of"):
    floors.fit(x).of('best')


def test_the_metric_of_a_learned_variance_is_without_it():
  names = ['loss', 'vlb', 'simple'], ['loss', 'error'], ['loss', 'loss_quarter_1']
  assert [floors.metric_of(x) for x in names] == ['simple', 'error', 'loss']
