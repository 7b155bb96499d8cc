"""Bits per dimension of diffusion models of states whose bound is known."""

from types import SimpleNamespace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.metrics import order_gap, state_bits

SHAPE = 4, 4, 2
ONE_BIT = np.log(2.0) * np.prod(SHAPE)  # 1 bit/dim in nats


def measured(num_steps, terms):
  """Returns the metric, its arrays of a model with a bound of 3 bits/dim, and its calls."""
  metric = state_bits.state_elbo(num_times=7)
  model: Any = SimpleNamespace(
    num_steps=num_steps,
    state_bound=lambda params, keys, x0, cond, num_times, order: {
      'total': jnp.full(len(x0), 3.0 * ONE_BIT),
      **{name: jnp.asarray(x) * ONE_BIT for name, x in terms.items()},
    },
  )
  function = jax.jit(metric.measure(model))
  x0, keys = jnp.zeros((2, *SHAPE), int), jax.random.split(jax.random.key(0), 2)
  assert metric.calls is not None
  return metric, jax.device_get(function({}, keys, x0, {})), metric.calls(model, None)


def test_the_bound_is_in_bits_of_each_dimension(tmp_path):
  """In continuous time it has no terms, and num_times calls."""
  metric, arrays, calls = measured(None, {})
  assert_allclose(arrays['total'], 3.0, rtol=1e-6)
  [score] = metric.compute(arrays)
  assert score.estimate.value == pytest.approx(3.0) and score.note == 'bits/dim'
  assert calls == 7
  assert metric.report is not None
  assert metric.report(arrays, tmp_path) == {} and not [*tmp_path.iterdir()]


def test_terms_in_discrete_time_are_means_over_images(tmp_path):
  """A model of two steps has L_T and a term for each step, and a call for each."""
  terms = {'prior': [0.25, 0.75], 'diffusion': [[1.0, 1.5], [2.0, 0.5]]}
  metric, arrays, calls = measured(2, terms)
  assert calls == 2
  assert metric.report is not None
  content = metric.report(arrays, tmp_path)
  assert content['prior'] == pytest.approx(0.5)
  assert_allclose(content['terms'], [1.5, 1.0], rtol=1e-6)
  assert (tmp_path / 'terms.png').exists()


def test_the_order_gap_is_the_difference_to_all_together(tmp_path):
  """The orders have bounds of 3, 3.25 and 3.5 bits/dim, and equal keys."""
  bits = {'together': 3.0, 'left_to_right': 3.25, 'right_to_left': 3.5}
  assert [*bits] == [*get_args(order_gap.ElementOrder)] == [*order_gap.ORDERS]
  seen = []

  def state_bound(params, keys, x0, cond, num_times, order):
    seen.append((order, num_times, keys))
    return {'total': jnp.full(len(x0), bits[order] * ONE_BIT)}

  metric = state_bits.state_order_gap(5)
  model: Any = SimpleNamespace(num_steps=None, state_bound=state_bound)
  keys = jax.random.split(jax.random.key(0), 2)
  arrays = jax.device_get(metric.measure(model)({}, keys, jnp.zeros((2, *SHAPE)), {}))
  assert [(order, n) for order, n, _ in seen] == [(order, 5) for order in bits]
  assert all(given is keys for *_, given in seen)
  scores = {score.name: score.estimate.value for score in metric.compute(arrays)}
  assert scores == pytest.approx(
    {
      'order_gap_left_to_right': 0.25 * np.log(2.0),
      'order_gap_right_to_left': 0.5 * np.log(2.0),
    },
    rel=1e-5,
  )
  assert metric.calls is not None and metric.calls(model, None) == 15
