"""Draws charts by Bokeh, as JSON that its script shows in a page."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# Each has a contrast of 3 or more with the light and the dark background of the
# page. Runs, and the quarters of t from clean images to noise.
COLOURS = (
  '#2f6fde', '#c9700a', '#0d9276', '#d6456b', '#8b5cf6', '#6b7f92',
)  # fmt: skip
QUARTERS = '#2f6fde', '#0d9276', '#c9700a', '#d6456b'
_FONT = 'system-ui, sans-serif'
_MOST_POINTS = 1500  # of a line; a page of a long run stays small


class Line(NamedTuple):
  """Holds one line of a chart; x and y have one length.

  shown_as: in the legend, where lines of one name are one entry; '': the label.
  """

  label: str
  x: Sequence[float] | np.ndarray
  y: Sequence[float] | np.ndarray
  colour: str = COLOURS[0]
  dash: str = 'solid'
  shown_as: str = ''


class Chart(NamedTuple):
  """Holds a chart: its JSON for Bokeh, and its lines for a table of values."""

  title: str
  item: str
  lines: list[Line]
  x_label: str


def draw(
  title: str,
  lines: Sequence[Line],
  x_label: str = 'step',
  y_label: str = '',
  log: str = '',
) -> Chart:
  """Draws lines over a common x axis, to be zoomed, with values at the cursor.

  log: the logarithmic axes, '', 'y' or 'xy'; points that are not positive there
  are left out.
  """
  from bokeh.embed import json_item

  lines = [thin(clean(line, log)) for line in lines]
  lines = [line for line in lines if len(line.x)]
  figure = _figure(x_label, y_label, lines, log)
  for line in lines:
    _add(figure, line)
  _place_legend(figure, len(lines) > 1)
  _add_hover(figure, lines, x_label)
  item: Any = json_item(figure)
  return Chart(title, json.dumps(item), lines, x_label)


def clean(line: Line, log: str) -> Line:
  """Leaves out points that cannot be drawn; log: as of `draw`."""
  x, y = np.asarray(line.x, float), np.asarray(line.y, float)
  kept = np.isfinite(x) & np.isfinite(y)
  if 'x' in log:
    kept &= x > 0
  if 'y' in log:
    kept &= y > 0
  return line._replace(x=x[kept], y=y[kept])


def spans_a_decade(lines: Sequence[Line]) -> bool:
  """Returns whether all y are positive, the largest 10 times the smallest."""
  y = np.concatenate([clean(line, '').y for line in lines] or [[]])
  return y.size > 0 and 0 < 10 * y.min() <= y.max()


def thin(line: Line, most: int = _MOST_POINTS) -> Line:
  """Returns at most so many points, evenly spread, with first and last."""
  if len(line.x) <= most:
    return line
  index = np.rint(np.linspace(0, len(line.x) - 1, most)).astype(int)
  x, y = np.asarray(line.x), np.asarray(line.y)
  return line._replace(x=x[index], y=y[index])


def _figure(x_label, y_label, lines, log):
  from bokeh.models import NumeralTickFormatter
  from bokeh.plotting import figure

  kinds: Any = ['log' if axis in log else 'linear' for axis in 'xy']
  made: Any = figure(
    height=300,
    sizing_mode='stretch_width',
    x_axis_type=kinds[0],
    y_axis_type=kinds[1],
    x_axis_label=x_label,
    y_axis_label=y_label,
    tools='box_zoom,pan,wheel_zoom,reset,save',
    active_drag='box_zoom',
    active_scroll=None,  # the wheel scrolls the page
    toolbar_location='above',
    # the page's colour shows through, in both of its themes
    background_fill_color=None,
    border_fill_color=None,
    outline_line_color=None,
  )
  made.toolbar.logo = None
  if 'x' not in log:
    made.xaxis.formatter = NumeralTickFormatter(format='0,0.[00]')
  y = np.concatenate([line.y for line in lines] or [[0.0]])
  plain = NumeralTickFormatter(format='0,0.[000000]')
  if 'y' not in log and abs(y).max() > 1e-4:  # else powers of ten, the default
    made.yaxis.formatter = plain
  if 'y' in log and 1e-6 < y.max() < 1000 * y.min():
    # Bokeh's own ticks are for more decades: here there would be one or two.
    made.yaxis.ticker, made.yaxis.formatter = _ticks(y), plain
  for axis in made.axis:
    axis.axis_label_text_font = axis.major_label_text_font = _FONT
    axis.axis_label_text_font_style = 'normal'
    axis.axis_label_text_font_size = axis.major_label_text_font_size = '12px'
    axis.minor_tick_line_color = None
  return made


def _ticks(y):
  # 1, 2 and 5 times each power of ten.
  first, last = np.floor(np.log10([y.min(), y.max()])).astype(int)
  decades = 10.0 ** np.arange(first, last + 2)
  return np.outer(decades, [1, 2, 5]).ravel().tolist()


def _add(figure, line):
  columns = {'x': line.x, 'y': line.y}
  shared = {'source': columns, 'legend_label': line.shown_as or line.label}
  figure.line(
    'x',
    'y',
    line_width=2,
    line_color=line.colour,
    line_dash=line.dash,
    **shared,
  )
  if len(line.x) < 40:
    figure.scatter('x', 'y', size=5, color=line.colour, **shared)


def _add_hover(figure, lines, x_label):
  # One tooltip with the values of all lines: it belongs to a line that is not
  # seen, through all places. Its text is a column, which Bokeh escapes.
  from bokeh.models import HoverTool

  if not lines:
    return
  x = np.unique(np.concatenate([line.x for line in lines]))
  x = thin(Line('', x, x)).x
  y = np.interp(x, lines[0].x, lines[0].y)
  values = [dict(zip(line.x, line.y, strict=True)) for line in lines]
  text = [
    '\n'.join([
      f'{x_label} {place:,g}' if place == int(place) else f'{place:.4g}',
      *(
        f'{known[place]:.5g}  {line.label}'
        for line, known in zip(lines, values, strict=True)
        if place in known
      ),
    ])
    for place in x
  ]  # fmt: skip
  unseen = figure.line(
    'x', 'y', source={'x': x, 'y': y, 'text': text}, line_alpha=0.0
  )
  hover = HoverTool(
    renderers=[unseen],
    mode='vline',
    line_policy='nearest',
    tooltips='<div style="white-space: pre">@text</div>',
  )
  hover.visible = False
  figure.add_tools(hover)


def _place_legend(figure, several):
  for legend in list(figure.legend):
    figure.center.remove(legend)
    if several:
      _style_legend(legend)
      figure.add_layout(legend, 'below')


def _style_legend(legend):
  legend.click_policy = 'hide'
  legend.orientation = 'horizontal'
  legend.border_line_color = None
  legend.background_fill_alpha = 0.0
  legend.padding = legend.margin = 4
  legend.ncols = min(len(legend.items), 4)  # as many fit beside each other
  legend.label_text_font = _FONT
  legend.label_text_font_size = '12px'


def script() -> str:
  """Returns the JavaScript of Bokeh, which a page needs once."""
  from bokeh.resources import Resources

  resources = Resources('inline', components=['bokeh'], log_level='warn')
  return '\n'.join(resources.js_raw)


def table(chart: Chart, most: int = 25) -> list[list[str]]:
  """Returns rows of text, a head first: x, and the value of each line there.

  At most so many rows, evenly spread; a line without a value there has ''.
  """
  values = [dict(zip(x.x, x.y, strict=True)) for x in chart.lines]
  places = sorted({x for line in values for x in line})
  if len(places) > most:
    index = np.rint(np.linspace(0, len(places) - 1, most)).astype(int)
    places = [places[i] for i in index]
  rows = [
    [
      f'{x:,g}' if x == int(x) else f'{x:.4g}',
      *(f'{line[x]:.5g}' if x in line else '' for line in values),
    ]
    for x in places
  ]
  return [[chart.x_label, *(line.label for line in chart.lines)], *rows]
