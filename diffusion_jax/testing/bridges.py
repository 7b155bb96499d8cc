"""Bridges between Gaussians, whose quantities have closed forms.

To test a sampler of bridges, run it with `bridge.predict` instead of a network
and compare its samples with the two Gaussians.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.bridges.equations import (
  BridgePrediction,
  bridge_width,
)
from diffusion_jax.testing.oracles import Mixture, check_gaussian, moments

Array = jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianBridge:
  """A bridge whose pairs (x_0, y) are Gaussian, on R^D.

  data_mean, source_mean: [D]; data_cov, source_cov: [D, D]; cross: Cov[x_0, y],
  [D, D], 0 for independent pairs; all in float64.
  """

  data_mean: np.ndarray
  data_cov: np.ndarray
  source_mean: np.ndarray
  source_cov: np.ndarray
  cross: np.ndarray
  diffusion: float

  def mean(self, t: Array | float) -> Array | np.ndarray:
    """Computes E[x_t], [D], at a time []."""
    return (1.0 - t) * self.data_mean + t * self.source_mean

  def cov(self, t: Array | float) -> Array | np.ndarray:
    """Computes Cov[x_t], [D, D], at a time []."""
    between = self.cross + self.cross.T + self.diffusion**2 * np.eye(len(self.cross))
    ends = (1.0 - t) ** 2 * self.data_cov + t**2 * self.source_cov
    return ends + t * (1.0 - t) * between

  def predict(self, xt: Array, t: Array | float) -> BridgePrediction:
    """Computes the expectations given x_t [B, D], at a time []."""
    # Cov[y - x_0, x_t]
    across = (1.0 - t) * (self.cross.T - self.data_cov) + t * (self.source_cov - self.cross)
    residual = jnp.linalg.solve(self.cov(t), (xt - self.mean(t)[None]).T)
    change = jnp.matmul(across, residual, precision='highest').T
    displacement = change + (self.source_mean - self.data_mean)[None]
    return BridgePrediction(displacement, bridge_width(t, self.diffusion) * residual.T)


def schrodinger_bridge(data: Mixture, source: Mixture, diffusion: float) -> GaussianBridge:
  """Returns the Schrodinger bridge of two Gaussians (Bunne et al. 2023).

  Its pairs are the entropic plan for |x_0 - y|^2 and epsilon = 2 diffusion^2,
  the optimal transport for diffusion = 0. Raises ValueError for mixtures of
  more Gaussians.
  """
  for oracle in (data, source):
    check_gaussian(oracle, 'schrodinger_bridge')
  (data_mean, data_cov), (source_mean, source_cov) = (
    (means[0], covs[0]) for _, means, covs in map(moments, (data, source))
  )
  root, identity = _root(data_cov), np.eye(len(data_cov))
  joint = _root(4.0 * root @ source_cov @ root + diffusion**4 * identity)
  cross = 0.5 * (root @ joint @ np.linalg.inv(root) - diffusion**2 * identity)
  return GaussianBridge(data_mean, data_cov, source_mean, source_cov, cross, diffusion)


def _root(matrix):
  # The symmetric root of a symmetric matrix.
  values, vectors = np.linalg.eigh(matrix)
  return (vectors * np.sqrt(values)) @ vectors.T
