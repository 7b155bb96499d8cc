"""Likelihoods and posteriors of linear Gaussian VAEs, in float64.

A chain z_3 -> z_2 -> z_1 -> x and its encoder x -> z_1 -> z_2 -> z_3 are lists
of links N(gain * z + offset, variance) with entries [D], one per dimension:
link t is p(z_{t-1} | z_t) or q(z_t | z_{t-1}), with z_0 = x.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj


class Link(NamedTuple):
  gain: np.ndarray
  offset: np.ndarray
  variance: np.ndarray


def kl(mean_q, cov_q, mean_p, cov_p):
  """Computes the KL of Gaussians with full covariances, means [..., D]."""
  inverse = np.linalg.inv(cov_p)
  difference = mean_p - mean_q
  square = np.einsum('...i,ij,...j->...', difference, inverse, difference)
  logs = np.linalg.slogdet(cov_p)[1] - np.linalg.slogdet(cov_q)[1]
  return 0.5 * (np.trace(inverse @ cov_q) - len(cov_p) + square + logs)


def chain_moments(links, mean, variance):
  """Returns mean [..., n + 1] and covariance of all states of one dimension."""
  means, cov = [mean], np.full((1, 1), variance)
  for gain, offset, added in links:
    means.append(gain * means[-1] + offset)
    row = gain * cov[-1]
    cov = np.block([[cov, row[:, None]], [row, gain * row[-1] + added]])
  return np.stack(means, axis=-1), cov


def condition(mean, cov, known, values):
  """Returns mean and covariance of the other entries given `known`."""
  other = [i for i in range(len(cov)) if i not in known]
  gain = cov[np.ix_(other, known)] @ np.linalg.inv(cov[np.ix_(known, known)])
  shift = (values - mean[..., known]) @ gain.T
  left = cov[np.ix_(other, other)] - gain @ cov[np.ix_(known, other)]
  return mean[..., other] + shift, left


def of_dimension(links, d):
  return [Link(*(field[d] for field in link)) for link in links]


def likelihood(decoder, d):
  """Returns mean and variance of p(x) in dimension d."""
  mean, cov = chain_moments(of_dimension(decoder, d)[::-1], 0.0, 1.0)
  return mean[-1], cov[-1, -1]


def decoder_posterior(decoder, x, d):
  """Returns mean [B, T] and covariance of p(z_1..z_T | x) in dimension d."""
  mean, cov = chain_moments(of_dimension(decoder, d)[::-1], 0.0, 1.0)
  last = len(decoder)
  mean, cov = condition(mean, cov, [last], x[:, d : d + 1])
  return mean[:, ::-1], cov[::-1, ::-1]


def encoder_joint(encoder, x, d):
  """Returns mean [B, T] and covariance of q(z_1..z_T | x) in dimension d."""
  mean, cov = chain_moments(of_dimension(encoder, d), x[:, d], 0.0)
  return mean[:, 1:], cov[1:, 1:]


def reversal(decoder):
  """Returns the decoder's exact reversal, an encoder and a Markov chain.

  p(z_t | z_{t-1}, ..., x) = p(z_t | z_{t-1}): Bayes' rule for each link.
  """
  mean, variance, links = 0.0, 1.0, []
  for gain, offset, added in decoder[::-1]:
    next_mean = gain * mean + offset
    next_variance = gain**2 * variance + added
    back = gain * variance / next_variance
    left = variance * added / next_variance
    links.append(Link(back, mean - back * next_mean, left))
    mean, variance = next_mean, next_variance
  return links[::-1]


def transition(links):
  """Makes `encode` or `decode` of `hierarchical_elbo`."""

  def step(t, z):
    gain, offset, variance = (jnp.asarray(field, jnp.float32)[None] for field in links[t - 1])
    return dj.Normal(gain * z + offset, variance)

  return step


def log_likelihood(decoder):
  """Makes log p(x | z_1), summed, of the decoder's first link."""

  def log_prob(x, z):
    return jnp.sum(dj.log_prob(transition(decoder)(1, z), x), axis=1)

  return log_prob


def marginal(encoder):
  """Makes q(z_t | x) for `rearranged_elbo`: the first t links in one."""

  def at(t, x):
    gain, offset, variance = _composed(encoder[:t])
    link = Link(gain, offset, variance)
    return transition([link])(1, x)

  return at


def posterior(encoder):
  """Makes q(z_{t-1} | z_t, x) for `rearranged_elbo`, by Bayes' rule."""

  def at(t, z, x):
    before = marginal(encoder)(t - 1, x)
    gain, offset, variance = (jnp.asarray(field, jnp.float32)[None] for field in encoder[t - 1])
    precision = 1.0 / before.variance + gain**2 / variance
    weighted = before.mean / before.variance + gain * (z - offset) / variance
    return dj.Normal(weighted / precision, 1.0 / precision)

  return at


def _composed(links):
  gain, offset, variance = 1.0, 0.0, 0.0
  for link in links:
    gain, offset = link.gain * gain, link.gain * offset + link.offset
    variance = link.gain**2 * variance + link.variance
  return gain, offset, variance
