"""The order gap of exact denoisers, of one that contradicts itself, and who has none."""

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import diffusion_jax as dj
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.metrics import order_gap
from diffusion_jax.metrics.estimates import Estimate
from diffusion_jax.testing import oracles

T = 3
SCHEDULE = dj.CosineSchedule(-8.0, 8.0)
COV = 0.8 ** np.abs(np.subtract.outer(np.arange(T), np.arange(T)))
LAW = oracles.gaussian(np.zeros(T), COV)
LAST = SCHEDULE(1e-3)


def model_of(denoise, levels_differ=True, shared=1) -> Any:
  return types.SimpleNamespace(
    facts=Facts(ArraySpec((T,), 0)),
    schedule=lambda params: SCHEDULE,
    denoiser=lambda params, cond: denoise,
    levels_differ=levels_differ,
    shared=shared,
  )


def arrays_of(denoise, batch=2048, num_times=2):
  measure = order_gap.order_gap(num_times).measure(model_of(denoise))
  keys = jax.random.split(jax.random.key(1), batch)
  x0 = LAW.sample(jax.random.key(0), batch)
  return jax.device_get(jax.jit(lambda keys, x0: measure({}, keys, x0, {}))(keys, x0))


def gaps_of(denoise, **options):
  scores = order_gap.compute(arrays_of(denoise, **options))
  assert [x.name for x in scores] == ['order_gap_left_to_right', 'order_gap_right_to_left']
  return {x.name.removeprefix('order_gap_'): x.estimate for x in scores}


@pytest.mark.slow  # As in tests/core/test_path_bound.py, whose bound it takes.
def test_the_exact_denoiser_has_no_gap():
  for gap in gaps_of(LAW.denoise, num_times=4).values():
    assert abs(gap.value) < 4.5 * gap.error < 0.15


def seeing_the_left(x, level):
  """Estimates a number by those on its left, if these are at the last level, and by itself."""
  level = level.expand_to(x)
  at_end = level.alpha > 0.999 * LAST.alpha
  seen = jnp.cumsum(~at_end, axis=1) - ~at_end == 0  # all on the left are at the end
  columns = []
  for i in range(T):
    left = oracles.gaussian(np.zeros(i + 1), COV[: i + 1, : i + 1])
    part = jax.tree.map(lambda a, i=i: jnp.broadcast_to(a, x.shape)[:, : i + 1], level)
    alone = level.alpha * x / (level.alpha**2 + level.sigma**2)
    given = left.denoise(x[:, : i + 1], part).x0[:, i]
    columns.append(jnp.where(seen[:, i], given, alone[:, i]))
  return dj.Prediction(jnp.stack(columns, axis=1))


def test_the_gap_of_a_denoiser_that_sees_the_left_is_what_the_left_says():
  """Its loss from the left is the information of N(0, C); else the numbers count as independent."""
  snr = float((LAST.alpha / LAST.sigma) ** 2)
  known = 0.5 * np.linalg.slogdet(np.eye(T) + snr * COV)[1]
  gain = (known - 0.5 * T * np.log1p(snr)) / T
  found = gaps_of(seeing_the_left, num_times=4)
  first, other = found['left_to_right'], found['right_to_left']
  assert gain < -0.2 and abs(first.value - gain) < 4.5 * first.error < 0.12
  assert abs(other.value) < 4.5 * other.error < 0.12


def test_orders_have_equal_random_numbers():
  """The gap of the exact denoiser has a smaller error than that of two losses."""
  arrays = arrays_of(LAW.denoise)
  both = np.hypot(np.std(arrays['together']), np.std(arrays['left_to_right']))
  assert np.std(order_gap.difference(arrays, 'left_to_right')) < 0.93 * both
  again = arrays_of(LAW.denoise)
  assert all((arrays[name] == again[name]).all() for name in arrays)


def test_the_interval_is_of_95_percent():
  assert order_gap.interval(Estimate(1.0, 0.5)) == '95 %: 0.02 to 1.98'
  within = norm.cdf(1.98, 1.0, 0.5) - norm.cdf(0.02, 1.0, 0.5)
  assert abs(within - 0.95) < 1e-3


def test_the_report_has_the_loss_of_each_order(tmp_path, capsys):
  arrays = {name: np.full(4, x) for x, name in enumerate(order_gap.ORDERS)}
  found = order_gap.report(arrays, tmp_path)['orders']
  assert {name: x['value'] for name, x in found.items()} == {
    'together': 0.0,
    'left_to_right': 1.0,
    'right_to_left': 2.0,
  }
  printed = capsys.readouterr().out
  assert all(name in printed for name in order_gap.ORDERS)


def test_the_calls_are_counted():
  calls = []

  def denoise(x, level):
    jax.debug.callback(lambda: calls.append(1))
    return dj.Prediction(x)

  arrays_of(denoise, batch=2, num_times=3)
  jax.effects_barrier()
  assert len(calls) == order_gap.order_gap(3).calls(model_of(denoise), None) == 9


def test_neighbours_that_share_a_level_move_together():
  seen = []

  def denoise(x, level):
    jax.debug.callback(seen.append, level.alpha)
    return dj.Prediction(x)

  measure = order_gap.order_gap(4).measure(model_of(denoise, shared=2))
  keys = jax.random.split(jax.random.key(1), 8)
  jax.block_until_ready(measure({}, keys, jnp.ones((8, 6)), {}))
  jax.effects_barrier()
  blocks = np.concatenate(seen).reshape(-1, 3, 2)
  assert (blocks[..., 0] == blocks[..., 1]).all()
  assert {len(np.unique(row)) for row in blocks[..., 0]} == {1, 2, 3}


def test_a_network_with_one_noisy_level_has_no_order():
  with pytest.raises(ValueError, match='one level for all that is noisy.*leave order_gap out'):
    order_gap.order_gap().measure(model_of(LAW.denoise, levels_differ=False))
