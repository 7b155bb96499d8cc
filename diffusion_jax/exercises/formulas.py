"""Closed forms of diffusion models in float64 NumPy, for the exercises.

Slips are applied to these as written, so each is close to what a paper prints.
"""

import numpy as np
from numpy import exp, log, sqrt
from scipy.special import ndtr

from diffusion_jax.exercises.terms import named


def log_normal(x, mean, variance):
  """Computes log N(x; mean, variance) of each number."""
  return -0.5 * ((x - mean) ** 2 / variance + log(2 * np.pi * variance))


def normal(x, mean, variance):
  """Computes N(x; mean, variance) of each number."""
  return exp(-((x - mean) ** 2) / (2 * variance)) / sqrt(2 * np.pi * variance)


def kl_of(mean_q, var_q, mean_p, var_p):
  """Computes KL(q || p) of Gaussians, summed over all numbers."""
  ratio = var_q / var_p
  return 0.5 * np.sum(ratio - 1 - log(ratio) + (mean_q - mean_p) ** 2 / var_p)


def kl_each(mean_q, var_q, mean_p, var_p):
  """Computes KL(q || p) of the Gaussians of each number."""
  return 0.5 * (var_q / var_p - 1 - log(var_q / var_p) + (mean_q - mean_p) ** 2 / var_p)


def kl_prior(mean, variance):
  """Computes KL(q || N(0, I)) of a Gaussian, summed over all numbers."""
  return 0.5 * np.sum(variance - 1 - log(variance) + mean**2)


def noised_photo(photo, noises, betas, rest, bar):
  """Returns x_T of a photo in [0, 255], where rest [T] is the product of the later alphas."""
  noise = np.tensordot(sqrt(betas) * sqrt(rest), noises, 1)
  return named(sqrt(bar) * (photo / 127.5 - 1) + noise, 'x_T')


def q_sample(x0, eps, bar):
  """Computes x_t of q(x_t | x_0)."""
  return sqrt(bar) * x0 + sqrt(1 - bar) * eps


def density(z, weights, means, variances, bar):
  """Computes the density of x_t, data from a mixture."""
  scale = sqrt(bar)
  return weights @ normal(z, scale * means, scale**2 * variances + (1 - bar))


def density_step(z, weights, means, variances, alpha, beta):
  """Computes the density of x_t, where x_{t-1} is from a mixture."""
  return weights @ normal(z, sqrt(alpha) * means, alpha * variances + beta)


def moments(weights, means, variances):
  """Returns a mixture's mean and variance."""
  mean = weights @ means
  return mean, weights @ variances + weights @ (means - mean) ** 2


def log_likelihood(pixels, decoded, decoder_var, bernoulli):
  """Computes log p(x | z) of each pixel, for a Bernoulli or a Gaussian decoder."""
  of_bit = pixels * log(decoded) + (1 - pixels) * log(1 - decoded)
  return named(
    np.where(bernoulli, of_bit, log_normal(pixels, decoded, decoder_var)), 'log p(x | z)'
  )


def posterior_mean(x0, xt, beta, alpha, bar, bar_s):
  """Computes the mean of q(x_{t-1} | x_t, x_0)."""
  return (sqrt(bar_s) * beta * x0 + sqrt(alpha) * (1 - bar_s) * xt) / (1 - bar)


def posterior_variance(beta, bar, bar_s):
  """Computes the variance of q(x_{t-1} | x_t, x_0)."""
  return (1 - bar_s) / (1 - bar) * beta


def mean_by_eps(xt, eps, beta, alpha, bar):
  """Computes the mean of q(x_{t-1} | x_t, x_0) from eps."""
  return (xt - beta / sqrt(1 - bar) * eps) / sqrt(alpha)


def x0_of(xt, eps, bar):
  """Computes x_0 from x_t and eps."""
  return (xt - sqrt(1 - bar) * eps) / sqrt(bar)


def grey_nll(grey, grey_mean, std):
  """Computes -log of the masses of grey levels under a Gaussian."""
  low, high = (ndtr((grey + side - grey_mean) / std) for side in (-1 / 255, 1 / 255))
  open_low, open_high = np.where(grey < -0.999, 0, low), np.where(grey > 0.999, 1, high)
  return -np.sum(log(named(open_high, 'Φ(high)') - named(open_low, 'Φ(low)')))


def mass(grey, grey_mean, std):
  """Computes the mass of each grey level's bin, where the outer bins end."""
  return ndtr((grey + 1 / 255 - grey_mean) / std) - ndtr((grey - 1 / 255 - grey_mean) / std)


def reverse_law(z, weights, means, variances, bar, bar_s):
  """Returns weights, means and variances of q(x_{t-1} | x_t = z), data from a mixture."""
  # Each component of x_s times q(x_t | x_s), which is a Gaussian in x_s.
  m, v = sqrt(bar_s) * means, bar_s * variances + (1 - bar_s)
  step = bar / bar_s
  added = 1 - step
  w = weights * normal(z, sqrt(step) * m, step * v + added)
  v_new = 1 / (1 / v + step / added)
  return w / np.sum(w), v_new * (m / v + sqrt(step) * z / added), v_new


def total_variation(w, m, v, mean, variance):
  """Computes the total variation between a mixture w, m, v [K] and a Gaussian."""
  x = mean + sqrt(variance) * np.linspace(-8, 8, 3001)
  q = normal(x[:, None], m, v) @ w
  return np.sum(abs(q - normal(x, mean, variance))) * (x[1] - x[0]) / 2


def reverse_gap(w, m, v):
  """Computes the total variation between a mixture w, m, v [K] and the Gaussian of its moments."""
  return total_variation(w, m, v, *moments(w, m, v))


def pair_mean(x, a, alpha, beta, bar_s):
  """Computes E[(z_{t-1} - a z_t)^2] given z_0 = x."""
  return (1 - a * sqrt(alpha)) ** 2 * (bar_s * x**2 + (1 - bar_s)) + a**2 * beta
