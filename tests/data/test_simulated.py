"""Simulators are sources whose examples follow from the seed and the index."""

import functools
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.data import pipeline
from diffusion_jax.data.simulated import Simulated, is_simulator, of_simulator, simulated
from diffusion_jax.data.spec import ArraySpec, Facts


def gaussian(rng, n, scale: float = 1.0, nan: float = 0.0):
  """x ~ N(0, scale^2) in two numbers, seen with noise 1; a part has NaN in one number."""
  x = scale * rng.normal(size=(n, 2))
  y, lost = x[:, :1] + rng.normal(size=(n, 1)), rng.random(n)
  x[lost < 0.5 * nan, 1] = y[lost > 1.0 - 0.5 * nan] = np.nan
  return {'x': x, 'context': y}


def test_the_facts_are_those_of_the_arrays():
  source = of_simulator(gaussian, num_examples=30)
  assert source.facts == Facts(ArraySpec((2,)), 0, ArraySpec((1,)))
  assert len(source) == 30 and source.in_memory
  assert len(of_simulator(gaussian, 'test', num_examples=30, num_test=7)) == 7
  labelled = lambda rng, n: {
    'x': rng.integers(0, 256, (n, 4, 4, 1), np.uint8),
    'label': np.arange(n) % 3,
  }
  source = of_simulator(labelled, num_classes=3)
  assert source.facts == Facts(ArraySpec((4, 4, 1), 256), 3)
  assert source.read(np.array([4]))['label'] == [1]
  integers = of_simulator(lambda rng, n: {'x': rng.poisson(9, (n, 2))})
  assert integers.facts.x == ArraySpec((2,))  # counts are numbers


def test_draws_follow_from_the_seed_the_split_and_the_index():
  """More examples keep the first ones; other seeds and splits have others."""
  index = np.array([1700, 3, 999, 1000])
  read = lambda **fields: of_simulator(gaussian, **fields).read(index)['x']
  x = read(num_examples=3000)
  assert_array_equal(x, read(num_examples=4000))
  assert_array_equal(x, Simulated(gaussian, 3000, (0, False)).read(index)['x'])
  others = [
    read(num_examples=3000, draws=1),
    read(split='test', num_test=3000),
    read(split='test', num_test=3000, draws=1),
  ]
  assert len({a.tobytes() for a in (x, *others)}) == 4


def batches(source, rows, steps):
  return [pipeline.batch_at(source, 700, 5, step, rows=rows)['x'] for step in steps]


@pytest.mark.parametrize('size', [2500, 10])
def test_fresh_batches_are_the_same_for_any_hosts_and_after_a_resume(size):
  """A batch may need several blocks and epochs; no draw comes twice."""
  make = functools.partial(of_simulator, gaussian, num_examples=size)
  whole = batches(make(fresh=True), slice(None), range(6))
  assert_array_equal(whole[3:], batches(make(fresh=True), slice(None), range(3, 6)))
  hosts = [batches(make(fresh=True), rows, range(6)) for rows in (slice(350), slice(350, 700))]
  assert_array_equal(np.concatenate(hosts, axis=1), whole)
  drawn = np.concatenate(whole)
  assert len(np.unique(drawn[:, 0])) == 4200
  assert not np.isin(pipeline.batch_at(make(fresh=True), 700, 6, 0)['x'], drawn).any()
  fixed = np.concatenate(batches(make(), slice(None), range(6)))
  assert len(np.unique(fixed[:, 0])) == size


def test_simulations_with_nan_are_left_out_or_replaced(capsys):
  fails = functools.partial(gaussian, nan=0.2)
  source = of_simulator(fails, num_examples=2300)
  lost = 2300 - len(source)
  assert abs(lost - 460) < 5 * (2300 * 0.2 * 0.8) ** 0.5
  assert capsys.readouterr().out == f'{lost:,} of 2,300 simulations have NaN and are left out\n'
  arrays = source.read(np.arange(len(source)))
  assert all(np.isfinite(a).all() for a in arrays.values())
  fresh = of_simulator(fails, num_examples=2300, fresh=True)
  again = fresh.read(np.arange(2300))
  assert len(fresh) == 2300 and all(np.isfinite(a).all() for a in again.values())
  assert np.isin(arrays['x'][:, 0], again['x'][:, 0]).all()  # those without NaN stay
  assert not capsys.readouterr().out
  of_simulator(gaussian)
  assert not capsys.readouterr().out


def test_bounds_are_checked():
  uniform = lambda rng, n: {'x': rng.uniform(0, 2, (n, 2))}
  facts = of_simulator(uniform, bounds=(0.0, 2.0)).facts
  assert (facts.x.low, facts.x.high) == ((0.0, 0.0), (2.0, 2.0))
  later = lambda rng, n: {'x': rng.uniform(0, 1 + (n < 100), (n, 2))}
  fresh = of_simulator(later, num_examples=140, bounds=(0.0, 1.0), fresh=True)
  fresh.read(np.arange(90))
  with pytest.raises(ValueError, match='examples are outside bounds'):
    fresh.read(np.arange(130))


def test_fields_of_a_simulator_are_those_of_the_config():
  constructor: Any = simulated(gaussian)
  assert constructor(split='train', num_examples=20, scale=1e6).x.std() > 1e5
  assert constructor(num_examples=20).x.std() < 10


def test_a_simulator_is_a_function_of_rng_and_n():
  assert is_simulator(gaussian)
  for other in (lambda n, rng: 0, lambda rng: 0, of_simulator, Simulated, 3):
    assert not is_simulator(other)


def test_joint_simulations_are_one_vector():
  """The same draws; bounds are of the parameters."""
  fields: Any = {'num_examples': 1500, 'bounds': (-9.0, 9.0)}
  pairs = of_simulator(gaussian, **fields)
  for fresh in (False, True):
    joint = of_simulator(gaussian, joint=True, fresh=fresh, **fields)
    arrays = pairs.read(np.arange(1500))
    both = np.concatenate([arrays['x'], arrays['context']], axis=1)
    found = joint.read(np.arange(1500))
    assert [*found] == ['x']
    assert_array_equal(found['x'], both)
    low, high = (-9.0, -9.0), (9.0, 9.0)
    assert joint.facts == Facts(ArraySpec((3,), low=low, high=high))


@pytest.mark.parametrize('fresh', [False, True])
def test_the_box_of_a_joint_vector_covers_all_of_x(fresh):
  """x of the shape [3, 2] is six numbers, and the last axis has two ends."""
  x = lambda rng, n: rng.uniform([0.0, 5.0], [1.0, 6.0], (n, 3, 2))
  pairs = lambda rng, n: {'x': x(rng, n), 'context': np.zeros((n, 1))}
  fields: Any = {'num_examples': 30, 'joint': True, 'fresh': fresh}
  for bounds, low, high in (
    ((0.0, 1.0, 5.0, 6.0), (0.0, 5.0), (1.0, 6.0)),
    ((0.0, 6.0), (0.0, 0.0), (6.0, 6.0)),
  ):
    facts = of_simulator(pairs, bounds=bounds, **fields).facts
    assert facts.x == ArraySpec((7,), low=3 * low, high=3 * high)

  def outside(rng, n):
    arrays = pairs(rng, n)
    arrays['x'][:, 2, 0] = 1.5
    return arrays

  with pytest.raises(ValueError, match='outside bounds'):
    of_simulator(outside, bounds=(0.0, 1.0, 5.0, 6.0), **fields)


@pytest.mark.parametrize('fresh', [False, True])
def test_labels_that_are_asked_for_must_be_there(fresh):
  fields: Any = {'num_examples': 30, 'num_classes': 3, 'fresh': fresh}
  with pytest.raises(ValueError, match='needs labels in 0..2, .* have none'):
    of_simulator(gaussian, **fields)
  labelled = lambda rng, n: gaussian(rng, n) | {'label': np.arange(n) % 4}
  with pytest.raises(ValueError, match='needs labels in 0..2, .* have 0..3'):
    of_simulator(labelled, **fields)
  fields['num_classes'] = 4
  assert of_simulator(labelled, **fields).read(np.array([5]))['label'] == [1]
