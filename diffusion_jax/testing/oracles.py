"""Data whose every diffusion quantity has a closed form.

For x_0 ~ sum_k w_k N(m_k, C_k) the marginal at a level is again a mixture,
x_t ~ sum_k w_k N(alpha m_k, alpha^2 C_k + sigma^2 I), and the best possible
denoiser, the score and the log-density follow. Test a sampler by running it
with `oracle.denoise` in place of a network and comparing its samples with
`oracle.mean` and `oracle.cov`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.core.denoiser import Prediction
from diffusion_jax.core.levels import NoiseLevel

Array = jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
  """x_0 ~ sum_k weights[k] N(means[k], C_k) on R^D; see `mixture`.

  weights: [K], means: [K, D]; C_k = Q_k diag(v_k) Q_k^T with Q_k in
  eigenvectors [K, D, D] and v_k in eigenvalues [K, D]. All methods take x
  [B, D] and a level [] or [B]; densities are in nats.
  """

  weights: Array
  means: Array
  eigenvalues: Array
  eigenvectors: Array

  @property
  def mean(self) -> Array:
    """E[x_0], [D]."""
    return self.weights @ self.means

  @property
  def cov(self) -> Array:
    """Cov[x_0], [D, D]."""
    q, v, w = self.eigenvectors, self.eigenvalues, self.weights
    centred = self.means - self.mean[None]
    between = jnp.einsum('k,ki,kj->ij', w, centred, centred)
    return jnp.einsum('k,kie,ke,kje->ij', w, q, v, q) + between

  def sample(self, key: Array, n: int) -> Array:
    """n draws of x_0, [n, D]."""
    key, eps_key = jax.random.split(key)
    k = jax.random.categorical(key, jnp.log(self.weights), shape=(n,))
    eps = jax.random.normal(eps_key, (n, self.means.shape[1]))
    eps *= jnp.sqrt(self.eigenvalues)[k]
    return self.means[k] + jnp.einsum('nie,ne->ni', self.eigenvectors[k], eps)

  def log_prob(self, x: Array, level: NoiseLevel) -> Array:
    """log q(x_t) of the marginal at a level, [B]."""
    return jax.nn.logsumexp(self._components(x, level)[0], axis=1)

  def score(self, x: Array, level: NoiseLevel) -> Array:
    """grad log q(x_t), [B, D]."""
    log_joint, rotated, variance = self._components(x, level)
    return -self._average(log_joint, rotated / variance)

  def denoise(self, x: Array, level: NoiseLevel) -> Prediction:
    """E[x_0 | x_t], the denoiser that no network can beat."""
    log_joint, rotated, variance = self._components(x, level)
    gain = self._per_example(level.alpha, x) * self.eigenvalues[None] / variance
    posterior = jax.nn.softmax(log_joint, axis=1)
    x0 = posterior @ self.means + self._average(log_joint, gain * rotated)
    return Prediction(x0)

  def _components(self, x, level):
    # log(w_k N(x; alpha m_k, alpha^2 C_k + sigma^2 I)) [B, K], x - alpha m_k in
    # the axes of C_k and the variances along them, [B, K, D]
    alpha = self._per_example(level.alpha, x)
    sigma = self._per_example(level.sigma, x)
    centred = x[:, None] - alpha * self.means[None]
    rotated = jnp.einsum('kde,bkd->bke', self.eigenvectors, centred)
    variance = alpha**2 * self.eigenvalues[None] + sigma**2
    density = rotated**2 / variance + jnp.log(2.0 * jnp.pi * variance)
    log_joint = jnp.log(self.weights)[None] - 0.5 * jnp.sum(density, axis=-1)
    return log_joint, rotated, variance

  def _average(self, log_joint, rotated):
    # back from the axes of each C_k, weighted with p(k | x_t)
    posterior = jax.nn.softmax(log_joint, axis=1)
    return jnp.einsum('bk,kde,bke->bd', posterior, self.eigenvectors, rotated)

  def _per_example(self, value, x):
    return jnp.broadcast_to(value, x.shape[:1])[:, None, None]


def mixture(weights: Array, means: Array, covs: Array) -> Mixture:
  """The Gaussian mixture with weights [K], means [K, D], covs [K, D, D].

  Weights need not add up to 1. Raises ValueError for other shapes and for a
  covariance that is not symmetric and positive.
  """
  weights, means, covs = (
    np.asarray(a, np.float64) for a in (weights, means, covs)
  )
  k, d = means.shape
  if weights.shape != (k,) or covs.shape != (k, d, d):
    raise ValueError(
      f'weights {list(weights.shape)}, means {list(means.shape)} and covs '
      f'{list(covs.shape)} must be [K], [K, D] and [K, D, D]'
    )
  values, vectors = np.linalg.eigh(covs)
  if not np.allclose(covs, covs.swapaxes(1, 2)) or (values <= 0.0).any():
    raise ValueError('a covariance must be symmetric and positive')
  arrays = (weights / weights.sum(), means, values, vectors)
  return Mixture(*(jnp.asarray(a, jnp.float32) for a in arrays))


def gaussian(mean: Array, cov: Array) -> Mixture:
  """N(mean [D], cov [D, D]), as a mixture of one."""
  return mixture(np.ones(1), np.asarray(mean)[None], np.asarray(cov)[None])
