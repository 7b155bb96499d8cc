"""Pairs of least cost against all permutations, and what a condition needs."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import diffusion_jax as dj
from diffusion_jax.bridges.objective import bridge, schrodinger_coupling
from diffusion_jax.few_steps import average_velocity as flow_maps
from diffusion_jax.runtime import sharding
from diffusion_jax.training import (
  couplings,
  objectives,
)
from diffusion_jax.training.objectives import Context, make_condition
from tests.core.test_couplings import bisected, literal as plan_of, normals
from tests.rows import slow
from tests.transcribed import transcribes

EXACT, COUPLE = couplings.exact_coupling(), couplings.sinkhorn_coupling(0.1)


@jax.jit
def by_ratio(ratio, key, *args):
  return couplings.exact_coupling(ratio)(key, *args)


@transcribes(
  'OT-CFM (Tong et al. 2023)',
  'the plan of least cost of a batch',
  '`training.couplings.exact`',
)
def test_the_best_of_all_permutations_of_six():
  (costs,) = normals((3, 6, 6))
  pairs = jax.jit(jax.vmap(couplings.exact))(costs)
  for cost, index in zip(costs, pairs, strict=True):
    best = min(itertools.permutations(range(6)), key=lambda p: cost[range(6), p].sum())
    assert_array_equal(index, best)


@transcribes(
  'C²OT (Cheng & Schwing 2025)',
  'the cost of conditions, its weight by a share of pairs',
)
@pytest.mark.parametrize('labels, mean', [({}, 4 / 9), ({'label': np.array([0, 1])}, 0.0)])
def test_the_law_of_noise_given_a_class(key, labels, mean):
  """The batches are all of two classes at -1 and 1, and y from {-1, 0, 1}.

  Unless labels are in the cost, class 1 gets the larger y, whose mean is 4 / 9.
  """
  x0 = np.float32([[-1.0], [1.0]])
  batches = np.array([*itertools.product([-1.0, 0.0, 1.0], repeat=2)])[..., None]
  index = jax.jit(jax.vmap(lambda y: EXACT(key, x0, y, labels)))(batches)
  of_class_1 = batches[np.arange(9), index[:, 1], 0]
  assert_allclose(of_class_1.mean(), mean, atol=1e-6)


def frequencies(index):
  """Returns how often each pair is drawn, [B, B], of index [draws, B]."""
  return np.mean(np.asarray(index)[..., None] == np.arange(index.shape[1]), axis=0)


def test_sinkhorn_draws_pairs_as_often_as_the_plan_has_them_wherever_the_sets_are(key):
  """Epsilon is half of the mean squared distance of centred sets."""
  x0, y = normals((4, 2), (4, 2))
  y *= 3.0  # the scale is of both sets
  centred, other = x0 - x0.mean(axis=0), y - y.mean(axis=0)
  cost = np.square(centred.astype(np.float64)[:, None] - other[None]).sum(axis=2)
  expected = 4.0 * plan_of(cost, 0.5 * cost.mean(), 500)
  coupling = couplings.sinkhorn_coupling(0.5)
  draw = jax.jit(
    lambda x0, y: jax.vmap(lambda k: coupling(k, x0, y, {}))(jax.random.split(key, 4000))
  )
  for shift in ((0.0, 0.0), (1000.0, 1000.0), (0.0, 1000.0)):
    found = frequencies(draw(*(np.float32(a + b) for a, b in zip((x0, y), shift, strict=True))))
    assert_allclose(found, expected, atol=4.5 * 0.5 / 4000**0.5 + 1e-3)


def test_entropic_plans_keep_labels_and_contexts(key):
  """Plans keep labels of unequal size, and contexts: few contexts leave one y."""
  x0, y, contexts = normals((40, 2), (40, 2), (40, 3))
  labels = np.minimum(np.arange(40) % 7, 2)
  one_class, one_context = np.zeros_like(labels), np.zeros_like(contexts)
  pair = jax.jit(lambda label, context: COUPLE(key, x0, y, {'label': label, 'context': context}))
  of_class = np.asarray(pair(labels, one_context))
  of_context, free = pair(one_class, contexts), pair(one_class, one_context)
  assert_array_equal(labels[of_class], labels)
  assert len({*of_class.tolist()}) > 15
  same = [np.mean(index == np.arange(40)) for index in (of_context, free)]
  assert same[0] > 0.7 > 0.4 > same[1]


@pytest.mark.parametrize('shift', [0.0, 2.0])
def test_contexts_weigh_as_in_the_release(shift, key):
  """The pairs of C2OT literally; its weight is of the distances as they are."""
  x0, y, contexts = (x.astype(np.float64) for x in normals((40, 3), (40, 3), (40, 2)))
  y += shift
  distances, gaps = (cdist(a, b, 'sqeuclidean') for a, b in ((x0, y), (contexts,) * 2))
  cost = distances + bisected(distances, gaps, 0.2) * gaps
  cond = {'context': contexts}
  index = by_ratio(0.2, key, x0, y, cond)
  best = cost[linear_sum_assignment(cost)].sum()
  assert cost[np.arange(40), index].sum() == pytest.approx(best, rel=1e-5)


def test_equal_points_have_all_pairs(key):
  points = np.full((5, 3), 7.0, np.float32)
  for coupling in (COUPLE, schrodinger_coupling(0.5), EXACT):
    pairs = jax.jit(jax.vmap(lambda k, c=coupling: c(k, points, points, {})))
    index = pairs(jax.random.split(key, 100))
    assert {*np.unique(index).tolist()} == {*range(5)}


def test_without_a_plan_pairs_are_nan(key):
  """A plan comes with its error."""
  x0, y = normals((30, 2), (30, 2))
  too_small, good = 1e-4, 0.5
  broken = x0 * np.where(np.arange(30)[:, None] == 3, np.nan, 1.0).astype(np.float32)
  pair = lambda coupling, x0: couplings.paired(coupling, key, x0, y, {})
  run = jax.jit(lambda diffusion, x0: pair(schrodinger_coupling(diffusion), x0))
  assert np.isnan(jax.jit(lambda x0: pair(EXACT, x0)[0])(broken)).all()
  for diffusion, x in ((too_small, x0), (good, broken)):
    pairs, metrics = run(diffusion, x)
    assert np.isnan(pairs).all() and np.isnan(metrics['column_error']).all()
  pairs, metrics = jax.device_get(run(good, x0))
  assert {*pairs[:, 0].tolist()} <= {*y[:, 0].tolist()}
  assert np.all(metrics['column_error'] < 0.0101) and metrics['column_error'].shape == (30,)


@pytest.mark.parametrize('value', [0.0, -1.0, np.nan, np.inf])
def test_couplings_without_an_epsilon_are_refused(value):
  for make in (couplings.sinkhorn_coupling, schrodinger_coupling):
    with pytest.raises(ValueError, match='must be a number'):
      make(value)


def test_eight_devices_have_the_pairs_of_one(key):
  """A batch of this size is copied to the host by a thread."""
  x0, y = normals((256, 8), (256, 8))
  entropic = couplings.sinkhorn_coupling()
  run = jax.jit(lambda x0, y: [pair(key, x0, y, {}) for pair in (EXACT, entropic)])
  place = sharding.batch_sharding(sharding.make_mesh())
  for eight, one in zip(run(*jax.device_put((x0, y), place)), run(x0, y), strict=True):
    assert_array_equal(eight, one)


def identity(params, x, noise, cond, *, key=None):
  return x


OBJECTIVES = (
  functools.partial(objectives.denoising, times=dj.uniform_times),
  flow_maps.mean_flow,
  flow_maps.lagrangian,
  flow_maps.progressive,
)


def test_objectives_pair_numbers_and_noise_of_a_class_in_their_order(key):
  network = dj.Network(identity, dj.time_input(1.0), condition=make_condition(dropout=0.5))
  batch = {'x': normals((40, 1))[0], 'label': np.arange(40) % 2}
  made = []
  for make in OBJECTIVES:
    for schedule in (dj.CosineSchedule(), dj.RectifiedFlowSchedule()):
      made.append(make(network, schedule, coupling=EXACT))
  for objective in made:
    inputs, _ = objective.draw(key, batch, Context())
    paired = np.asarray(getattr(inputs, 'inputs', inputs).eps[:, 0])
    for label in range(2):
      x0, y = batch['x'][label::2, 0], paired[label::2]
      assert_array_equal(np.argsort(x0), np.argsort(y))


@pytest.mark.parametrize('correlation', [0.0, 0.8])
def test_the_ode_of_curved_paths_ends_in_the_data(correlation):
  """Of N(0, s^2) whose noise has a correlation r with it, where E[x_0 | x_t] is linear.

  The error of the deviation of the draws falls as 1 / N; the denoiser of independent noise has
  another one.
  """
  s, schedule = 0.4, dj.CosineSchedule(-14.0, 14.0)
  assert not couplings.is_straight(schedule) and couplings.is_straight(dj.RectifiedFlowSchedule())

  def deviation(n, r):
    def denoise(x, level):
      a, b = level.alpha, level.sigma
      variance = a**2 * s**2 + b**2 + 2 * a * b * r * s
      return dj.Prediction((a * s**2 + b * r * s) / variance * x)

    levels = dj.level_grid(schedule, n)
    return float(dj.sample(jax.random.key(0), denoise, dj.ddim(), levels, jnp.ones((1, 1)))[0, 0])

  few, many = (deviation(n, correlation) - s for n in (50, 200))
  assert abs(many) < 5e-3 and 3.0 < few / many < 5.0


# The losses of average velocities draw their pairs in one place.
SAME = flow_maps.lagrangian, flow_maps.progressive


@pytest.mark.parametrize('make', [*(slow(x) if x in SAME else x for x in OBJECTIVES), bridge])
def test_the_pairs_have_a_key_of_their_own(make, key):
  network = dj.Network(identity, dj.time_input(1.0))
  objective = make(network, dj.RectifiedFlowSchedule(), coupling=COUPLE)
  x, y = normals((8, 2), (8, 2))
  with jax.debug_key_reuse(True):
    jax.eval_shape(objective.draw, key, {'x': x, 'context': y}, Context())


def test_points_on_a_line_are_paired_in_their_order(key):
  rng = np.random.default_rng(0)
  x0, y = (rng.permutation(np.linspace(-1, 1, 300))[:, None] for _ in range(2))
  index = jax.jit(EXACT)(key, x0, 2.0 * y, {})
  order = np.argsort(x0[:, 0])
  assert_array_equal(y[index][order, 0], np.sort(y[:, 0]))


def test_a_small_ratio_keeps_the_noise_of_each_context(key):
  x0, y, contexts = normals((40, 3), (40, 3), (40, 2))
  for ratio, least, most in ((0.02, 0.9, 1.0), (1.0, 0.0, 0.2)):
    index = by_ratio(ratio, key, x0, y, {'context': contexts})
    assert least <= np.mean(index == np.arange(40)) <= most


def test_sinkhorn_draws_from_the_rows_of_its_plan(key):
  """Close to a permutation of distant points, each row has one entry."""
  (x0, noise), order = normals((20, 2), (20, 2)), np.random.default_rng(1).permutation(20)
  x0 *= 100.0
  y = x0[order] + 0.01 * noise
  index = jax.jit(couplings.sinkhorn_coupling(epsilon=1e-4))(key, x0, y, {})
  assert_array_equal(order[index], np.arange(20))
