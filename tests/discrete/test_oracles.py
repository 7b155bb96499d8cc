"""Tables of a few discrete variables against explicit sums."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.discrete import oracles as discrete_oracles
from tests.states import LINEAR, PROCESSES, TABLE, matrices_of, prior_of, replacement_matrices

EACH = pytest.mark.parametrize('name', PROCESSES)


def joint_product(matrix, d=3):
  """Returns the matrix of all variables together, [S^D, S^D]."""
  product = matrix
  for _ in range(d - 1):
    product = np.kron(product, matrix)
  return product


def entropy(p, axis=None):
  return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=axis)


def bound_by_total_correlations(name, matrices):
  """H(x_0) + KL(q(x_T) || prior) + sum of E[TC(x_s | x_t)].

  The reverse process of the exact denoiser has the exact marginals of each
  variable: what it lacks is their dependence given x_t.
  """
  prior, size = prior_of(name), len(matrices[0])
  inside = np.zeros((size,) * 3)
  inside[:3, :3, :3] = TABLE.probs
  law, total = inside.ravel(), TABLE.entropy()
  for matrix in matrices:
    joint = law[:, None] * joint_product(matrix)  # x_s, x_t
    law = joint.sum(axis=0)
    given = (joint / np.where(law > 0, law, 1.0)).reshape(*(size,) * 3, -1)
    marginals = [
      entropy(given.sum(axis=tuple(j for j in range(3) if j != i)), axis=0) for i in range(3)
    ]
    total += law @ (sum(marginals) - entropy(given, axis=(0, 1, 2)))
  product = joint_product(prior[None])[0]
  log_ratio = np.log(np.where(law > 0, law / np.where(law > 0, product, 1), 1))
  return total + law @ log_ratio


@EACH
def test_the_bound_is_the_entropy_and_total_correlations(name):
  matrices = matrices_of(name)
  found = discrete_oracles.expected_bound(TABLE, matrices, prior_of(name))
  expected = bound_by_total_correlations(name, matrices)
  assert_allclose(found['total'], expected, rtol=1e-12)
  assert found['total'] > TABLE.entropy()
  parts = found['prior'] + found['diffusion'].sum()
  assert_allclose(found['total'], parts, rtol=1e-12)


@pytest.mark.parametrize('name', ['uniform', 'masking'])
def test_a_single_variable_has_a_tight_bound(name):
  """The variables are independent, so a few steps leave no gap."""
  oracle = discrete_oracles.table(np.array([0.2, 0.5, 0.3]))
  for num_steps in (1, 3):
    matrices, prior = matrices_of(name, num_steps), prior_of(name)
    found = discrete_oracles.expected_bound(oracle, matrices, prior)
    assert_allclose(found['total'], oracle.entropy(), rtol=1e-12)
    law = discrete_oracles.ancestral_law(oracle, matrices, prior)
    assert_allclose(law, oracle.probs, rtol=1e-12)


@pytest.mark.parametrize('name', ['uniform', 'masking'])
def test_the_bound_falls_to_the_entropy(name):
  """The gap is of order 1 / T; the KL of samples is less."""
  gaps = []
  for num_steps in (20, 80, 320):
    matrices, prior = matrices_of(name, num_steps), prior_of(name)
    found = discrete_oracles.expected_bound(TABLE, matrices, prior)
    law = discrete_oracles.ancestral_law(TABLE, matrices, prior)
    assert_allclose(law.sum(), 1.0, rtol=1e-12)
    gaps.append(found['total'] - TABLE.entropy())
    assert 0.0 < np.sum(TABLE.probs * np.log(TABLE.probs / law)) < gaps[-1]
  ratios = np.array(gaps[:-1]) / gaps[1:]
  assert (ratios > 3.3).all() and (ratios < 4.7).all()
  assert gaps[-1] < 0.01


def test_a_prior_that_excludes_a_state_has_an_infinite_bound():
  matrices = replacement_matrices('masking', [1.0, 0.5, 0.1])
  found = discrete_oracles.expected_bound(TABLE, matrices, np.eye(4)[3])
  assert found['prior'] == np.inf


@EACH
def test_the_denoiser_is_bayes_rule(name):
  """Sums over all x_0, with an x_t and a level for each example."""
  size = len(prior_of(name))
  xt = np.array(list(itertools.product(range(size), repeat=3)))
  steps = np.arange(len(xt)) % 6 + 1
  products = [np.eye(size)]
  for matrix in matrices_of(name):
    products.append(products[-1] @ matrix)
  expected = np.zeros((len(xt), 3, size))
  for n, x in enumerate(xt):
    q = products[steps[n]]
    for x0 in itertools.product(range(3), repeat=3):
      p = TABLE.probs[x0] * np.prod([q[a, b] for a, b in zip(x0, x, strict=True)])
      for i in range(3):
        expected[n, i, x0[i]] += p
  total = expected.sum(axis=-1, keepdims=True)
  possible = total[:, 0, 0] > 0
  denoise = jax.jit(TABLE.denoiser(PROCESSES[name]))
  logits = denoise(jnp.asarray(xt), LINEAR(steps / 6))
  expected = expected[possible] / total[possible]
  found = np.exp(np.asarray(logits))[possible]
  assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_samples_and_conditionals():
  draw = jax.jit(TABLE.sample, static_argnums=1)
  x0 = np.asarray(draw(jax.random.key(0), 20_000))
  counts = np.zeros((3, 3, 3))
  np.add.at(counts, tuple(x0.T), 1)
  error = np.sqrt(TABLE.probs * (1 - TABLE.probs) * len(x0)) + 1e-3
  assert (np.abs(counts - len(x0) * TABLE.probs) < 5 * error + 1).all()
  found = TABLE.conditional(np.array([0, 2, 1]), np.array([False, True, True]))
  expected = np.zeros((3, 3, 3))
  expected[:, 2, 1] = TABLE.probs[:, 2, 1] / TABLE.probs[:, 2, 1].sum()
  assert_allclose(found.probs, expected, rtol=1e-12)
