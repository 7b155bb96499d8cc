"""Errors of columns and pairs against SDMetrics, whose reports papers on tables quote."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.metrics import rows
from tests.metrics.test_rows import SIZES, table


def test_definitions_are_those_of_sdmetrics():
  """The quality report of SDV takes the mean of these over columns and pairs."""
  pandas = pytest.importorskip('pandas')
  single = pytest.importorskip('sdmetrics.single_column')
  pairs = pytest.importorskip('sdmetrics.column_pairs')
  rng = np.random.default_rng(0)
  x, y = (table(rng, n, missing=0.0) for n in (900, 700))
  names = list('abcd')
  theirs = [pandas.DataFrame(z, columns=names) for z in (y, x)]
  found, trend = rows.shape_errors(x, y, SIZES), rows.trend_errors(x, y, SIZES)
  for i, name in enumerate(names):
    metric = single.TVComplement if SIZES[i] else single.KSComplement
    assert_allclose(1 - found[i], metric.compute(*(z[name] for z in theirs)), atol=1e-6)
    for j in range(i):
      both = [z[[name, names[j]]] for z in theirs]
      numbers = [n for n, size in ((name, SIZES[i]), (names[j], SIZES[j])) if not size]
      if len(numbers) == 2:
        score = pairs.CorrelationSimilarity.compute(*both)
      else:
        score = pairs.ContingencySimilarity.compute(*both, continuous_column_names=numbers)
      assert_allclose(1 - trend[i, j], score, atol=1e-9)
