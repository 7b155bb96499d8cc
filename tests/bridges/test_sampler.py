"""Samplers of bridges carry Gaussians to Gaussians, both ways, to first order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.bridges.equations import (
  bridge_posterior,
  reversed_bridge,
)
from diffusion_jax.bridges.sampler import bridge_sampler
from diffusion_jax.core.keys import draw_normal
from tests.testing.test_bridges import COVS, MEANS, between, cubature
from tests.transcribed import transcribes

TIMES = dj.RectifiedFlowSchedule()


@functools.cache
def step(diffusion, way, stochastic):
  """Returns (x, t, s) -> x at time s, and the variance that a stochastic step adds."""
  predict = between(diffusion).predict
  predict = reversed_bridge(predict) if way else predict

  @jax.jit
  def run(x, t, s):
    if stochastic:
      return bridge_posterior(x, predict(x, t), t, s, diffusion)
    step = bridge_sampler(diffusion).step
    return step(None, x, (), predict, level_s=TIMES(s), level_t=TIMES(t))[0], 0.0

  return run


def carried(diffusion, num_steps, way, stochastic):
  """Returns mean and covariance after num_steps, of points with the moments.

  Steps are affine, so the moments are exact: a stochastic step adds its
  variance.
  """
  mean, cov = MEANS[1 - way], COVS[1 - way]
  times = np.linspace(1.0, 0.0, num_steps + 1)
  for t, s in zip(times, times[1:], strict=False):
    x, variance = map(np.asarray, step(diffusion, way, stochastic)(cubature(mean, cov), t, s))
    mean, cov = x.mean(axis=0), np.cov(x.T, bias=True) + np.ravel(variance)[0] * np.eye(2)
  return mean, cov


def errors(diffusion, steps, way, stochastic):
  """Returns the largest error of the covariance; the means are exact."""
  with jax.enable_x64(True):
    moments = [carried(diffusion, n, way, stochastic) for n in steps]
  for mean, _ in moments:
    assert_allclose(mean, MEANS[way], atol=1e-5)
  return [np.abs(cov - COVS[way]).max() for _, cov in moments]


@transcribes(
  '[SF]²M (Tong et al. 2023)',
  'sampling by the ODE and the diffusion',
  '`bridges.equations.bridge_ode_step`, `bridge_posterior`, `bridges.sampler.bridge_sampler`',
)
@pytest.mark.parametrize('way', [0, 1])
@pytest.mark.parametrize('stochastic', [False, True])
def test_both_ways_are_of_first_order(stochastic, way):
  coarse, fine = errors(0.7, (40, 80), way, stochastic)
  assert fine < 0.07
  assert_allclose(coarse / fine, 2.0, atol=0.3)


@pytest.mark.parametrize('way', [0, 1])
def test_one_step_of_optimal_transport_is_exact(way):
  assert max(errors(0.0, (1, 3), way, False)) < 1e-6


def test_the_diffusion_draws_from_its_posterior(key):
  b = between(0.7)
  sampler = bridge_sampler(0.7, stochastic=True)

  @jax.jit
  def run(x):
    found, _ = sampler.step(key, x, (), b.predict, level_s=TIMES(0.3), level_t=TIMES(0.6))
    mean, variance = bridge_posterior(x, b.predict(x, 0.6), 0.6, 0.3, 0.7)
    return found, mean + jnp.sqrt(variance) * draw_normal(key, x)

  assert_allclose(*run(np.ones((3, 2), np.float32)), rtol=1e-5)
