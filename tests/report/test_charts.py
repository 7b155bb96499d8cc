import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.report import charts
from diffusion_jax.report.charts import Line


def named(name, tree):
  """Yields the attributes of the parts of Bokeh's JSON that have a name."""
  if isinstance(tree, dict):
    if tree.get('name') == name:
      yield tree['attributes']
    tree = list(tree.values())
  for part in tree if isinstance(tree, list) else []:
    yield from named(name, part)


@pytest.mark.parametrize(
  'log, x, left',
  [('', [1, 2, 3, 4], [1, 3, 4]), ('y', [1, 2, 3, 4], [1, 4]), ('xy', [0, 1, 2, 3], [3])],
)
def test_points_that_cannot_be_drawn_are_left_out(log, x, left):
  y = [1.0, float('nan'), -2.0, 0.5]
  line = charts.clean(Line('a', x, y), log=log)
  points = [point for point in zip(x, y, strict=True) if point[0] in left]
  assert [*zip(line.x, line.y, strict=True)] == points


@pytest.mark.parametrize(
  'log, ticks',
  [
    ('', []),
    # In less than three decades Bokeh would name one number or two.
    *((log, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]) for log in ('y', 'xy')),
  ],
)
def test_a_logarithmic_axis_names_many_numbers(log, ticks):
  chart = charts.draw('title', [Line('a', [1, 2], [0.03, 0.9])], log=log)
  found = chart.item['doc']['roots'][0]['attributes']
  for axis in 'xy':
    kind = 'LogScale' if axis in log else 'LinearScale'
    assert found[f'{axis}_scale']['name'] == kind
  tickers = [*named('FixedTicker', found), {'ticks': []}]
  assert_allclose(tickers[0]['ticks'], ticks)


def test_long_lines_keep_their_ends():
  x = np.arange(100_000)
  line = charts.thin(Line('a', x, x * 2))
  assert len(line.x) == 1500
  assert (line.x[0], line.x[-1], line.y[-1]) == (0, 99_999, 199_998)
  assert np.ptp(np.diff(line.x)) <= 1


def test_a_chart_has_a_legend_of_several_lines_and_a_table_of_values():
  lines = [
    Line('run', [1, 2], [3.0, 4.0]),
    Line('run, test', [2], [5.0], dash='dashed'),
    Line('other', [1, 2], [1.0, 1.0]),
    Line('empty', [], []),
  ]
  chart = charts.draw('title', lines)
  one = charts.draw('title', lines[:1])  # the title says it
  entries = [len([*named('LegendItem', x.item['doc'])]) for x in (chart, one)]
  assert entries == [3, 0]
  assert chart.rows == [
    ['step', 'run', 'run, test', 'other'],
    ['1', '3', '', '1'],
    ['2', '4', '5', '1'],
  ]


def test_the_script_is_the_one_part_of_bokeh_that_charts_need():
  text = charts.script()
  assert 1e6 < len(text) < 1.5e6 and '</script' not in text.lower()
