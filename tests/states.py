"""A table, processes and their matrices for tests of discrete states."""

import functools

import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.discrete import oracles as discrete_oracles
from tests.jitted import level_at

# Three variables with three values each, which depend on one another.
TABLE = discrete_oracles.table(
  np.random.default_rng(0).dirichlet(np.full(27, 0.4)).reshape(3, 3, 3)
)
LINEAR = dj.PolynomialMasking()
NUM_STEPS = 6
BETAS = np.linspace(0.2, 0.6, NUM_STEPS)
PROCESSES = {
  'uniform': dj.uniform_process(3),
  'masking': dj.masking_process(3),
  'gaussian': dj.gaussian_process(3, BETAS),
}


EACH = pytest.mark.parametrize('name', PROCESSES)


def data(n):
  """Draws x_0 of TABLE, [n, 3]."""
  p = TABLE.probs.ravel()
  return TABLE.states[np.random.default_rng(0).choice(len(p), n, p=p)]


def at(steps):
  """Returns the levels of LINEAR at steps of NUM_STEPS."""
  return level_at(LINEAR, np.float32(np.asarray(steps) / NUM_STEPS))


def prior_of(name):
  """Returns the distribution of pure noise, float64 [S]."""
  return np.eye(4)[3] if name == 'masking' else np.full(3, 1 / 3)


def replacement_matrices(name, alphas):
  """Returns Q_t = r I + (1 - r) 1 prior^T of alphas [T+1, ...] from 1 down, [T, ..., S, S]."""
  prior, alphas = prior_of(name), np.asarray(alphas, np.float64)
  r = np.where(alphas[:-1] > 0.0, alphas[1:] / np.maximum(alphas[:-1], 1e-30), 1.0)[..., None, None]
  return r * np.eye(len(prior)) + (1.0 - r) * np.ones((len(prior), 1)) * prior


def gaussian_matrices(num_states, betas):
  """Returns the matrices of D3PM, appendix A.2.3, entry by entry."""
  matrices = np.zeros((len(betas), num_states, num_states))
  span = num_states - 1
  for q, beta in zip(matrices, betas, strict=True):
    total = sum(np.exp(-4 * n**2 / (span**2 * beta)) for n in range(-span, span + 1))
    for i in range(num_states):
      for j in range(num_states):
        if i != j:
          q[i, j] = np.exp(-4 * (i - j) ** 2 / (span**2 * beta)) / total
      q[i, i] = 1 - sum(q[i, j] for j in range(num_states) if j != i)
  return matrices


def matrices_of(name, num_steps=NUM_STEPS):
  """Returns Q_1..Q_T of PROCESSES[name] on LINEAR, float64."""
  if name == 'gaussian':
    return gaussian_matrices(3, BETAS[:num_steps])
  return replacement_matrices(name, 1 - np.arange(num_steps + 1) / num_steps)


def between(name, s, t):
  """Returns Q_{s+1} ... Q_t."""
  size = len(PROCESSES[name].prior)
  return functools.reduce(np.matmul, list(matrices_of(name)[s:t]), np.eye(size))
