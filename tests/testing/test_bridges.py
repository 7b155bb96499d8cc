"""The Schrodinger bridge of two Gaussians, by its optimality and its marginals."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp

from diffusion_jax.bridges.equations import (
  bridge_score,
  bridge_velocity,
)
from diffusion_jax.testing import oracles
from diffusion_jax.testing.bridges import schrodinger_bridge
from tests.transcribed import transcribes

MEANS = np.array([[0.5, -1.0], [2.0, 1.0]])
COVS = np.array([[[1.0, 0.4], [0.4, 0.5]], [[0.6, -0.5], [-0.5, 1.5]]])


def between(diffusion):
  """Returns the bridge from N(MEANS[1], COVS[1]) to N(MEANS[0], COVS[0])."""
  data, source = map(oracles.gaussian, MEANS, COVS)
  return schrodinger_bridge(data, source, diffusion)


def cubature(mean, cov):
  """Returns 2D points with this mean and covariance, [2D, D]."""
  columns = np.sqrt(len(mean)) * np.linalg.cholesky(cov).T
  return mean + np.concatenate([columns, -columns])


@transcribes(
  'Schrödinger bridge of Gaussians (Bunne et al. 2023)',
  'covariances of the pairs and of x_t',
  '`testing.bridges.schrodinger_bridge`',
)
@pytest.mark.parametrize('diffusion', [0.3, 1.0, 3.0])
def test_the_pairs_are_the_entropic_plan(diffusion):
  """The density of the entropic plan is f(x_0) g(y) exp(x_0 y / diffusion^2)."""
  b = between(diffusion)
  joint = np.block([[b.data_cov, b.cross], [b.cross.T, b.source_cov]])
  precision = np.linalg.inv(joint)
  assert_allclose(precision[:2, 2:], -np.eye(2) / diffusion**2, atol=1e-5)


def test_without_diffusion_the_pairs_are_the_optimal_transport():
  """The map y(x_0) is the gradient of a convex function."""
  b = between(0.0)
  slope = np.linalg.solve(b.data_cov, b.cross).T
  assert_allclose(slope, slope.T, atol=1e-6)
  assert np.linalg.eigvalsh(slope).min() > 0.0
  assert_allclose(slope @ b.data_cov @ slope, b.source_cov, atol=1e-6)


def drift(b, t, direction):
  """Returns the matrix of u + direction diffusion^2 s / 2, linear in x."""
  x = np.asarray(b.mean(t)) + np.concatenate([np.zeros((1, 2)), np.eye(2)])
  prediction = b.predict(x, t)
  values = bridge_velocity(prediction, t, b.diffusion)
  values += direction * b.diffusion**2 / 2 * bridge_score(prediction, t, b.diffusion)
  return np.asarray(values[1:] - values[:1]).T


@transcribes(
  'Schrödinger bridge of Gaussians (Bunne et al. 2023)',
  'covariances of the pairs and of x_t',
)
@pytest.mark.parametrize('direction', [-1.0, 0.0, 1.0])
def test_ode_and_diffusions_keep_the_marginals(direction):
  """dCov/dt = A Cov + Cov A' + direction diffusion^2, by central differences."""
  b, t, h = between(0.7), 0.3, 1e-4
  with jax.enable_x64(True):
    cov, slope = np.asarray(b.cov(t)), np.asarray(b.cov(t + h) - b.cov(t - h)) / (2 * h)
    matrix = drift(b, t, direction)
    found = matrix @ cov + cov @ matrix.T + direction * b.diffusion**2 * np.eye(2)
    assert_allclose(found, slope, atol=1e-7)
  ends = [b.cov(0.0), b.cov(1.0)]
  assert_allclose(ends, COVS, atol=1e-6)


@transcribes(
  'Schrödinger bridge of Gaussians (Bunne et al. 2023)',
  'covariances of the pairs and of x_t',
)
def test_the_diffusion_makes_the_pairs():
  """The process of the bridges is Markov only for the entropic plan."""
  b = between(0.7)
  with jax.enable_x64(True):
    field = lambda t, cross: (cross.reshape(2, 2) @ drift(b, t, 1.0).T).ravel()
    ends = 1e-6, 1 - 1e-6
    solution = solve_ivp(field, ends, COVS[0].ravel(), rtol=1e-8, atol=1e-8)
  assert_allclose(solution.y[:, -1].reshape(2, 2), b.cross, atol=1e-5)
