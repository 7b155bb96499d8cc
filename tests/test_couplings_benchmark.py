"""benchmarks.couplings as typed, and its figures where they are known."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks import couplings as benchmark
from tests.rows import slow

pytestmark = pytest.mark.benchmarks
SHIFT = np.array([[3.0, -4.0]])


def test_figures_of_a_translation(monkeypatch):
  """Every point moves by (3, -4): W2 is 5, and the path energy is least, 25."""
  monkeypatch.setattr(benchmark, 'DRAWS', 50)
  monkeypatch.setattr(benchmark, 'velocity', lambda params, x, t, label: jnp.tile(SHIFT, (50, 1)))
  data_key = jax.random.split(jax.random.key(99), 3)[0]
  shifted = lambda key, count: benchmark.moons(data_key, count)[0] + SHIFT
  table, energy = benchmark.figures((), shifted, False)
  assert_allclose([table[n] for n in benchmark.STEPS], table['floor'], rtol=1e-4)
  assert_allclose(energy, 0.0, atol=1e-4)
  x0 = shifted(None, 50)
  assert_allclose(benchmark.wasserstein(x0, x0 - SHIFT), 5.0, rtol=1e-5)


def test_the_moons_and_the_circle_have_the_published_sizes(key):
  x0, label = benchmark.moons(key, 1000)
  d = np.float64(x0 - np.where(label[:, None] == 0, [[-1.0, -1.0]], [[2.0, 0.5]]))
  # |d - s (1, 1)| = 3 for a shift s of [0, 0.6]
  total, square = d.sum(axis=1), (d**2).sum(axis=1) - 9.0
  roots = total + np.array([[-1.0], [1.0]]) * np.sqrt(total**2 - 2.0 * square)
  assert np.min(np.abs(0.5 * roots - 0.3), axis=0).max() < 0.3 + 1e-4
  y = np.asarray(benchmark.gaussians(key, 4000))
  square = 25.0 + 2.0 * 0.1**0.5
  assert_allclose(np.mean(np.sum(y**2, axis=1)), square, rtol=0.02)


@pytest.mark.parametrize('method, rows', [slow('exact_of_class', 1), ('schrodinger', 2)])
def test_a_row_as_typed(method, rows, capsys, monkeypatch):
  monkeypatch.setattr(benchmark, 'CHUNK', 2)
  monkeypatch.setattr(benchmark, 'DRAWS', 40)
  argv = ['couplings', '--source=gaussians', '--classes', '--methods', method]
  monkeypatch.setattr(sys, 'argv', [*argv, '--steps=4'])
  benchmark.main()
  printed = capsys.readouterr().out.splitlines()
  assert len(printed) == rows and printed[0].startswith(method)
  assert all(len(re.findall(r'\d+: ', row)) == 5 for row in printed)
