"""Losses of exact denoisers against closed forms and float64 NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import fft
from scipy.special import softmax

import diffusion_jax as dj
from diffusion_jax.app.kinds import choices
from diffusion_jax.core import losses, parametrization
from diffusion_jax.data.sources import ArraySource
from diffusion_jax.testing import floors
from diffusion_jax.training.objectives import Context, denoising
from tests.jitted import level_at
from tests.rows import slow

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
  return level_at(schedule, times)


def waves(count):
  """Returns examples whose cosines along two axes are independent, and the variances."""
  variances = 1.0 / (1.0 + np.arange(48).reshape(4, 6, 2)) ** 1.5
  x = fft.idctn(RNG.normal(size=(count, 4, 6, 2)) * variances**0.5, axes=(1, 2), norm='ortho')
  return (x @ np.array([[0.8, 0.6], [-0.6, 0.8]]) + 0.3).astype(np.float32), variances.ravel()


# 'v' has what 'eps' and 'x0' have, and its weight has tests of its own.
@pytest.mark.parametrize('kind, schedule, weight, times', [RUNS[0], slow(*RUNS[1]), *RUNS[2:]])
def test_for_gaussian_data_the_linear_line_is_the_least_loss(
  kind, schedule, weight, times, key, monkeypatch
):
  """The mean of weight(t) tr Cov[x_0 | x_t] / D, by its closed form over t; of eps by cosines."""
  if kind == 'eps':
    monkeypatch.setattr(floors, 'MOST_NUMBERS', 47)
    known, (x, v) = floors.fit(waves(20_000)[0]), waves(20_000)
    assert known.variances.shape == (1, 4, 6, 2)
  else:
    v, q = np.linalg.eigh(COV)
    mean, variances, axes = (jnp.asarray(a[None], 'f') for a in (MEAN, v, q))
    known = floors.fit(MEAN[None])._replace(mean=mean, variances=variances, axes=axes)
    x = RNG.multivariate_normal(MEAN, COV, 20_000).astype(np.float32)
  of = denoising(floors.exact(network(kind)), schedule, times=times, weight=weight)

  @jax.jit
  def batches(keys, x):
    return jax.vmap(lambda k, x: of({'network': known}, Context(), k, {'x': x})[0])(keys, x)

  x = x.reshape(200, 100, *x.shape[1:])
  found = np.asarray(batches(jax.random.split(key, 200), x), np.float64)
  at = np.arange(1, 1001) / 1000 if schedule is DDPM else (np.arange(20_000) + 0.5) / 20_000
  level = level_of(schedule, at)
  alpha, sigma = (np.asarray(a, np.float64)[:, None] for a in level[1:])
  left = (sigma**2 * v / (alpha**2 * v + sigma**2)).mean(axis=1)
  least = np.mean(np.asarray(weight(level), np.float64) * left)
  error = found.std(ddof=1) / np.sqrt(len(found))
  assert error < 0.03 * least  # small against a covariance that is wrong
  assert abs(found.mean() - least) < 4.5 * error


@jax.jit
def estimates(known, xt, level):
  return floors.estimate(known, xt, level)


def test_of_20_points_the_memorised_line_is_the_mean_given_x_t():
  """At levels from clean data to noise, of points far from the origin too."""
  x = (RNG.normal(size=(20, 2, 3)) + 3.0).astype(np.float32)
  level = level_of(DDPM, np.linspace(0.001, 1.0, 60))
  a, s = (np.asarray(q, np.float64)[:, None, None] for q in level[1:])
  x0 = x[RNG.integers(20, size=60)]
  xt = (a * x0 + s * RNG.normal(size=x0.shape)).astype('f')
  found, eps = estimates(floors.fit(x).of('memorised'), xt, level)
  apart = xt[:, None] - a[..., None] * x[None]
  w = softmax(-np.square(apart).sum(axis=(2, 3)) / (2 * s[..., 0] ** 2), axis=1)
  right = np.einsum('bn,nij->bij', w, x.astype(np.float64))
  assert_allclose(found, right, atol=2e-4)
  assert_allclose(eps * s, xt - a * right, atol=2e-4)


def test_linear_is_the_regression_of_float64_numpy(monkeypatch):
  """m + alpha C (alpha^2 C + sigma^2)^-1 (x_t - alpha m), at levels [] too; nearly, by cosines."""
  x = waves(20_000)[0]
  dense = floors.fit(x)
  monkeypatch.setattr(floors, 'MOST_NUMBERS', 47)
  cosines = floors.fit(x)
  rows, xt = x.reshape(-1, 48), RNG.normal(size=(5, 4, 6, 2)).astype(np.float32)
  m, c = rows.mean(axis=0, dtype=np.float64), np.cov(rows.T, bias=True)
  for t in 0.01, 0.3, 1.0:
    level = level_of(DDPM, t)
    alpha, sigma = (float(a) for a in level[1:])
    gain = alpha * c @ np.linalg.inv(alpha**2 * c + sigma**2 * np.eye(48))
    right = (m + (xt.reshape(5, 48) - alpha * m) @ gain.T).reshape(xt.shape)
    assert_allclose(estimates(dense, xt, level)[0], right, atol=5e-5)
    assert_allclose(estimates(cosines, xt, level)[0], right, atol=0.05)


@pytest.mark.parametrize('kind', parametrization.KINDS)
def test_nothing_learnt_predicts_the_mean_of_the_target(kind):
  """The mean of eps is 0, so the loss is 1; a learned variance is at its lower end."""
  x = RNG.normal(2.0, 1.0, (50, 4)).astype(np.float32)
  level = level_of(DDPM, np.array([0.2, 0.9]))
  blind = floors.exact(network(kind, learned_variance=True))

  @jax.jit
  def run(known, mean):
    zeros = jnp.zeros((2, 4))
    return blind.output(known, zeros + 1.0, level), dj.target(kind, mean, zeros, level)

  mean = np.tile(x.mean(axis=0), (2, 1))
  output, right = run(floors.fit(x).of('nothing_learnt'), mean)
  assert_allclose(output[:, :4], right, rtol=1e-4, atol=1e-5)
  assert_array_equal(output[:, 4:], -1.0)


@pytest.mark.parametrize('count, shift', [(3, 0.0), (2500, 0.0), (2500, 500.0)])
def test_moments_are_of_all_rows(count, shift):
  """Moments are right for fewer rows than numbers, far from 0, and for a constant number."""
  x = (RNG.normal(size=(count, 5)) * [1, 2, 3, 4, 0] + shift).astype(np.float32)
  nothing = np.zeros(0, np.int32), np.zeros((count, 0))
  n, mean, covariance = floors.moments([(part, *nothing) for part in np.array_split(x, 2)], x[0])
  mean, _, v, q = floors.given_context(mean, covariance, 5)
  assert n == count
  assert_allclose(mean[0], x.mean(axis=0, dtype=np.float64), rtol=1e-6, atol=1e-6)
  assert_allclose((q[0] * v[0]) @ q[0].T, np.cov(x.T, bias=True), atol=2e-4)
  assert (v >= 0.0).all()


def test_a_source_gives_all_its_rows_and_some_examples(monkeypatch):
  x = RNG.integers(0, 256, (2300, 2, 2, 1)).astype(np.uint8)
  source = ArraySource(x)
  known = floors.of_source(source, source.facts, most=100)
  assert known.examples.shape == (100, 4)
  assert_allclose(known.mean[0], (x / 127.5 - 1.0).mean(axis=0).ravel(), atol=1e-6)
  monkeypatch.setattr(floors, 'MOST_VALUES', 100)
  assert floors.of_source(source, source.facts).examples.shape == (25, 4)


def test_the_loss_of_constant_data_is_0_in_one_channel_or_row(key):
  """Each denoiser knows x_0, so that only 'nothing_learnt' keeps the noise."""
  x = np.full((1, 2, 2, 1), 0.25, np.float32)
  of = denoising(floors.exact(network()), DDPM, times=losses.step_times(1000))
  loss = lambda known, x: of({'network': known}, Context(), key, {'x': x})[0]
  batch = np.tile(x, (4000, 1, 1, 1))
  by_line = jax.jit(lambda known: floors.by_line(lambda fitted: loss(fitted, batch), known))
  by_line = by_line(floors.fit(x))
  assert by_line.keys() == {*floors.LINES}
  for line, found in by_line.items():
    least = float(line == 'nothing_learnt')
    assert abs(found - least) < 4.5 * np.sqrt(2 / 16_000)
    assert found < 1e-6 or least


def test_what_linear_could_have_known_is_said():
  """The line says by what 'linear' knows large pictures, long rows and few examples."""
  x = RNG.normal(size=(30, 64, 64, 3)).astype(np.float32)
  known, flat = floors.fit(x), floors.fit(x.reshape(30, -1))
  assert_allclose(known.variances.mean(), x.var(axis=0).mean(), rtol=1e-4)
  assert flat.variances.shape == (1, 12_288, 1)
  text = 'by the cosine transform of 12,288 numbers, of only 30 examples'
  assert known.limit == flat.limit == text
  assert known._replace(count=100).limit == text.replace('only 30', '100')
  assert floors.fit(x[:, 0, 0]).limit == ''
  assert floors.fit(x[1:, 0, 0]).limit == 'by the covariance of 3 numbers, of only 29 examples'
  with pytest.raises(ValueError, match='no training examples'):
    floors.fit(x[:0])
  with pytest.raises(ValueError, match="line 'best' is not one of"):
    known.of('best')


def test_the_metric_of_a_learned_variance_is_without_it():
  names = ['loss', 'vlb', 'simple'], ['loss', 'error'], ['loss', 'loss_quarter_1']
  assert [floors.metric_of(x) for x in names] == ['simple', 'error', 'loss']


# (schedule, its alpha and sigma in float64, weights of which the mean over t in (0, 1] is infinite)
PATHS = {
  'flow': (FLOW, lambda t: (1 - t, t), 'snr truncated_snr v edm flow'),
  'cosine': (
    dj.CosineSchedule(-60.0, 60.0),
    lambda t: (np.cos(np.pi / 2 * t), np.sin(np.pi / 2 * t)),
    'snr truncated_snr v edm flow',
  ),
  # sigma^2 = 0.1 t + ...: the mean grows as log(1 / t)
  'linear_vp': (
    dj.LinearVPSchedule(),
    lambda t: (a := np.exp(-0.25 * 19.9 * t**2 - 0.05 * t), np.sqrt(-np.expm1(2 * np.log(a)))),
    'snr truncated_snr v edm flow',
  ),
  'karras': (dj.KarrasSchedule(), lambda t: (1.0, karras_sigma(t)), ''),
}
WEIGHTS = {
  'snr': (losses.snr_weight, lambda a, s: a**2 / s**2),
  'truncated_snr': (losses.truncated_snr_weight, lambda a, s: np.maximum(a**2 / s**2, 1.0)),
  'min_snr': (losses.min_snr_weight(5.0), lambda a, s: np.minimum(a**2 / s**2, 5.0)),
  'v': (losses.v_weight, lambda a, s: ((a**2 + s**2) / s) ** 2),
  'edm': (losses.edm_weight(0.5), lambda a, s: a**2 / s**2 + 4.0),
  'flow': (losses.flow_weight, lambda a, s: (1 + a / s) ** 2),
  'min_flow': (losses.min_flow_weight(400.0), lambda a, s: np.minimum((1 + a / s) ** 2, 400.0)),
}
assert {*WEIGHTS} == {*choices.WEIGHTS}


def karras_sigma(t):
  ends = 0.002 ** (1 / 7), 80.0 ** (1 / 7)
  return (ends[0] + t * (ends[1] - ends[0])) ** 7


@pytest.mark.parametrize('path', PATHS)
def test_the_lines_of_infinite_mean_are_those_whose_integral_grows(path):
  """The integral of the weight over t in (10^-2n, 1], in float64: each part of two decades."""
  schedule, levels, infinite = PATHS[path]
  for name, (weight, literal) in WEIGHTS.items():
    parts = []
    for n in range(1, 5):
      t = np.logspace(-2 * n - 2, -2 * n, 20_001)
      parts.append(np.trapezoid(literal(*levels(t)) * t, np.log(t)))
    grows = bool(parts[-1] > 0.9 * parts[0])
    assert grows == (name in infinite.split())
    found = floors.infinite_lines(weight, schedule, 'v')
    assert found == ('memorised',) * grows, name
    assert (
      floors.infinite_lines(weight, schedule, 'x0') == ('nothing_learnt', 'memorised')[: 2 * grows]
    )


def test_a_held_out_loss_by_heart_has_no_mean_and_that_of_others_has():
  """The point 1 and a training set {-1, 0} have weight(t) (1 - 0)^2, at ever smaller t."""
  fitted, kinds = floors.fit(np.array([[-1.0], [0.0]])), ('x0', 'flow')

  @jax.jit
  def at(t):
    level = FLOW(jnp.full(1, t))
    x0, eps = jnp.ones((1, 1)), jnp.full((1, 1), 0.3)
    xt = level.expand_to(x0).alpha * x0 + level.expand_to(x0).sigma * eps

    def of(kind, line):
      exact = floors.exact(network(kind))
      output = exact.output(fitted.of(line), xt, level)
      return exact.denoising_loss(output, x0, eps, level, losses.flow_weight)[0]

    return {kind: {line: of(kind, line) for line in floors.LINES} for kind in kinds}

  near, far = at(1e-3), at(1e-1)
  for kind in kinds:
    grows = {line for line in floors.LINES if near[kind][line] > 1e3 * far[kind][line]}
    right = floors.infinite_lines(losses.flow_weight, FLOW, kind)
    assert grows == {*right}
