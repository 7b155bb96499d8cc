"""benchmarks.order_gap as typed, and its figures where they are known."""

import functools
import re

import jax
import numpy as np
import pytest

from benchmarks import order_gap as benchmark

pytestmark = pytest.mark.benchmarks


def test_a_row_for_each_kind_of_levels_and_number_of_steps(monkeypatch, capsys):
  """A row has means over the trainings, which differ."""
  steps = 1, 2  # a program for both
  learn = functools.cache(functools.partial(benchmark.learn, steps=steps, num_series=32))
  monkeypatch.setattr(benchmark, 'STEPS', steps)
  monkeypatch.setattr(benchmark, 'SEEDS', 2)
  monkeypatch.setattr(benchmark, 'learn', learn)
  benchmark.main()
  rows = capsys.readouterr().out.splitlines()
  assert [row.partition(':')[0] for row in rows] == [
    f'{name}, {step} steps' for name in benchmark.LEVELS for step in steps
  ]
  lacks = [learn(1, seed).lacks[1] for seed in range(benchmark.SEEDS)]
  shown = re.findall(r'lacks (\S+) \+- (\S+)', rows[-1])[0]
  error = np.std(lacks, ddof=1) / len(lacks) ** 0.5
  np.testing.assert_allclose(np.float64(shown), [np.mean(lacks), error], atol=6e-5)
  assert error > 0.0 and min(lacks) > 0.0


def test_the_exact_denoiser_has_no_gap_and_lacks_nothing():
  x0 = benchmark.LAW.sample(jax.random.key(0), 2048)
  found = benchmark.bounds(jax.random.key(1), jax.tree_util.Partial(benchmark.LAW.denoise), x0)
  values = np.stack([np.asarray(x, np.float64) for x in found.values()])
  # 1/2 log det(1 + snr C) between log-SNRs -6 and 4 is 9.6448, and 1.6075 a number.
  assert abs(values[0].mean() - 1.6075) < 4.5 * values[0].std() / 2048**0.5 < 0.05
  for gap in values[1:] - values[0]:
    assert abs(gap.mean()) < 4.5 * gap.std() / 2048**0.5 < 0.06
