"""Draws charts by matplotlib, as SVG with the colours of the page."""

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.report.pictures import spread

# Colours of runs, and of the quarters of t from clean images to noise, with a
# contrast of at least 3 to the page's light and dark backgrounds.
COLOURS = ('#2f6fde', '#c9700a', '#0d9276', '#d6456b', '#8b5cf6', '#6b7f92')
QUARTERS = '#2f6fde', '#0d9276', '#c9700a', '#d6456b'
# Lengths of dashes and gaps, in widths of a line.
DASHES = {'solid': None, 'dashed': (5, 3), 'dotted': (1, 2), 'dotdash': (1, 2, 5, 2)}
_MOST_POINTS = 600  # the most points of a line: more than the pixels of a chart
_SIZE = 420, 280  # width and height of a chart in units of its fonts; the page scales it
# Words of at most 20 characters stand at the right ends of at most 14 lines: more overlap.
_AT_ENDS = 14, 20
_APART = 0.065  # between words, in heights of the axes
# Colours of the page, which change with its theme, and what stands for them.
_THEMED = {'#010101': 'var(--soft)', '#020202': 'var(--line)'}
_SOFT, _LINE = _THEMED


class Line(NamedTuple):
  """One line of a chart; x and y have the same length.

  legend: the words of a level line, which several may share and which goes over the whole axis;
  '' for a curve, whose words are its label.
  """

  label: str
  x: Sequence[float] | np.ndarray
  y: Sequence[float] | np.ndarray
  colour: str = COLOURS[0]
  dash: str = 'solid'
  legend: str = ''


class Area(NamedTuple):
  """An area behind the lines of a chart; ends: the lower and the upper one at each x."""

  label: str
  x: Sequence[float]
  ends: Sequence[tuple[float, float]]
  colour: str = COLOURS[0]


class LegendEntry(NamedTuple):
  """An entry of a legend; dashes: their lengths and gaps as SVG writes them, '' if solid."""

  words: str
  colour: str
  dashes: str


class Chart(NamedTuple):
  """A chart: an element svg, a legend of lines without words at their ends, and rows of values."""

  title: str
  svg: str
  legend: list[LegendEntry]
  rows: list[list[str]]


def draw(
  title: str,
  lines: Sequence[Line],
  x_label: str = 'step',
  y_label: str = '',
  log: str = '',
  *,
  areas: Sequence[Area] = (),
) -> Chart:
  """Draws a chart with words at the ends of its lines, or a legend if they are too long or many.

  A single line needs none. log: the logarithmic axes, '', 'y' or 'xy', where points that are not
  positive are left out.
  """
  lines = [thin(clean(line, log)) for line in lines]
  lines = [line for line in lines if len(line.x)]
  head = [x_label, *(line.label for line in lines), *(area.label for area in areas)]
  rows = [head, *_rows(lines, areas, 25)]
  drawn = _near(lines) if 'y' in log else lines
  most, longest = _AT_ENDS
  at_ends = len(drawn) <= most and all(len(line.legend or line.label) <= longest for line in drawn)
  named = drawn if drawn[1:] and at_ends else []
  legend = _legend(drawn) if drawn[1:] and not at_ends else []
  return Chart(title, _svg(drawn, areas, named, (x_label, y_label), log), legend, rows)


def _near(lines):
  # A level line far below all curves would flatten them: the table alone has it.
  curves = [line.y for line in lines if not line.legend]
  least = min(np.concatenate(curves or [[0.0]])) / 100
  return [line for line in lines if not line.legend or max(line.y) >= least]


def _legend(lines):
  # Lines of several colours that share an entry have the colour of its text there.
  entries = {}
  for line in lines:
    words = line.legend or line.label
    same = entries.get(words, line).colour == line.colour
    # The dashes of a line of width 2.
    dashes = ' '.join(str(2 * n) for n in DASHES[line.dash] or ())
    entries[words] = LegendEntry(words, line.colour if same else 'currentColor', dashes)
  return [*entries.values()]


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


def _rows(lines, areas, most):
  # Returns rows of text: a place on the x axis, and the value of each line there, or ''.
  values = [dict(zip(line.x, line.y, strict=True)) for line in lines]
  ends = [dict(zip(area.x, area.ends, strict=True)) for area in areas]
  places = spread(sorted({x for line in values for x in line}), most)
  return [
    [
      f'{x:,g}' if x == int(x) else f'{x:.4g}',
      *(f'{line[x]:.5g}' if x in line else '' for line in values),
      *('{:.5g} to {:.5g}'.format(*area[x]) if x in area else '' for area in ends),
    ]
    for x in places
  ]


def _svg(lines, areas, named, labels, log):
  # pyplot would start a window system and keep global state.
  from matplotlib import rc_context
  from matplotlib.figure import Figure

  # Texts stay texts, in the font of the page.
  style: Any = {'svg.fonttype': 'none', 'font.size': 12.0, 'text.parse_math': False}
  style['text.color'] = _SOFT
  with rc_context(style):
    width, height = _SIZE
    figure = Figure((width / 72, height / 72), layout='constrained')
    axes = figure.subplots()
    axes.set_facecolor('none')
    figure.patch.set_visible(False)
    for area in areas:
      low, high = np.transpose(area.ends)
      # A path of its own: that of `fill_between` is among the ids that `_in_page` drops.
      x, y = [*area.x, *area.x[::-1]], [*low, *high[::-1]]
      axes.fill(x, y, color=area.colour, alpha=0.18, linewidth=0.0)
      if len(area.x) == 1:
        axes.vlines(area.x, low, high, color=area.colour, alpha=0.4, linewidth=4.0)
    for line in lines:
      style = {'color': line.colour, 'linestyle': (0, DASHES[line.dash]), 'linewidth': 1.6}
      if line.legend:
        axes.axhline(line.y[0], **style)
      else:
        marker = 'o' if len(line.x) < 40 else ''
        axes.plot(line.x, line.y, marker=marker, clip_on=False, **style)
    for side in axes.spines.values():
      side.set_visible(False)
    axes.grid(color=_LINE, linewidth=0.8)
    axes.tick_params(which='both', length=0, colors=_SOFT)
    axes.set_xlabel(labels[0], color=_SOFT)
    axes.set_ylabel(labels[1], color=_SOFT)
    _number(axes.xaxis, 'x' in log, [line.x for line in lines])
    _number(axes.yaxis, 'y' in log, [line.y for line in lines])
    _name(axes, named)
    file = io.StringIO()
    figure.savefig(file, format='svg')
  return _in_page(file.getvalue())


def _number(axis, is_log, values):
  # Names few numbers, which fit next to each other on a phone.
  from matplotlib import ticker

  x = np.concatenate(values or [[1.0]])
  whole = axis.axis_name == 'x' and not is_log and np.all(x == np.round(x))  # steps
  locator = ticker.MaxNLocator(5, steps=[1, 2, 5, 10], integer=whole)
  if whole:
    axis.axes.set_xlim(0.0 if x.min() == x.max() else None, x.max() or 1.0)
  if is_log:
    axis.axes.set(**{f'{axis.axis_name}scale': 'log'})
    axis.set_minor_locator(ticker.NullLocator())
    few_decades = x.max() < 1000 * x.min()
    locator = ticker.LogLocator(subs=(1, 2, 5) if few_decades else (1,), numticks=10)
  axis.set_major_locator(locator)
  axis.set_major_formatter(lambda x, _: f'{x:,.10g}')


def _name(axes, lines):
  # Writes the words of lines to the right of the axes, in the order of their ends.
  ends = []
  for line in lines:
    place = axes.transData.transform((line.x[-1], line.y[-1]))
    x, y = axes.transAxes.inverted().transform(place)
    ends.append((y, 1.0 if line.legend else x, line))
  ends.sort(key=lambda end: end[0])
  heights, top = [], 1.0
  for y, *_ in ends:
    heights.append(max(y, heights[-1] + _APART if heights else 0.0))
  for i in reversed(range(len(ends))):
    heights[i] = min(heights[i], top)
    top = heights[i] - _APART
  for (y, x, line), height in zip(ends, heights, strict=True):
    # From the end to the words: the colour and the dashes are the line's.
    axes.plot(
      [max(x, 1.0), 1.05],
      [y, height],
      color=line.colour,
      linestyle=(0, DASHES[line.dash]),
      linewidth=1.0,
      transform=axes.transAxes,
      clip_on=False,
    )
    words = line.legend or line.label
    axes.text(1.06, height, words, color=_SOFT, va='center', transform=axes.transAxes)


def _in_page(svg):
  # Returns the element svg as a part of a page: its colours are the page's, it has
  # no ids, which other charts have too, and so no marker that is drawn by its id.
  svg = re.sub(r'(?s)<(metadata|defs)>.*?</\1>|<!--.*?-->', '', svg[svg.index('<svg') :])
  svg = re.sub(
    r'<use xlink:href="#\w+" x="(\S+)" y="(\S+)" style="(.*?)"/>',
    r'<circle cx="\1" cy="\2" r="2.4" style="\3"/>',
    svg,
  )
  own = r' id="\S+"| clip-path="\S+"| (width|height)="\S+pt"|font-family: .*?; '
  svg = re.sub(own, '', svg)
  for colour, themed in _THEMED.items():
    svg = svg.replace(colour, themed)
  return svg
