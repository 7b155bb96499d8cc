"""benchmarks.flow_maps as typed, and its figures of draws of known laws."""

import re
import sys

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks import flow_maps as benchmark

pytestmark = pytest.mark.benchmarks


def test_the_divergence_from_the_checkerboard_to_its_square(key):
  """The divergence is log 2; of two sets of draws (1152 - 1) / n, the bias of 1,152 bins."""
  keys, n = jax.random.split(key, 3), 100_000
  data, other = (benchmark.checkerboard(k, n) for k in keys[:2])
  square = jax.random.uniform(keys[2], (n, 2), minval=-2.0, maxval=2.0)
  bias = 1151 / n
  assert_allclose(benchmark.divergence(data, other), bias, rtol=0.3)
  found = benchmark.divergence(data, square)
  assert_allclose(found, np.log(2.0) + 0.5 * bias + bias, atol=0.015)


def test_distances_of_the_exact_map_are_zero(monkeypatch):
  def exact(params, noise, calls):
    levels = benchmark.dj.level_grid(benchmark.SCHEDULE, 1)
    return benchmark.RING.flow_map(noise, levels.take(0), levels.take(1))

  monkeypatch.setattr(benchmark, 'samples', exact)
  assert max(map(np.max, benchmark.distances(()).values())) < 1e-4


@pytest.mark.parametrize(
  'data, method, calls',
  [
    ('ring', 'lagrangian', 3),
    pytest.param('checkerboard', 'midpoint', 5, marks=pytest.mark.slow),
  ],
)
def test_a_row_as_typed(data, method, calls, capsys, monkeypatch):
  monkeypatch.setattr(benchmark, 'CHUNK', 2)
  argv = ['flow_maps', f'--data={data}', '--methods', method, '--steps=4']
  monkeypatch.setattr(sys, 'argv', argv)
  benchmark.main()
  row = capsys.readouterr().out
  assert row.startswith(method) and ' 4 steps ' in row
  assert len(re.findall(r'\d+: ', row)) == calls
