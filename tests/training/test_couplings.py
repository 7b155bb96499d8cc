"""Pairs of least cost against all permutations, and what a condition needs."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.core.couplings import squared_distances
from diffusion_jax.runtime import sharding
from diffusion_jax.training import couplings, flow_maps, objectives
from diffusion_jax.training.conditions import make_condition
from diffusion_jax.training.objectives import Context

EXACT = couplings.exact_coupling()
solve = jax.jit(couplings.exact)


def normals(*shapes):
  rng = np.random.default_rng(0)
  return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def test_the_best_of_all_permutations_of_six():
  (costs,) = normals((3, 6, 6))
  pairs = jax.jit(jax.vmap(couplings.exact))(costs)
  for cost, index in zip(costs, pairs, strict=True):
    best = min(itertools.permutations(range(6)), key=lambda p: cost[range(6), p].sum())
    np.testing.assert_array_equal(index, best)


def test_points_on_a_line_are_paired_in_their_order(key):
  rng = np.random.default_rng(0)
  x0, y = (rng.permutation(np.linspace(-1, 1, 300))[:, None] for _ in range(2))
  index = jax.jit(EXACT)(key, x0, 2.0 * y, {})
  order = np.argsort(x0[:, 0])
  np.testing.assert_array_equal(y[index][order, 0], np.sort(y[:, 0]))


def test_larger_batches_have_shorter_pairs():
  """The pairs of both halves are pairs of the whole."""
  x0, y = normals((64, 2), (64, 2))

  def mean_cost(part):
    cost = np.asarray(squared_distances(x0[part], y[part]))
    return cost[np.arange(len(cost)), solve(cost)].mean()

  halves = 0.5 * (mean_cost(slice(32)) + mean_cost(slice(32, 64)))
  independent = np.sum((x0 - y) ** 2, axis=1).mean()
  assert mean_cost(slice(64)) < halves < independent


@pytest.mark.parametrize('labels, mean', [({}, 4 / 9), ({'label': np.array([0, 1])}, 0.0)])
def test_the_law_of_noise_given_a_class(key, labels, mean):
  """All batches of two classes at -1 and 1, and y from {-1, 0, 1}.

  Unless labels are in the cost, class 1 gets the larger y, whose mean is 4 / 9.
  """
  x0 = np.float32([[-1.0], [1.0]])
  batches = np.array([*itertools.product([-1.0, 0.0, 1.0], repeat=2)])[..., None]
  index = jax.jit(jax.vmap(lambda y: EXACT(key, x0, y, labels)))(batches)
  of_class_1 = batches[np.arange(9), index[:, 1], 0]
  np.testing.assert_allclose(of_class_1.mean(), mean, atol=1e-6)


def test_a_small_ratio_keeps_the_noise_of_each_context(key):
  x0, y, contexts = normals((50, 2), (50, 2), (50, 3))
  for ratio, least, most in ((0.02, 0.9, 1.0), (1.0, 0.0, 0.2)):
    index = couplings.exact_coupling(ratio)(key, x0, y, {'context': jnp.asarray(contexts)})
    assert least <= np.mean(index == np.arange(50)) <= most


def test_sinkhorn_draws_from_the_rows_of_its_plan(key):
  """Close to a permutation of distant points, each row has one entry."""
  (x0, noise), order = normals((20, 2), (20, 2)), np.random.default_rng(1).permutation(20)
  x0 *= 100.0
  y = x0[order] + 0.01 * noise
  index = jax.jit(couplings.sinkhorn_coupling(epsilon=1e-4))(key, x0, y, {})
  np.testing.assert_array_equal(order[index], np.arange(20))


def test_eight_devices_have_the_pairs_of_one(key):
  """Their number of rows is one at which copies to the host have a thread."""
  x0, y = normals((256, 8), (256, 8))
  pairs = jax.jit(lambda x0, y: y[EXACT(key, x0, y, {})])
  place = sharding.batch_sharding(sharding.make_mesh())
  np.testing.assert_array_equal(pairs(*jax.device_put((x0, y), place)), pairs(x0, y))


OBJECTIVES = {
  objectives.denoising: {'times': dj.uniform_times},
  flow_maps.mean_flow: {},
  flow_maps.lagrangian: {},
  flow_maps.progressive: {},
}


@pytest.mark.parametrize('make', OBJECTIVES)
def test_objectives_pair_numbers_and_noise_of_a_class_in_their_order(make, key):
  network = dj.Network(None, dj.time_input(1.0), condition=make_condition(dropout=0.5))
  coupled = functools.partial(make, network, coupling=EXACT, **OBJECTIVES[make])
  with pytest.raises(ValueError, match='a coupling needs straight paths'):
    coupled(dj.CosineSchedule())
  schedule = dj.RectifiedFlowSchedule()
  batch = {'x': normals((40, 1))[0], 'label': np.arange(40) % 2}

  def noise(objective):
    inputs, _ = jax.jit(lambda: objective.draw(key, batch, Context()))()
    return getattr(inputs, 'inputs', inputs).eps[:, 0]

  alone = noise(make(network, schedule, **OBJECTIVES[make]))
  paired = noise(coupled(schedule))
  for label in range(2):
    x0, y = batch['x'][label::2, 0], paired[label::2]
    np.testing.assert_array_equal(np.argsort(x0), np.argsort(y))
    assert not np.array_equal(np.argsort(x0), np.argsort(alone[label::2]))
