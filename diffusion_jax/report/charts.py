"""Draws charts with Bokeh, as JSON that its script shows in a page."""

import functools
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.aliases import Json
from diffusion_jax.report.pictures import spread

# Colours of runs, and of the quarters of t from clean images to noise, with a
# contrast of at least 3 to the page's light and dark backgrounds.
COLOURS = ('#2f6fde', '#c9700a', '#0d9276', '#d6456b', '#8b5cf6', '#6b7f92')
QUARTERS = '#2f6fde', '#0d9276', '#c9700a', '#d6456b'
_MOST_POINTS = 1500  # of a line, to keep the page of a long run small


class Line(NamedTuple):
  """One line of a chart; x and y have the same length.

  legend: its words there, which several lines may share; '' for the label.
  """

  label: str
  x: Sequence[float] | np.ndarray
  y: Sequence[float] | np.ndarray
  colour: str = COLOURS[0]
  dash: str = 'solid'
  legend: str = ''


class Chart(NamedTuple):
  """A chart for Bokeh, and its values as rows of text after a head."""

  title: str
  item: Json
  rows: list[list[str]]


def draw(
  title: str, lines: Sequence[Line], x_label: str = 'step', y_label: str = '', log: str = ''
) -> Chart:
  """Draws a chart that can be zoomed and shows the values at the cursor.

  log: the logarithmic axes, '', 'y' or 'xy', where points that are not positive
  are left out.
  """
  from bokeh.embed import json_item

  lines = [thin(clean(line, log)) for line in lines]
  lines = [line for line in lines if len(line.x)]
  figure = _figure(x_label, y_label, lines, log)
  for line in lines:
    source = {'x': line.x, 'y': line.y}
    shared = {'source': source, 'legend_label': line.legend or line.label}
    colour = {'line_color': line.colour, 'line_dash': line.dash}
    figure.line('x', 'y', line_width=2, **colour, **shared)
    if len(line.x) < 40 and not line.legend:  # A level line has no points.
      figure.scatter('x', 'y', size=5, color=line.colour, **shared)
  for legend in list(figure.legend):
    figure.center.remove(legend)
    legend.ncols = min(len(legend.items), 4)  # more do not fit in a row
    if len(lines) > 1:
      figure.add_layout(legend, 'below')
  if lines:
    _add_hover(figure, lines, x_label)
  head = [x_label, *(line.label for line in lines)]
  rows = [head, *_rows(lines, 25)[1]]
  return Chart(title, dict(json_item(figure, theme=_theme())), rows)


@functools.cache
def _theme():
  from bokeh.themes import Theme

  path = files('diffusion_jax.report') / 'templates' / 'charts.json'
  return Theme(json=json.loads(path.read_text()))


def clean(line: Line, log: str) -> Line:
  """Returns a line without points that cannot be drawn; log: see `draw`."""
  x, y = np.asarray(line.x, float), np.asarray(line.y, float)
  kept = np.isfinite(x) & np.isfinite(y)
  kept &= (x > 0) | ('x' not in log)
  kept &= (y > 0) | ('y' not in log)
  return line._replace(x=x[kept], y=y[kept])


def spans_a_decade(lines: Sequence[Line]) -> bool:
  """Returns whether all y are positive and span a factor of 10 or more."""
  y = np.concatenate([clean(line, '').y for line in lines] or [[]])
  return y.size > 0 and 0 < 10 * y.min() <= y.max()


def thin(line: Line, most: int = _MOST_POINTS) -> Line:
  """Returns a line of at most `most` evenly spread points, with both ends."""
  index = spread(range(len(line.x)), most)
  return line._replace(x=np.asarray(line.x)[index], y=np.asarray(line.y)[index])


def _rows(lines, most):
  # Returns places on the x axis, and a row of text for each: the place, and the
  # value of each line there, or ''.
  values = [dict(zip(line.x, line.y, strict=True)) for line in lines]
  places = spread(sorted({x for line in values for x in line}), most)
  rows = [
    [
      f'{x:,g}' if x == int(x) else f'{x:.4g}',
      *(f'{line[x]:.5g}' if x in line else '' for line in values),
    ]
    for x in places
  ]
  return places, rows


def _figure(x_label, y_label, lines, log):
  from bokeh.models import NumeralTickFormatter
  from bokeh.plotting import figure as new_figure

  figure: Any = new_figure(
    height=300,
    sizing_mode='stretch_width',
    x_axis_type='log' if 'x' in log else 'linear',
    y_axis_type='log' if 'y' in log else 'linear',
    x_axis_label=x_label,
    y_axis_label=y_label,
    tools='box_zoom,reset',
    active_drag='box_zoom',
    toolbar_location='above',
  )
  figure.xaxis.ticker.desired_num_ticks = 5  # of a phone's width
  if 'x' not in log:
    figure.xaxis.formatter = NumeralTickFormatter(format='0,0.[00]')
  y = np.concatenate([line.y for line in lines] or [[0.0]])
  plain = NumeralTickFormatter(format='0,0.[000000]')
  if 'y' not in log and abs(y).max() > 1e-4:  # else powers of ten
    figure.yaxis.formatter = plain
  if 'y' in log and 1e-6 < y.max() < 1000 * y.min():
    # For few decades Bokeh would draw one or two ticks.
    first, last = np.floor(np.log10([y.min(), y.max()])).astype(int)
    ticks = np.outer(10.0 ** np.arange(first, last + 2), [1, 2, 5])
    figure.yaxis.ticker, figure.yaxis.formatter = ticks.ravel().tolist(), plain
  return figure


def _add_hover(figure, lines, x_label):
  # An invisible line through all places has one tooltip with the values of all
  # lines. Its text is a column, which Bokeh escapes.
  from bokeh.models import HoverTool

  places, rows = _rows(lines, _MOST_POINTS)
  text = [
    '\n'.join(
      [f'{x_label} {place}', *(f'{y}  {x.label}' for x, y in zip(lines, values, strict=True) if y)]
    )
    for place, *values in rows
  ]
  y = np.interp(places, lines[0].x, lines[0].y)
  source = {'x': np.array(places), 'y': y, 'text': text}
  unseen = figure.line('x', 'y', source=source, line_alpha=0.0)
  hover = HoverTool(renderers=[unseen], mode='vline', line_policy='nearest')
  hover.tooltips = '<div style="white-space: pre">@text</div>'
  hover.visible = False
  figure.add_tools(hover)


def script() -> str:
  """Returns Bokeh's JavaScript, which a page needs once."""
  from bokeh.resources import Resources

  resources = Resources('inline', components=['bokeh'], log_level='warn')
  return '\n'.join(resources.js_raw)
