import numpy as np

from diffusion_jax.report import charts
from diffusion_jax.report.charts import Line


def numbers(chart):
  """Returns x and y of the first line in Bokeh's JSON, and the legend."""
  text = chart.item['doc']
  sources = [c for c in walk(text) if c.get('name') == 'ColumnDataSource']
  entries = dict(sources[0]['attributes']['data']['entries'])
  legend = [c for c in walk(text) if c.get('name') == 'LegendItem']
  return entries['x'], entries['y'], len(legend)


def walk(tree):
  if isinstance(tree, dict):
    yield tree
    tree = list(tree.values())
  for part in tree if isinstance(tree, list) else []:
    yield from walk(part)


def test_points_that_cannot_be_drawn_are_left_out():
  steps, nan = [1, 2, 3, 4], float('nan')
  line = charts.clean(Line('a', steps, [1.0, nan, -2.0, 0.5]), log='')
  np.testing.assert_array_equal(line.x, [1, 3, 4])
  line = charts.clean(Line('a', steps, [1.0, nan, -2.0, 0.5]), log='y')
  np.testing.assert_array_equal(line.y, [1.0, 0.5])
  line = charts.clean(Line('a', [0, 1], [1.0, 1.0]), log='xy')
  np.testing.assert_array_equal(line.x, [1])


def test_values_that_fall_by_a_decade_have_a_logarithmic_axis():
  line = lambda *y: [Line('a', range(len(y)), y)]
  assert charts.spans_a_decade(line(1.0, 0.1))
  assert not charts.spans_a_decade(line(1.0, 0.2))
  assert not charts.spans_a_decade(line(1.0, -0.1))  # bounds may be below 0
  assert not charts.spans_a_decade(line(1.0, 0.0))
  assert not charts.spans_a_decade([])
  kinds = {'': ['Linear'] * 2, 'y': ['Linear', 'Log'], 'xy': ['Log'] * 2}
  for log, expected in kinds.items():
    chart = charts.draw('title', [Line('a', [1, 2], [0.03, 0.9])], log=log)
    found = chart.item['doc']['roots'][0]['attributes']
    scales = [found[f'{axis}_scale']['name'] for axis in 'xy']
    assert scales == [f'{name}Scale' for name in expected]
    ticks = [c for c in walk(found) if c.get('name') == 'FixedTicker']
    if log:  # in less than three decades Bokeh would name one number or two
      ticks = ticks[0]['attributes']['ticks']
      np.testing.assert_allclose(
        ticks, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
      )
    else:
      assert not ticks


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
  assert numbers(chart)[2] == 3
  assert numbers(charts.draw('title', lines[:1]))[2] == 0  # the title says it
  assert chart.rows == [
    ['step', 'run', 'run, test', 'other'],
    ['1', '3', '', '1'],
    ['2', '4', '5', '1'],
  ]


def test_a_table_of_many_values_is_short():
  x = list(range(1000))
  rows = charts.draw('title', [Line('a', x, x)]).rows
  assert len(rows) == 26
  assert rows[1] == ['0', '0'] and rows[-1] == ['999', '999']


def test_the_script_is_the_one_part_of_bokeh_that_charts_need():
  text = charts.script()
  assert 1e6 < len(text) < 1.5e6 and '</script' not in text.lower()
