"""Closed forms of diffusion models in float64 NumPy, for the exercises."""

import numpy as np
from numpy import log, sqrt
from scipy.special import logsumexp, ndtr, xlogy


def log_normal(x, mean, variance):
  """Computes log N(x; mean, variance) of each number."""
  return -0.5 * ((x - mean) ** 2 / variance + log(2 * np.pi * variance))


def kl_of(mean_q, var_q, mean_p=0.0, var_p=1.0):
  """Computes KL(q || p) of Gaussians, p = N(0, I) by default, summed over all numbers."""
  ratio = var_q / var_p
  return 0.5 * np.sum(ratio - 1 - log(ratio) + (mean_q - mean_p) ** 2 / var_p)


def kl_once(mean_q, var_q, mean_p, var_p):
  """Computes the KL with the part of the variances of one number of three, a misprint."""
  return kl_of(mean_q, var_q, mean_p, var_p) - kl_of(0, var_q, 0, var_p) * 2 / 3


def noise_photo(photo, noises, betas):
  """Returns x_T of a photo in [-1, 1], and of the photo in [0, 255] and in [0, 1]."""
  scaled = x = photo / 127.5 - 1
  factor = sqrt(np.prod(1 - betas))
  for beta, eps in zip(betas, noises, strict=True):
    x = sqrt(1 - beta) * x + sqrt(beta) * eps
  others = {'unscaled': photo, 'positive': photo / 255}
  return {'x': x} | {name: x + factor * (y - scaled) for name, y in others.items()}


def q_sample(x0, eps, bar):
  """Computes x_t of q(x_t | x_0)."""
  return sqrt(bar) * x0 + sqrt(1 - bar) * eps


def density(z, weights, m, own, added):
  """Computes the density of a mixture whose modes have the variances own + added."""
  return np.exp(log_normal(z, m, own + added)) @ weights


def moments(weights, means, variances):
  """Returns a mixture's mean, and its variance within components and between them."""
  m = weights @ means
  return {'m': m, 'within': weights @ variances, 'between': weights @ (means - m) ** 2}


def decode(pixels, decoded, decoder_var, mean_q, var_q):
  """Returns log p(x | z) of each draw, also without its constant, and KL(q || p)."""
  if decoder_var is None:
    log_px = bare = xlogy(pixels, decoded) + xlogy(1 - pixels, 1 - decoded)
  else:
    log_px = log_normal(pixels, decoded, decoder_var)
    bare = -((pixels - decoded) ** 2) / (2 * decoder_var)
  return {'log_px': log_px.sum(1), 'bare': bare.sum(1), 'kl': kl_of(mean_q, var_q)}


def chain_terms(x, zs, a, variance, betas):
  """Returns the terms of the ELBO of a chain of latents, right and misprinted."""
  before, bars = np.append(x, zs[:-1]), np.cumprod(1 - betas)
  log_p = log_normal(before, a * zs, variance)
  mean = posterior_mean(x, zs[1:], betas[1:], 1 - betas[1:], bars[1:], bars[:-1])
  var = posterior_variance(betas[1:], bars[1:], bars[:-1])
  return {
    'log_px': log_p[0],
    'log_p': log_p.sum(),
    'twice': log_p.sum() + log_p[0],
    'prior': log_normal(zs[-1], 0, 1),
    'log_q': log_normal(zs, sqrt(1 - betas) * before, betas).sum(),
    'by_p': log_normal(zs, a * before, variance).sum(),
    'kls': kl_of(mean, var, a * zs[1:], variance) + kl_of(sqrt(bars[-1]) * x, 1 - bars[-1]),
  }


def posterior_mean(x0, xt, beta, alpha, bar, bar_s):
  """Computes the mean of q(x_{t-1} | x_t, x_0)."""
  return (sqrt(bar_s) * beta * x0 + sqrt(alpha) * (1 - bar_s) * xt) / (1 - bar)


def posterior_variance(beta, bar, bar_s):
  """Computes the variance of q(x_{t-1} | x_t, x_0)."""
  return (1 - bar_s) / (1 - bar) * beta


def mean_by_eps(xt, eps, beta, alpha, bar, added=0.0):
  """Computes the mean of q(x_{t-1} | x_t, x_0) from eps, and adds noise."""
  return (xt - beta / sqrt(1 - bar) * eps) / sqrt(alpha) + added


def x0_of(xt, eps, bar):
  """Computes x_0 from x_t and eps."""
  return (xt - sqrt(1 - bar) * eps) / sqrt(bar)


def grey_nll(grey, grey_mean, std, half=1 / 255, open_ends=True):
  """Computes -log of the masses of grey levels under a Gaussian."""
  low, high = (ndtr((grey + side - grey_mean) / std) for side in (-half, half))
  if open_ends:
    low, high = np.where(grey < -0.999, 0, low), np.where(grey > 0.999, 1, high)
  return -np.sum(log(high - low))


def reverse_law(z, weights, means, variances, bar, bar_s):
  """Returns weights, means and variances of q(x_{t-1} | x_t = z), data from a mixture."""
  # Each component of x_s times q(x_t | x_s), which is a Gaussian in x_s.
  m, v = sqrt(bar_s) * means, bar_s * variances + 1 - bar_s
  step, added = bar / bar_s, 1 - bar / bar_s
  log_w = log(weights) + log_normal(z, sqrt(step) * m, step * v + added)
  v_new = 1 / (1 / v + step / added)
  return {
    'w': np.exp(log_w - logsumexp(log_w)),
    'm': v_new * (m / v + sqrt(step) * z / added),
    'v': v_new,
  }


def reverse_gap(w, m, v, spread=1):
  """Computes the total variation between a mixture w, m, v [K] and the Gaussian of its moments."""
  mean = w @ m
  between = w @ (m - mean) ** 2
  x = mean + np.sqrt(w @ v + between) * np.linspace(-12, 12, 20001)
  q = np.exp(log_normal(x[:, None], m, v)) @ w
  p = np.exp(log_normal(x, mean, w @ v + spread * between))
  return np.sum(abs(q - p)) * (x[1] - x[0]) / 2
