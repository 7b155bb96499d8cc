"""Cells that are given are clean, the others share one time, and one of a row is never given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax import joint
from diffusion_jax.joint import cell_clocks

SIZES = {'numbers': 3, 'categories': 2}
NAMES = sorted(SIZES)


def test_cells_of_a_row_are_given_or_at_one_time():
  draw = jax.jit(lambda key: cell_clocks.given_cells(0.5)(SIZES)(key, 4000, NAMES))
  clocks = draw(jax.random.key(0))
  t, counts = (
    np.concatenate([getattr(clocks[n], x) for n in NAMES], axis=1) for x in ('t', 'counts')
  )
  assert t.shape == (4000, 5)
  assert_array_equal(t == 0.0, ~counts)
  assert counts.any(axis=1).all()
  times = t.max(axis=1)
  assert_array_equal(np.where(counts, t, times[:, None]), np.repeat(times[:, None], 5, axis=1))
  assert_allclose(np.sort(times), (np.arange(4000) + 0.5) / 4000, atol=1 / 4000)
  # A row of 5 with a rate u ~ U(0, 1) gives each of the 4 others with u: 0.5 * 0.5 * 4 / 5.
  assert abs((~counts).mean() - 0.2) < 4.5 * 0.3 / 4000**0.5
  first = jax.jit(lambda key: cell_clocks.given_cells(0.0)(SIZES)(key, 10, NAMES))(
    jax.random.key(0)
  )
  assert all(np.all(clock.counts) for clock in first.values())


def test_the_loss_is_the_mean_of_the_losses_of_cells():
  """Outputs 0 have the loss |v|^2 of numbers, and log K of categories in expectation."""
  variables = {
    'numbers': joint.gaussian(dj.CosineSchedule(), level_axes=2),
    'categories': joint.states(dj.masking_process(3), dj.PolynomialMasking(), level_axes=2),
  }

  def apply(params, x, noise, cond, *, key=None):
    logits = jnp.zeros((*x['categories'].shape, 4)).at[..., 3].set(-1e4)
    return {'numbers': jnp.zeros_like(x['numbers']), 'categories': logits}

  network = joint.JointNetwork(apply, variables)
  rng = np.random.default_rng(0)
  batch = {'numbers': rng.normal(size=(4000, 3)), 'categories': rng.integers(0, 3, (4000, 2))}
  batch['numbers'][::2, 0] = np.nan  # not known
  batch = {n: jnp.asarray(a, jnp.int32 if n[0] == 'c' else jnp.float32) for n, a in batch.items()}

  def loss(weight, given):
    objective = cell_clocks.cells(
      network, lambda b: b, SIZES, levels=cell_clocks.given_cells(given), categories_weight=weight
    )

    @jax.jit
    def run(key, batch):
      inputs, keys = objective.draw(key, batch, None)
      return objective.loss({'network': ()}, None, inputs, keys)

    total, (metrics, _) = run(jax.random.key(1), batch)
    return total, {n: float(m.total / m.count) for n, m in metrics.items()}

  total, metrics = loss(2.0, 0.0)
  assert metrics['loss_numbers'] == pytest.approx(1.0, abs=0.05)
  assert metrics['loss_categories'] == pytest.approx(np.log(3.0), abs=0.05)
  assert float(total) == pytest.approx((2.5 * 1.0 + 2 * 2 * np.log(3.0)) / 5, abs=0.05)
  assert loss(1.0, 0.8)[1]['loss_numbers'] == pytest.approx(1.0, abs=0.06)
