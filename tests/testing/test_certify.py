"""Verdicts on samplers of known order and law, and on their faults."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.testing import bench
from diffusion_jax.testing.certify import certify


def levels(problem, num_steps):
  """Returns EDM's grid, which ends in 0 (Karras et al. 2022, Eq. 5)."""
  ends = problem.sigma_max ** (1 / 7), problem.sigma_min ** (1 / 7)
  return np.append(np.linspace(*ends, num_steps) ** 7, 0.0)


def euler(problem, x, num_steps, rng, scale=1.0):
  sigmas, x = levels(problem, num_steps), scale * x
  for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
    x = x + (following - sigma) * problem.eps(x, sigma)
  return x


def heun(problem, x, num_steps, rng, shift=0):
  """EDM's Algorithm 1; a shift evaluates at the level of another step."""
  sigmas = levels(problem, num_steps)
  for i in range(num_steps):
    step = sigmas[i + 1] - sigmas[i]
    x0 = problem.denoise(x, sigmas[min(i + shift, num_steps - 1)])
    slope = (x - x0) / sigmas[i]
    if sigmas[i + 1] > 0.0:
      slope = 0.5 * (slope + problem.eps(x + step * slope, sigmas[i + 1]))
    x = x + step * slope
  return x


def sde(problem, x, num_steps, rng, factor=2.0, noise=1.0):
  """Euler-Maruyama's dx = 2 eps dsigma + sqrt(-2 sigma dsigma) dw."""
  sigmas = levels(problem, num_steps)
  for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
    x = x + factor * (following - sigma) * problem.eps(x, sigma)
    if following > 0.0:
      x = x + noise * np.sqrt(sigma**2 - following**2) * rng.normal(size=x.shape)
  return x


def exact_draws(problem, x, num_steps, rng):
  return problem.draw(rng, len(x))


def exact_paths(problem, x, num_steps, rng):
  return problem.flow_map(x, problem.sigma_max, 0.0)


def without_the_last_step(problem, x, num_steps, rng):
  return heun(dataclasses.replace(problem, sigma_min=0.3), x, num_steps, rng)


def noise_after_the_last_step(problem, x, num_steps, rng):
  return sde(problem, x, num_steps, rng) + 0.2 * rng.normal(size=x.shape)
