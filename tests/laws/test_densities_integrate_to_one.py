"""Law: exp of a log density that is printed integrates to 1 over where draws can be.

In one dimension, with and without `data.bounds`, of a network with random parameters, whose draws
are often outside. Planted faults that this catches: log q of `density_coverage` without the share
inside the box, or with its inverse; the share of another pair.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.app.evaluate import mode as evaluate
from diffusion_jax.app.run.weights import Run
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import of_run, trial, untrained
from tests.app.fields import typed

GRID = 40  # points
LOW, HIGH = -0.6, 1.4


@pytest.fixture(scope='module', params=['-0.6,1.4', ''])
def opened(request, tmp_path_factory):
  """Returns a run of one number given another, within a box or without, and its bounds."""
  folder, rng = tmp_path_factory.mktemp('densities'), np.random.default_rng(0)
  context = rng.normal(size=(60, 1))
  x = rng.uniform(LOW, HIGH, (60, 1))
  arrays = {'x': x, 'context': context}
  np.savez(folder / 'data.npz', **arrays, **{f'test_{n}': a[:20] for n, a in arrays.items()})
  fields = typed(f'data=npz data.path={folder}/data.npz data.bounds={request.param}')
  fields |= typed('network.channels=16 training.checkpoints.best=None sampling.checkpoint=latest')
  run = untrained(trial('two_moons', **fields), folder / 'run', 0.1)
  few = typed('evaluation.metrics=density_coverage evaluation.batch_size=40')
  return Run.open(of_run(run, **few), RunFolder.at(run)), bool(request.param)


def test_the_density_of_draws_is_one_where_they_are(opened):
  """The box is cut at its ends; without one, the grid has nearly all of the mass."""
  run, is_bounded = opened
  low, high = (LOW, HIGH) if is_bounded else (-5.0, 6.0)
  points = low + (high - low) * (np.arange(GRID) + 0.5) / GRID
  reference = {'truth': points[:, None], 'context': np.full((GRID, 1), 1.0)}
  log_q = evaluate.log_density(run, points[:, None, None], reference)
  # The truth and its only draw are the same point, with one share for the pair.
  assert_allclose(log_q[:, 0], log_q[:, 1], atol=0.05)
  total = np.exp(log_q).mean() * (high - low)
  assert abs(total - 1.0) < 0.06
