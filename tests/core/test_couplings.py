"""Costs against direct sums, entropic plans against linear programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linprog
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from diffusion_jax.core import couplings
from tests.jitted import jitted
from tests.transcribed import transcribes

plan_of = jax.jit(couplings.sinkhorn)  # the iterations are an argument


def normals(*shapes):
  rng = np.random.default_rng(0)
  return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize('size', [2, 40])
def test_distances_keep_their_digits_wherever_the_points_are(size):
  """Far sets, near clusters that are far apart, and points next to each other."""
  x0, y = normals((20, size), (20, size))
  sign = np.sign(x0[:, :1])
  near = np.concatenate([x0[:10] + np.float32(1e-3), y[10:]])
  sets = (x0, y), (x0 + 1000, y + 1000), (x0 - 3e4, y + 3e4), (x0 + 1000 * sign, y - 1000 * sign)
  for a, b in (*sets, (x0, near), (x0 + 100, near + 100)):
    expected = cdist(a.astype(np.float64), b.astype(np.float64), 'sqeuclidean')
    assert_allclose(jitted(couplings.squared_distances)(a, b), expected, rtol=1e-3)


@transcribes('Sinkhorn (Cuturi 2013)', 'the entropic plan', '`core.couplings.sinkhorn`')
def test_the_entropic_plan_is_optimal():
  """log(plan) + cost / epsilon is r_i + c_j, and the marginals are uniform."""
  (cost,) = normals((4, 7))
  log_plan = np.asarray(plan_of(cost, 0.5, 200), np.float64)
  plan, potentials = np.exp(log_plan), log_plan + cost / 0.5
  assert_allclose(plan.sum(axis=0), 1 / 7, rtol=1e-5)
  assert_allclose(plan.sum(axis=1), 1 / 4, rtol=1e-5)
  additive = potentials[:, :1] + potentials[:1] - potentials[0, 0]
  assert_allclose(potentials, additive, atol=1e-5)


def test_the_gradient_of_the_entropic_cost_is_the_plan():
  """The envelope theorem gives d/dcost of min(<plan, cost> + epsilon <plan, log plan>).

  The gradient is compared with labels that forbid pairs, and without.
  """
  (cost,) = normals((6, 6))
  allowed = np.arange(6)[:, None] % 2 == np.arange(6) % 2

  def least(cost, allowed):
    log_plan = couplings.sinkhorn(jnp.where(allowed, cost, jnp.inf), 0.5, 200)
    terms = jnp.exp(log_plan) * (cost + 0.5 * jnp.where(allowed, log_plan, 0.0))
    return jnp.sum(terms), jnp.exp(log_plan)

  gradient = jax.jit(jax.grad(least, has_aux=True))
  for among in (allowed, np.ones_like(allowed)):
    found, plan = gradient(cost, among)
    assert_allclose(found, plan, atol=1e-6)


def literal(cost, epsilon, num_iterations):
  """Iterates Sinkhorn's two equations in float64, from large epsilons to the last."""
  columns = np.zeros(len(cost[0]))
  for e in epsilon * 2.0 ** np.clip(np.arange(12, 12 - num_iterations, -1), 0, None):
    rows = -e * (logsumexp((columns - cost) / e, axis=1) + np.log(len(cost)))
    columns = -e * (logsumexp((rows[:, None] - cost) / e, axis=0) + np.log(len(columns)))
  return np.exp((rows[:, None] + columns - cost) / epsilon)


def test_every_column_of_the_plan_holds_however_small_epsilon():
  """Plans of N(0, I) and N(3, I) in 2 dimensions at diffusions .05 and .5, and in 784."""
  points = [x.astype(np.float64) for x in normals((32, 2), (32, 2), (32, 784), (32, 784))]
  near, wide = (cdist(x0, y + 3.0, 'sqeuclidean') for x0, y in (points[:2], points[2:]))
  costs, epsilon = [near, near, wide], 2.0 * np.array([0.05, 0.5, 0.5]) ** 2
  column_error = jitted(couplings.column_error)
  for cost, eps in zip(costs, epsilon, strict=True):
    log_plan = np.asarray(plan_of(np.float32(cost), eps, 2000, 0.01))
    plan = np.exp(np.float64(log_plan))
    error = np.abs(32.0 * plan.sum(axis=0) - 1.0).max()
    assert column_error(log_plan) == pytest.approx(error, abs=1e-4)
    assert error < 0.0101
    assert_allclose(32.0 * plan.sum(axis=1), 1.0, atol=3e-3)
    assert np.abs(plan - literal(cost, eps, 1000)).sum() < 0.02
  assert column_error(plan_of(np.float32(near), epsilon[0], 12, 0.01)) > 0.1


@pytest.mark.parametrize('epsilon', [0.0, -1.0, np.nan, 1e-7])
def test_an_epsilon_without_a_plan_is_refused(epsilon):
  (points,) = normals((32, 2))
  cost = cdist(points, points + 1.0, 'sqeuclidean').astype(np.float32)
  message = 'must be positive' if not epsilon > 0.0 else 'float32 does not resolve cost / epsilon'
  with pytest.raises(ValueError, match=message):
    couplings.sinkhorn(cost, epsilon)
  with jax.debug_nans(False):
    assert np.isnan(plan_of(cost, epsilon, 2000, 1e-6)).all()


@pytest.mark.parametrize('size, resolved', [(2e5, True), (2e6, False)])
def test_a_plan_is_given_where_float32_resolves_its_logarithm(size, resolved):
  """Two by two its entries are a closed form; one number is added to all costs."""
  cost = np.asarray(size + np.array([[0.0, 0.5], [0.75, 0.25]]), np.float32)
  odds = np.exp(np.float64(cost[0, 1] + cost[1, 0] - cost[0, 0] - cost[1, 1]) / 2.0)
  exact = 0.5 * np.array([[odds, 1.0], [1.0, odds]]) / (1.0 + odds)
  with jax.debug_nans(False):
    found = plan_of(cost, 1.0, 500)
  assert np.isnan(found).all() == (not resolved)
  if resolved:
    assert_allclose(np.exp(np.float64(found)), exact, rtol=0.05)


def bisected(distances, gaps, ratio):
  """Finds w as C2OT's release does: by bisection, in float64."""
  share = lambda w: np.mean(distances + w * gaps <= np.diag(distances)[:, None])
  low, high = 0.0, 1e4
  for _ in range(200):
    middle = 0.5 * (low + high)
    low, high = (middle, high) if share(middle) >= ratio else (low, middle)
  return low


@transcribes(
  'C²OT (Cheng & Schwing 2025)',
  'the cost of conditions, its weight by a share of pairs',
  '`core.couplings.conditional_cost`, `condition_weight`',
)
def test_the_weight_of_contexts_leaves_a_share_of_pairs():
  x0, y, contexts = normals((40, 3), (40, 3), (40, 2))
  contexts[:8] = contexts[0]  # pairs of equal contexts have no term
  cond = {'context': contexts, 'drop': np.ones(40, bool)}
  distances, gaps = (
    np.square(a.astype(np.float64)[:, None] - b[None]).sum(axis=2)
    for a, b in ((x0, y), (contexts,) * 2)
  )
  for ratio in (0.3, 0.05):
    cost = jitted(couplings.conditional_cost)(np.float32(distances), cond, ratio)
    weight = bisected(distances, gaps, ratio)
    assert_allclose(cost, distances + weight * gaps, rtol=1e-4)


def test_pairs_of_two_labels_are_forbidden():
  ones = np.ones((6, 6), np.float32)
  cost = jitted(couplings.conditional_cost)(ones, {'label': np.array([1, 0, 1, 0, 2, 2])})
  assert_array_equal(cost[0], [1.0, np.inf, 1.0, *[np.inf] * 3])
  log_plan = plan_of(cost, 0.5, 2000)
  assert_allclose(np.exp(log_plan)[0], [1 / 12, 0.0, 1 / 12, 0.0, 0.0, 0.0], rtol=1e-6)
  with pytest.raises(ValueError, match="not the condition 'text'"):
    couplings.conditional_cost(cost, {'text': np.zeros((6, 2))})


def linear_program(cost):
  """Returns the plan [B, N] of least cost with uniform marginals."""
  rows, columns = cost.shape
  sums = [np.kron(np.eye(rows), np.ones(columns)), np.kron(np.ones(rows), np.eye(columns))]
  totals = np.concatenate([np.full(rows, 1 / rows), np.full(columns, 1 / columns)])
  return linprog(cost.ravel(), A_eq=np.concatenate(sums), b_eq=totals).x.reshape(cost.shape)


@transcribes('Sinkhorn (Cuturi 2013)', 'the entropic plan')
@pytest.mark.parametrize('shape', [(6, 6), (4, 7)])
def test_the_cost_of_the_plan_approaches_the_linear_programs(shape):
  """The plan's cost is above the linear program's by at most epsilon log B."""
  (cost,) = normals(shape)
  least = np.sum(linear_program(cost.astype(np.float64)) * cost)
  for epsilon in (0.1, 0.01):
    plan = np.exp(plan_of(cost, epsilon, 2000))
    assert -1e-5 < np.sum(plan * cost) - least < epsilon * np.log(shape[0])
