"""Bridges literally, at their ends, and their regression on Gaussians."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.bridges import equations as bridges
from diffusion_jax.bridges.equations import BridgePrediction
from diffusion_jax.testing.bridges import GaussianBridge
from tests.jitted import jitted
from tests.testing.test_bridges import COVS, MEANS, cubature
from tests.transcribed import transcribes


@pytest.fixture
def draws():
  rng = np.random.default_rng(0)
  return [rng.normal(size=(5, 2, 3)) for _ in range(3)]


@transcribes(
  '[SF]²M (Tong et al. 2023)',
  'samples, velocity and score of a Brownian bridge',
  '`bridges.equations.bridge_sample`, `bridge_velocity`, `bridge_score`',
)
def test_samples_velocity_and_score_literally(draws):
  """Tong et al. 2023: N((1 - t) x_0 + t y, diffusion^2 t (1 - t))."""
  x0, y, z = draws
  t, diffusion = np.array([0.01, 0.3, 0.5, 0.8, 0.99]), 0.7
  share = t[:, None, None]
  xt = (1 - share) * x0 + share * y + diffusion * np.sqrt(share * (1 - share)) * z
  slope = (1 - 2 * share) / (2 * share * (1 - share))
  velocity = slope * (xt - (1 - share) * x0 - share * y) + y - x0
  score = -(xt - (1 - share) * x0 - share * y) / (diffusion**2 * share * (1 - share))

  pair = BridgePrediction(*(np.float32(a) for a in (y - x0, z)))
  x0, y, z = (np.float32(a) for a in draws)
  found = (
    jitted(bridges.bridge_sample)(x0, y, z, t, diffusion),
    jitted(bridges.bridge_velocity)(pair, t, diffusion),
    jitted(bridges.bridge_score)(pair, t, diffusion),
  )
  for array, expected in zip(found, (xt, velocity, score), strict=True):
    assert_allclose(array, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('diffusion', [0.0, 0.7])
def test_a_path_of_one_pair_ends_at_its_points(draws, diffusion):
  """A step along the path is exact, also from and to an end."""
  x0, y, z = (np.float32(a) for a in draws)
  pair = BridgePrediction(y - x0, z)
  at = lambda t: jitted(bridges.bridge_sample)(x0, y, z, t, diffusion)
  assert_array_equal(at(0.0), x0)
  assert_array_equal(at(1.0), y)
  for t, s in [(1.0, 0.4), (0.4, 0.0), (1.0, 0.0), (0.0, 0.7)]:
    found = jitted(bridges.bridge_ode_step)(at(t), pair, t, s, diffusion)
    assert_allclose(found, at(s), atol=1e-6)
  assert bridges.bridge_width(np.float32(1.0 + 1e-6), diffusion) == 0.0
  for t in (1.0, 0.4):
    mean, variance = jitted(bridges.bridge_posterior)(at(t), pair, t, 0.0, diffusion)
    assert_allclose(mean, x0, atol=1e-6)
    assert not np.any(variance)


def test_the_diffusion_steps_by_its_drift(draws):
  """The mean moves by the drift at t, and small steps have its variance."""
  x, displacement, z = draws
  t, s, diffusion = 0.6, 0.599, 0.7
  with jax.enable_x64(True):
    pair = BridgePrediction(displacement, z)
    drift = jitted(bridges.bridge_velocity)(pair, t, diffusion)
    drift -= diffusion**2 / 2 * jitted(bridges.bridge_score)(pair, t, diffusion)
    mean, variance = jitted(bridges.bridge_posterior)(x, pair, t, s, diffusion)
    assert_allclose(mean, x + (s - t) * drift, rtol=1e-9)
    assert_allclose(variance, diffusion**2 * (t - s), rtol=2e-3)


@transcribes(
  '[SF]²M (Tong et al. 2023)',
  'its loss, in finite targets',
  '`bridges.equations.bridge_error`, `bridges.objective.bridge`',
)
@pytest.mark.parametrize('coupled', [False, True])
def test_the_best_prediction_is_the_regression_of_the_pairs(coupled):
  """The regression is exact on points with the moments of (x_0, y, z)."""
  cross = coupled * np.array([[0.3, 0.2], [-0.1, 0.4]])
  bridge = GaussianBridge(MEANS[0], COVS[0], MEANS[1], COVS[1], cross, 0.7)
  zero, one = np.zeros((2, 2)), np.eye(2)
  cov = np.block([[COVS[0], cross, zero], [cross.T, COVS[1], zero], [zero, zero, one]])
  points = cubature(np.concatenate([*MEANS, np.zeros(2)]), cov)
  x0, y, z = np.split(points, 3, axis=1)
  with jax.enable_x64(True):
    xt = jitted(bridges.bridge_sample)(x0, y, z, 0.3, 0.7)
    design = np.column_stack([xt, np.ones(len(xt))])
    fitted = [design @ np.linalg.lstsq(design, a)[0] for a in (y - x0, z)]
    prediction = bridge.predict(xt, 0.3)
    for found, expected in zip(prediction, fitted, strict=True):
      assert_allclose(found, expected, atol=1e-12)
    residual = [np.mean((a - b) ** 2) for a, b in zip(fitted, (y - x0, z), strict=True)]
    error = np.mean(jitted(bridges.bridge_error)(prediction, x0, y, z))
    assert_allclose(error, sum(residual), rtol=1e-12)
