"""Couplings of torchcfm between N(0, I) and a Gaussian, at t = 1/2.

Their laws at t have closed forms, of a Gaussian in the axes of the target's
covariance: the displacement interpolation, and the Schrödinger bridge (Bunne et
al. 2023, section 3). The number of steps is the size of a minibatch.
"""

from collections.abc import Callable

import numpy as np
import torch
import torchcfm

from benchmarks.peers.methods import Method, label
from diffusion_jax.testing import bench

T, SIGMA, DRAWS = 0.5, 1.0, 20_000


def law(cross: Callable, sigma: float) -> bench.Problem:
  """Returns the law of x_t.

  cross: the covariance of x_0 and x_1 of variance b along an axis, as a
  function of b; sigma: of the bridge, whose variance is sigma^2 t (1 - t).
  """
  target = bench.gaussian()
  b, axes = np.linalg.eigh(target.covariance)
  variance = (1 - T) ** 2 + T**2 * b + 2 * T * (1 - T) * cross(b) + sigma**2 * T * (1 - T)
  cov = (axes * variance) @ axes.T
  return bench.Problem(f't = {T}', np.ones(1), T * target.means, cov[None], target.shape)


def method(matcher) -> Callable:
  """Returns the draws of x_t, minibatch by minibatch."""

  def draw(problem, noise, num_steps, rng):
    np.random.seed(rng.integers(2**31))
    torch.manual_seed(rng.integers(2**31))
    x0 = torch.from_numpy(rng.normal(size=noise.shape))
    x1 = torch.from_numpy(bench.gaussian().draw(rng, len(noise)))
    batches = [
      matcher.sample_location_and_conditional_flow(*pair, torch.full((len(pair[0]),), T))[1]
      for pair in zip(x0.split(num_steps), x1.split(num_steps), strict=True)
    ]
    return torch.cat(batches).numpy()

  return draw


def independent(b):
  """Returns 0."""
  return 0.0 * b


def bridge(b):
  """Returns the covariance in the Schrödinger bridge's coupling."""
  return 0.5 * (np.sqrt(4.0 * b + SIGMA**4) - SIGMA**2)


def row(name: str, cross: Callable, sigma: float, why: str = '', **options) -> Method:
  """Returns the row of a matcher."""
  matcher = getattr(torchcfm, name)(sigma=sigma, **options)
  return Method(label(name, options), method(matcher), law(cross, sigma), why=why, draws=DRAWS)


EXACT = 'its default coupling is the one for sigma = 0, as its docstring says'
REPLACED = 'a plan is drawn with replacement, so draws repeat others'
BRIDGE = 'SchrodingerBridgeConditionalFlowMatcher'
METHODS = [
  row('ConditionalFlowMatcher', independent, 0.0),
  row('ExactOptimalTransportConditionalFlowMatcher', np.sqrt, 0.0, REPLACED),
  row(BRIDGE, bridge, SIGMA, EXACT),
  row(BRIDGE, bridge, SIGMA, ot_method='sinkhorn'),
]
