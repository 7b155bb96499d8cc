"""Scores are printed as a table and stored as JSON."""

from diffusion_jax.metrics.estimates import Estimate
from diffusion_jax.metrics.metric import Score, as_json, table as as_table


def test_tables_show_errors_where_they_are_known():
  rows = [
    Score('fid', Estimate(3.25, 0.05), 'a note'),
    Score('a_name_of_many_letters', Estimate(2.0)),
  ]
  assert as_table(rows) == (
    'fid                           3.25  +- 0.05      a note\na_name_of_many_letters           2'
  )
  assert as_json(rows) == {
    'fid': {'value': 3.25, 'error': 0.05, 'note': 'a note'},
    'a_name_of_many_letters': {'value': 2.0, 'error': None, 'note': ''},
  }
