"""Costs against direct sums, entropic plans against linear programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from diffusion_jax.core import couplings
from tests.jitted import jitted


def normals(*shapes):
  rng = np.random.default_rng(0)
  return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def test_squared_distances_of_images_and_of_equal_points():
  x0, y = normals((5, 2, 2, 3), (4, 2, 2, 3))
  y[1] = x0[3]
  expected = np.square(x0.astype(np.float64)[:, None] - y[None]).sum(axis=(2, 3, 4))
  distances = jitted(couplings.squared_distances)(x0, y)
  np.testing.assert_allclose(distances, expected, rtol=1e-5, atol=1e-6)
  assert distances[3, 1] == 0.0


def linear_program(cost):
  """Returns the plan [B, N] of least cost with uniform marginals."""
  rows, columns = cost.shape
  sums = [np.kron(np.eye(rows), np.ones(columns)), np.kron(np.ones(rows), np.eye(columns))]
  totals = np.concatenate([np.full(rows, 1 / rows), np.full(columns, 1 / columns)])
  return linprog(cost.ravel(), A_eq=np.concatenate(sums), b_eq=totals).x.reshape(cost.shape)


@pytest.mark.parametrize('shape', [(6, 6), (4, 7)])
def test_the_cost_of_the_plan_approaches_the_linear_programs(shape):
  """It is above by at most epsilon times the entropy of a row, log B."""
  (cost,) = normals(shape)
  least = np.sum(linear_program(cost.astype(np.float64)) * cost)
  for epsilon in (0.1, 0.01):
    plan = np.exp(jitted(couplings.sinkhorn)(cost, epsilon, num_iterations=2000))
    assert -1e-5 < np.sum(plan * cost) - least < epsilon * np.log(shape[0])


def test_the_entropic_plan_is_optimal():
  """log(plan) + cost / epsilon is r_i + c_j, and the marginals are uniform."""
  (cost,) = normals((5, 7))
  log_plan = np.asarray(jitted(couplings.sinkhorn)(cost, 0.5, num_iterations=200), np.float64)
  plan, potentials = np.exp(log_plan), log_plan + cost / 0.5
  np.testing.assert_allclose(plan.sum(axis=0), 1 / 7, rtol=1e-5)
  np.testing.assert_allclose(plan.sum(axis=1), 1 / 5, rtol=1e-5)
  additive = potentials[:, :1] + potentials[:1] - potentials[0, 0]
  np.testing.assert_allclose(potentials, additive, atol=1e-5)


def test_the_gradient_of_the_entropic_cost_is_the_plan():
  """By the envelope theorem, d/dcost min(<plan, cost> + epsilon <plan, log plan>)."""
  (cost,) = normals((5, 7))

  def least(cost):
    log_plan = couplings.sinkhorn(cost, 0.5, 200)
    return jnp.sum(jnp.exp(log_plan) * (cost + 0.5 * log_plan)), log_plan

  gradient, log_plan = jax.jit(jax.grad(least, has_aux=True))(cost)
  np.testing.assert_allclose(gradient, np.exp(log_plan), atol=1e-6)


def bisected(distances, gaps, ratio):
  """Finds w as C2OT's release does: by bisection, in float64."""
  share = lambda w: np.mean(distances + w * gaps <= np.diag(distances)[:, None])
  low, high = 0.0, 1e4
  for _ in range(200):
    middle = 0.5 * (low + high)
    low, high = (middle, high) if share(middle) >= ratio else (low, middle)
  return low


def test_the_weight_of_contexts_leaves_a_share_of_pairs():
  x0, y, contexts = normals((40, 3), (40, 3), (40, 2))
  cond = {'context': contexts, 'drop': np.ones(40, bool)}
  distances, gaps = (
    np.square(a.astype(np.float64)[:, None] - b[None]).sum(axis=2)
    for a, b in ((x0, y), (contexts,) * 2)
  )
  for ratio in (0.3, 0.05):
    cost = jitted(couplings.conditional_cost)(jnp.float32(distances), cond, ratio)
    weight = bisected(distances, gaps, ratio)
    np.testing.assert_allclose(cost, distances + weight * gaps, rtol=1e-4)


def test_pairs_of_two_labels_are_forbidden():
  cost = couplings.conditional_cost(jnp.ones((3, 3)), {'label': jnp.array([1, 0, 1])})
  np.testing.assert_array_equal(cost[0], [1.0, np.inf, 1.0])
  log_plan = jitted(couplings.sinkhorn)(cost, 0.5)
  np.testing.assert_allclose(np.exp(log_plan)[0], [1 / 6, 0.0, 1 / 6], rtol=1e-6)
  with pytest.raises(ValueError, match="not the condition 'text'"):
    couplings.conditional_cost(cost, {'text': jnp.zeros((3, 2))})
