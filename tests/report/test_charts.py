"""Charts leave out what cannot be drawn, and have a legend and a table of their values."""

import re

import numpy as np
import pytest

from diffusion_jax.report import charts
from diffusion_jax.report.charts import Line

TEXT = re.compile(r'<text style="[^"]*text-anchor: (\w+)[^>]*>([^<]*)</text>')


def numbers(chart, axis):
  """Returns the numbers that an axis of a chart names."""
  anchor = 'end' if axis == 'y' else 'middle'
  texts = [text for place, text in TEXT.findall(chart.svg) if place == anchor]
  return [float(text.replace(',', '')) for text in texts if text[:1].isdigit()]


@pytest.mark.parametrize(
  'log, x, left',
  [('', [1, 2, 3, 4], [1, 3, 4]), ('y', [1, 2, 3, 4], [1, 4]), ('xy', [0, 1, 2, 3], [3])],
)
def test_points_that_cannot_be_drawn_are_left_out(log, x, left):
  y = [1.0, float('nan'), -2.0, 0.5]
  line = charts.clean(Line('a', x, y), log=log)
  points = [point for point in zip(x, y, strict=True) if point[0] in left]
  assert [*zip(line.x, line.y, strict=True)] == points


@pytest.mark.parametrize('factor', [1, 1.02, 3, 4.9, 5.1, 30, 999, 1001, 1e8])
@pytest.mark.parametrize('log', ['', 'xy'])
def test_axes_name_several_numbers_between_their_ends(log, factor):
  """The x are small, and the y have digits before the point."""
  values = {'x': 3e-6 * np.array([1.0, factor]), 'y': 40.0 * np.array([1.0, factor])}
  chart = charts.draw('title', [Line('a', values['x'], values['y'])], log=log)
  for axis, (low, high) in values.items():
    found = numbers(chart, axis)
    assert 2 <= len(found) <= 11 and found == sorted({*found})
    beside = 0.2 * (high - low)
    first, last = (0.3 * low, 3 * high) if log else (low - beside, high + beside)
    assert factor == 1 or first <= found[0] and found[-1] <= last


def test_steps_are_whole_numbers():
  chart = charts.draw('title', [Line('a', [1, 2], [1.0, 2.0])])
  assert numbers(chart, 'x') == [1.0, 2.0]
  assert len(numbers(chart, 'y')) > 2


def test_a_chart_has_the_colours_and_the_font_of_the_page():
  """The theme changes them; ids, which must be unique in a page, are left out."""
  lines = [Line(20 * 'a', [1, 2], [3, 4]), Line(21 * 'b', [1, 2], [4, 3], '#0d9276', 'dashed')]
  svg = charts.draw('$x_1 & <b>', lines, '$t', 'a < b').svg
  assert not re.search(r'\bid=|url\(|href="|font-family|<(style|metadata|defs|use)', svg)
  assert {*re.findall('#[0-9a-f]{6}', svg)} == {line.colour for line in lines}
  assert {*re.findall(r'var\(--(\w+)\)', svg)} == {'soft', 'line'}
  assert svg.count('<circle') == 4 and svg.count('stroke-dasharray') == 1
  assert '>$t<' in svg and '>a &lt; b<' in svg


def test_long_lines_keep_their_ends():
  x = np.arange(100_000)
  line = charts.thin(Line('a', x, x * 2))
  assert len(line.x) == 600
  assert (line.x[0], line.x[-1], line.y[-1]) == (0, 99_999, 199_998)
  assert np.ptp(np.diff(line.x)) <= 1


def words(chart):
  """Returns {words at the end of a line: their heights in the picture}, from above."""
  found = re.findall(r'text-anchor: start[^>]* y="([\d.]+)"[^>]*>([^<]*)</text>', chart.svg)
  heights = {}
  for y, text in sorted((float(y), text) for y, text in found):
    heights.setdefault(text, []).append(y)
  return heights


def test_a_chart_names_its_lines_and_has_a_table_of_values():
  lines = [
    Line('run', [1, 2], [3.0, 4.0]),
    Line('run, test', [2], [5.0], dash='dashed'),
    Line('other', [1, 2], [1.0, 1.0]),
    Line('empty', [], []),
  ]
  chart = charts.draw('title', lines)
  one = charts.draw('title', lines[:1])  # the title says it
  assert [*words(chart)] == ['run, test', 'run', 'other'] and not chart.legend
  assert not one.legend and not words(one)
  assert chart.rows == [
    ['step', 'run', 'run, test', 'other'],
    ['1', '3', '', '1'],
    ['2', '4', '5', '1'],
  ]


@pytest.mark.parametrize('log', ['', 'y'])
@pytest.mark.parametrize('number', [2, 7, 14])
def test_words_of_near_lines_are_apart_and_in_their_order(log, number):
  ends = 1.0 + 1e-3 * np.arange(number)[::-1]
  ends[0] = 30.0
  lines = [Line(f'line {i}', [1, 2], [1.0, end]) for i, end in enumerate(ends)]
  heights = words(charts.draw('title', lines, log=log))
  assert [*heights] == [line.label for line in lines]
  y = np.concatenate([*heights.values()])
  assert np.diff(y).min() > 12 and y[0] > 0 and y[-1] < 280  # units of a font of 12
  many = charts.draw('title', [*lines, *(Line(str(i), [1], [i]) for i in range(15 - number))])
  assert not words(many) and len(many.legend) == 15


def test_a_level_line_goes_over_the_whole_axis_of_a_curve_with_one_point():
  lines = [Line('test loss', [4], [0.5]), Line('floor of it', [4], [0.2], legend='a floor')]
  chart = charts.draw('title', lines)
  assert numbers(chart, 'x') == [0, 1, 2, 3, 4]  # whole steps
  paths = re.findall(r'd="M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) ', chart.svg)
  starts = [(float(a), float(c)) for a, b, c, d in paths if b == d]
  (left, right) = max(starts, key=lambda x: x[1] - x[0])
  ticks = re.findall(r'text-anchor: middle[^>]* x="([\d.]+)"', chart.svg)
  assert abs(left - float(ticks[0])) < 1 and abs(right - float(ticks[4])) < 1
  assert [*words(chart)] == ['test loss', 'a floor']


def test_lines_share_an_entry_of_the_legend(monkeypatch):
  """Level lines have no points; an entry of two colours has the colour of text."""
  monkeypatch.setattr(charts, '_AT_ENDS', (14, 0))
  loss, test = (Line(x, [1, 2], [3, 4], c) for x, c in zip('ab', charts.COLOURS, strict=False))
  floors = [
    Line(f'{line.label}: exact', [1, 2], [1, 1], line.colour, 'dotdash', 'exact')
    for line in (loss, test)
  ]
  both = charts.draw('title', [loss, test, *floors])
  one = charts.draw('title', [loss, *floors[:1]])
  assert both.legend == [
    charts.LegendEntry('a', charts.COLOURS[0], ''),
    charts.LegendEntry('b', charts.COLOURS[1], ''),
    charts.LegendEntry('exact', 'currentColor', '2 4 10 4'),
  ]
  assert one.legend[1].colour == charts.COLOURS[0]
  assert both.svg.count('<circle') == 4 and both.svg.count('stroke-dasharray') == 2
  assert both.rows[0] == ['step', 'a', 'b', 'a: exact', 'b: exact']


def test_a_level_line_far_below_does_not_flatten_curves():
  lines = [Line('a', [1, 2], [0.5, 0.1])]
  lines += [Line(str(y), [1, 2], [y, y], legend=str(y)) for y in (0.01, 1e-14)]
  linear, log = (charts.draw('title', lines, log=log) for log in ('', 'y'))
  assert log.rows == linear.rows and len(log.rows[0]) == 4
  assert [[*words(chart)] for chart in (linear, log)] == [['a', '0.01', '1e-14'], ['a', '0.01']]
  assert min(numbers(log, 'y')) == 0.01
