"""Columns of tables are x, contexts, labels and texts."""

import numpy as np
import pyarrow
from numpy.testing import assert_array_equal
from pyarrow import parquet

from diffusion_jax.data.columns import Columns, of_numbers
from diffusion_jax.data.parquet import open_parquet


def test_lists_of_numbers_are_x_and_the_context(tmp_path):
  rng = np.random.default_rng(0)
  arrays = {'a': rng.normal(size=(6, 3)), 'b': rng.normal(size=(6, 3))}
  columns = {name: array.tolist() for name, array in arrays.items()}
  parquet.write_table(pyarrow.table(columns), tmp_path / 'a.parquet')
  table = open_parquet('set', [str(tmp_path / 'a.parquet')], [*arrays], 8)
  for x, context in ('a', 'b'), ('b', 'a'):
    found = of_numbers(table, Columns(x=x, context=context), np.arange(6)).read(np.array([4, 1]))
    assert_array_equal(found['x'], arrays[x][[4, 1]])
    assert_array_equal(found['context'], arrays[context][[4, 1]])
