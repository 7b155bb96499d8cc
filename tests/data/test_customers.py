"""The drawn table has the law that its module says."""

import numpy as np
from numpy.testing import assert_array_equal

from diffusion_jax.data import customers, mixed


def test_customers_have_their_law():
  columns = customers.drawn(40_000, seed=3)
  for region, p in zip(customers.REGIONS, customers.MEMBERS, strict=True):
    member = columns['member'][columns['region'] == region] == 'yes'
    assert abs(member.mean() - p) < 4.5 * np.sqrt(p * (1 - p) / len(member))
  for member, mean in zip(('no', 'yes'), customers.VISITS, strict=True):
    visits = columns['visits'][columns['member'] == member]
    assert abs(visits.mean() - mean) < 4.5 * np.sqrt(mean / len(visits))
  assert_array_equal(columns['spent'] == 0, columns['visits'] == 0)
  missing = np.isnan(columns['income']).mean()
  assert columns['age'].max() <= 90 and abs(missing - customers.UNKNOWN) < 0.01


def test_its_cells_are_read_as_those_of_a_file():
  source = mixed.table(missing='unknown')
  assert len(source) == 5400 and np.isnan(source.x).any()
  assert source.spec.kinds == ('category', 'category', 'number', 'date', *['number'] * 3)
