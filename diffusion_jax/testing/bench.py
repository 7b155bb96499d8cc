"""Problems with an exact denoiser, for samplers that need no JAX.

All arrays are NumPy's, in float64. Noisy data are x = alpha x_0 + sigma eps,
[N, *shape], where alpha is 1 by default (the convention of EDM); alpha and
sigma are numbers or [N]. `certify.certify` compares a sampler with the truth.
"""

import collections
import dataclasses
import functools
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from diffusion_jax.core.levels import NoiseLevel
from diffusion_jax.testing import oracles


class LinearMeasurement(NamedTuple):
  """A measurement y [M] = matrix [M, D] x_0 + std n, n ~ N(0, I)."""

  matrix: np.ndarray
  y: np.ndarray
  std: float


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
  """Data x_0 ~ sum_k weights[k] N(means[k], covs[k]), and how they diffuse.

  weights: [K]; means: [K, D]; covs: [K, D, D]; shape: of one example, with D
  numbers. A sampler starts at sigma_max; sigma_min is the least level that it
  should visit before 0. calls: how often the denoiser was called, on how many
  rows, and the same of `jacobian_product`, also by copies. An inverse problem
  has a measurement and the exact posterior, which is a problem too.
  """

  name: str
  weights: np.ndarray
  means: np.ndarray
  covs: np.ndarray
  shape: tuple[int, ...]
  sigma_min: float = 0.002
  sigma_max: float = 80.0
  measurement: LinearMeasurement | None = None
  posterior: Self | None = None
  calls: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

  def __post_init__(self) -> None:
    if not 0.0 < self.sigma_min < self.sigma_max < np.inf:
      raise ValueError(
        f'sigma_min={self.sigma_min} and sigma_max={self.sigma_max}: they must be above 0, finite '
        'and ascending'
      )

  @property
  def dim(self) -> int:
    """Returns D."""
    return self.means.shape[1]

  @property
  def mean(self) -> np.ndarray:
    """Returns E[x_0], [D]."""
    return self.weights @ self.means

  @property
  def covariance(self) -> np.ndarray:
    """Returns Cov[x_0], [D, D]."""
    apart = self.means - self.mean
    return np.tensordot(self.weights, self.covs, 1) + (apart.T * self.weights) @ apart

  def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
    """Draws x_0, [n, *shape]."""
    k = rng.choice(len(self.weights), n, p=self.weights)
    roots = np.linalg.cholesky(self.covs)
    x0 = np.empty((n, self.dim))
    for i, root in enumerate(roots):
      x0[k == i] = self.means[i] + rng.normal(size=((k == i).sum(), self.dim)) @ root.T
    return x0.reshape(n, *self.shape)

  def denoise(self, x: np.ndarray, sigma: ArrayLike, alpha: ArrayLike = 1.0) -> np.ndarray:
    """Computes E[x_0 | x], [N, *shape]."""
    self.calls.update(denoise=1, denoise_rows=len(x))
    share, means = self._components(x, sigma, alpha)[:2]
    return (share * means).sum(axis=0).reshape(x.shape)

  def eps(self, x: np.ndarray, sigma: ArrayLike, alpha: ArrayLike = 1.0) -> np.ndarray:
    """Computes E[eps | x] for sigma > 0, [N, *shape]."""
    x0 = self.denoise(x, sigma, alpha)
    return (np.asarray(x) - _per_row(alpha, x) * x0) / _per_row(sigma, x)

  def score(self, x: np.ndarray, sigma: ArrayLike, alpha: ArrayLike = 1.0) -> np.ndarray:
    """Computes grad log q(x) for sigma > 0, [N, *shape]."""
    return -self.eps(x, sigma, alpha) / _per_row(sigma, x)

  def v(self, x: np.ndarray, sigma: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    """Computes E[alpha eps - sigma x_0 | x] for sigma > 0, [N, *shape]."""
    x0 = self.denoise(x, sigma, alpha)
    alpha, sigma = _per_row(alpha, x), _per_row(sigma, x)
    return alpha * (np.asarray(x) - alpha * x0) / sigma - sigma * x0

  def velocity(self, x: np.ndarray, t: ArrayLike) -> np.ndarray:
    """Computes E[eps - x_0 | x] of x = (1 - t) x_0 + t eps, t > 0."""
    x0 = self.denoise(x, t, 1.0 - np.asarray(t))
    return (np.asarray(x) - x0) / _per_row(t, x)

  def jacobian_product(
    self, x: np.ndarray, vector: np.ndarray, sigma: ArrayLike, alpha: ArrayLike = 1.0
  ) -> np.ndarray:
    """Computes J vector, J = d E[x_0 | x] / dx, which is symmetric."""
    self.calls.update(gradient=1, gradient_rows=len(x))
    share, means, gain, scaled = self._components(x, sigma, alpha)
    vectors = self._axes.eigenvectors
    along = np.asarray(vector).reshape(len(x), -1) @ vectors
    slope = -(scaled * along).sum(axis=-1, keepdims=True)
    within = (gain * along) @ vectors.swapaxes(1, 2)
    between = slope * (means - (share * means).sum(axis=0))
    return (share * (within + between)).sum(axis=0).reshape(x.shape)

  def flow_map(
    self, x: np.ndarray, sigma_from: float, sigma_to: float, tolerance: float = 1e-9
  ) -> np.ndarray:
    """Maps x along the ODE of the probability flow, alpha = 1.

    The relative and the absolute error of a step of the solver are below the
    tolerance.
    """
    rows = np.asarray(x, np.float64).reshape(len(x), -1)
    with jax.enable_x64(True):
      return np.asarray(self._flow(rows, sigma_from, sigma_to, tolerance)).reshape(x.shape)

  def with_measurement(self, matrix: ArrayLike, y: ArrayLike, std: float) -> 'Problem':
    """Returns the inverse problem of y [M] = matrix [M, D] x_0 + std n.

    Its denoiser knows nothing of y; its `posterior` is p(x_0 | y). Raises
    ValueError for other shapes and unless std > 0.
    """
    with jax.enable_x64(True):
      weights, means, covs = oracles.moments(self._oracle.posterior(matrix, y, std))
    problem = dataclasses.replace(self, name=f'{self.name} given y')
    exact = dataclasses.replace(problem, weights=weights, means=means, covs=covs)
    measurement = LinearMeasurement(np.asarray(matrix), np.asarray(y), std)
    return dataclasses.replace(problem, measurement=measurement, posterior=exact)

  @functools.cached_property
  def _axes(self):
    return np.linalg.eigh(self.covs)

  @functools.cached_property
  def _oracle(self):
    with jax.enable_x64(True):
      return oracles.mixture(self.weights, self.means, self.covs, np.float64)

  @functools.cached_property
  def _flow(self):
    oracle = self._oracle

    def flow(x, sigma_from, sigma_to, tolerance):
      start, end = (NoiseLevel(sigma, jnp.ones(()), sigma) for sigma in (sigma_from, sigma_to))
      return oracle.flow_map(x, start, end, rtol=tolerance, atol=tolerance)

    return jax.jit(flow)

  def _components(self, x, sigma, alpha):
    # Returns for each component p(k | x), [K, N, 1], and E[x_0 | x, k], [K, N, D];
    # in the axes of its covariance also the gain and (x - alpha mean) / variance.
    if np.shape(x)[1:] != self.shape:
      wanted = ', '.join(map(str, self.shape))
      raise ValueError(f'x is {list(np.shape(x))}: it must be [N, {wanted}]')
    values, vectors = self._axes
    means, values = self.means[:, None], values[:, None]
    rows = np.asarray(x, np.float64).reshape(len(x), -1)
    alpha, sigma = _per_row(alpha, rows), _per_row(sigma, rows)
    variance = alpha**2 * values + sigma**2
    rotated = (rows - alpha * means) @ vectors
    scaled = rotated / variance
    log_joint = np.log(self.weights)[:, None, None]
    log_joint = log_joint - 0.5 * (rotated * scaled + np.log(variance)).sum(-1, keepdims=True)
    gain = alpha * values / variance
    x0 = means + (alpha * values * scaled) @ vectors.swapaxes(1, 2)
    return special.softmax(log_joint, axis=0), x0, gain, scaled


def gaussian() -> Problem:
  """Returns one Gaussian in two dimensions."""
  cov = np.array([[[1.0, 0.8], [0.8, 1.5]]])
  return Problem('gaussian', np.ones(1), np.array([[0.5, -0.3]]), cov, (2,))


def mixture(dim: int = 2) -> Problem:
  """Returns three Gaussians in `dim` dimensions, of about unit variance."""
  rng = np.random.default_rng(dim)
  means = rng.normal(size=(3, dim))
  roots = 0.5 * rng.normal(size=(3, dim, dim)) / np.sqrt(dim)
  covs = roots @ roots.swapaxes(1, 2) + 0.1 * np.eye(dim)
  return Problem(f'mixture {dim}-D', np.array([0.2, 0.3, 0.5]), means, covs, (dim,))


def image(size: int = 8) -> Problem:
  """Returns a Gaussian on grey images [1, size, size].

  It is stationary on a torus: its power falls with the square of the frequency.
  The variance is 0.25.
  """
  frequency = np.fft.fftfreq(size, 1.0 / size)
  power = 1.0 / (1.0 + frequency[:, None] ** 2 + frequency**2)
  kernel = np.fft.ifft2(0.25 * power / power.mean()).real
  row, column = np.divmod(np.arange(size**2), size)
  cov = kernel[row[:, None] - row, column[:, None] - column]  # negative: the torus
  return Problem('image', np.ones(1), np.zeros((1, size**2)), cov[None], (1, size, size))


def inpainting(size: int = 8) -> Problem:
  """Returns an image with a measurement of a quarter of its pixels, std 0.1."""
  problem, rng = image(size), np.random.default_rng(0)
  matrix = np.eye(problem.dim)[rng.permutation(problem.dim)[: problem.dim // 4]]
  y = matrix @ problem.draw(rng, 1).ravel() + 0.1 * rng.normal(size=len(matrix))
  return problem.with_measurement(matrix, y, 0.1)


def _per_row(value, x):
  # A number, or one for each row of x, as a factor of x.
  return np.reshape(np.asarray(value, np.float64), (-1,) + (1,) * (x.ndim - 1))
