"""Computes the variational bound of the best denoiser for Gaussian data."""

import numpy as np

from diffusion_jax.core.levels import Grid
from diffusion_jax.core.process import Variance
from diffusion_jax.ranges import check_choice
from diffusion_jax.testing.oracles import Mixture, check_gaussian


def expected_bound(
  oracle: Mixture, levels: Grid, variance: Variance = 'fixed_small'
) -> dict[str, np.ndarray]:
  """Computes E[L_T], E[L_{t-1}] and E[L_0] of DDPM Eq. 5 in nats.

  The expectation is over x_0 and x_t. The denoiser is the oracle's own.

  Args:
    oracle: A mixture of one Gaussian.
    levels: [N+1], noisiest first, clean last, N >= 2 (`level_grid`).
    variance: 'fixed_small' or 'fixed_large'.
  Returns:
    In float64: 'prior' [], against N(0, (alpha^2 + sigma^2) I); 'diffusion'
    [N-1], in the order of the chain; 'reconstruction' [], with the density
    p(x_0 | x_1), whose variance for 'fixed_small' is the previous step's
    beta-tilde; 'total' [], at least the entropy of x_0.
  Raises:
    ValueError: For a mixture of more Gaussians, and for other arguments.
  """
  # With C = Q diag(v) Q^T every term is a sum over the axes of C. The means of
  # q and p have the same coefficients, so they differ by the coefficient of x_0
  # times (x_0 - E[x_0 | x_t]), whose mean square is Var[x_0 | x_t].
  check_gaussian(oracle, 'expected_bound')
  check_choice('variance', variance, ('fixed_small', 'fixed_large'))
  v = np.asarray(oracle.eigenvalues[0], np.float64)
  m = np.asarray(oracle.means[0], np.float64)
  _, alpha, sigma = (np.asarray(field, np.float64) for field in levels)
  if len(alpha) < 3 or sigma[-1] != 0.0 or (np.diff(sigma) >= 0.0).any():
    raise ValueError('levels must fall from noise to clean, 3 or more of them')
  total_t = alpha[0] ** 2 + sigma[0] ** 2
  prior = len(v) * _kl_of_variances(sigma[0] ** 2 / total_t)
  prior += alpha[0] ** 2 * (v.sum() + m @ m) / total_t
  alpha_t, sigma_t = alpha[:-1], sigma[:-1]
  alpha_s, sigma_s = alpha[1:], sigma[1:]
  snr_decrease = 1.0 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2
  small = sigma_s**2 * snr_decrease
  large = sigma_t**2 * snr_decrease * (alpha_s**2 + sigma_s**2) / (alpha_t**2 + sigma_t**2)
  p_variance = large if variance == 'fixed_large' else np.append(small[:-1], small[-2])
  posterior = v / (v * np.square(alpha_t / sigma_t)[:, None] + 1.0)
  error = (alpha_s * snr_decrease) ** 2 * posterior.sum(axis=1) / p_variance
  diffusion = len(v) * _kl_of_variances(small[:-1] / p_variance[:-1])
  diffusion += error[:-1]
  reconstruction = len(v) * np.log(2.0 * np.pi * p_variance[-1]) + error[-1]
  return {
    'prior': 0.5 * prior,
    'diffusion': 0.5 * diffusion,
    'reconstruction': 0.5 * reconstruction,
    'total': 0.5 * (prior + diffusion.sum() + reconstruction),
  }


def _kl_of_variances(ratio):
  # Twice the KL of two normal distributions with one mean.
  return ratio - 1.0 - np.log(ratio)
