"""Drawings of samples by what they are, from pictures to vectors and volumes, and their files.

Axes and colours depend on the data, not on the samples, so that the drawings of
a film, of previews and of several runs can be compared.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion_jax.atomic_files import draft
from diffusion_jax.data import directional
from diffusion_jax.data.associations import associations
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.data.text_files import draw_bytes

MOST = 4  # coordinates of a vector, or channels
_CURVES = 16
_LINE = 12  # the height of a line of text, in pixels
_LARGEST = 256  # pixels a side; of larger fields every n-th is drawn
# A colour map for each channel.
_MAPS = 'viridis', 'magma', 'cividis', 'bone'
_BLUE, _GREY = '#1f5fbf', '0.65'  # samples, and data behind them


def sheet(
  values: ArraySpec,
  x: np.ndarray,
  columns: int,
  height: int = 48,
  data: np.ndarray | None = None,
  each: bool = False,
  groups: int = 1,
  captions: Sequence[str] = (),
) -> np.ndarray:
  """Draws x [n, *values.shape] on one sheet, uint8 [H, W, C].

  Rows of a table are the distributions of its columns, and how pairs of them are associated;
  angles are points of a torus, unit vectors of space and axes of rotations points of maps;
  vectors are points of the first four coordinates, in pairs; [L, C] are the first curves, which
  end where they are NaN; all else is a table of `pictures`, with the bars of their colours.
  columns: of the table; height: of a picture, at least, in pixels; data: training examples behind
  rows, vectors and curves; each: draws a table of vectors and curves too. groups: of as many
  vectors in turn, each in one colour.
  captions: of each of the pictures, below it.
  """
  rank = len(values.shape)
  if values.kinds:
    return _of_table(values, x, data)
  if values.manifold:
    return _of_manifold(values, x, data, groups)
  if not each and rank == 1 and not values.levels:
    return _points(values, x, data, groups)
  if not each and rank == 2:
    return _curves(values, x, data)
  drawn = pictures(values, x)
  side = drawn.shape[1] if rank < 3 else values.shape[-3]
  zoom = max(1, round(height / side))
  if captions:
    drawn, zoom = _with_captions(drawn.repeat(zoom, axis=1).repeat(zoom, axis=2), captions), 1
  table = grid(drawn, min(columns, len(drawn)), zoom)
  return table if values.levels or rank < 3 else _with_bars(values, table)


def _with_captions(pictures, captions):
  # Adds a line of text below each picture, uint8 [n, H + _LINE, W, C].
  from PIL import Image, ImageDraw

  n, _, width, channels = pictures.shape
  lines = np.zeros((n, _LINE, width, channels), np.uint8)
  for line, caption in zip(lines, captions, strict=True):
    picture = Image.new('L', (width, _LINE), 32)
    ImageDraw.Draw(picture).text((width // 2, _LINE // 2), caption, 255, anchor='mm')
    line[:] = np.asarray(picture)[..., None]
  return np.concatenate([pictures, lines], axis=1)


def crossed(sheet: np.ndarray) -> np.ndarray:
  """Returns a sheet [H, W, C] that is crossed out in red, uint8 [H, W, 3]."""
  from PIL import Image, ImageDraw

  picture = Image.fromarray(np.broadcast_to(sheet, (*sheet.shape[:2], 3)).copy())
  right, below = picture.width - 1, picture.height - 1
  draw, width = ImageDraw.Draw(picture), max(1, min(picture.size) // 50)
  for line in ((0, 0, right, below), (0, below, right, 0)):
    draw.line(line, '#e00000', width)
  return np.asarray(picture)


def pictures(values: ArraySpec, x: np.ndarray) -> np.ndarray:
  """Draws each of x [n, *values.shape] as a picture, uint8 [n, H, W, C].

  x: as files have it; see `ArraySpec.decode`. Vectors are bars from mean - 3 std
  to mean + 3 std, and [L, C] are curves in the same range. Tokens are strips, a colour for
  each token. Other real numbers
  have a colour map for each channel, one channel below the other; volumes [X,
  Y, Z, C] show the middle slices XY, XZ and YZ side by side, and arrays with
  more axes those in the middle of their first axes.
  """
  if values.is_picture and values.shape[-1] in (1, 3):
    return x
  if values.is_text:
    return draw_bytes(x)
  if values.tokens:
    return _strips(x)
  draw = _slices
  if not values.levels or len(values.shape) < 3:
    low, high = limits(values)
    x = (x - low) / (high - low)
    draw = _small if len(values.shape) < 3 else _slices
  return np.stack([draw(one) for one in x])


def limits(values: ArraySpec, data: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
  """Returns (low, high) of the axes of the last axis of the values.

  They are mean ± 3 std, or else with `data` a quarter more than the range of
  99 % of it, and in both cases within the box of the values; or 0..255 of
  levels.
  """
  size = values.shape[-1]
  if values.levels:
    return np.zeros(size), np.full(size, 255.0)
  if values.manifold:
    ends = np.full(size, 0.5 * values.period or 1.0)
    return -ends, ends
  mean = np.full(size, values.mean or 0.0)
  std = np.full(size, values.std or 1.0)
  low, high = mean - 3.0 * std, mean + 3.0 * std
  if data is not None:
    flat = np.asarray(data, np.float64).reshape(-1, size)
    low, high = np.nanquantile(flat, (0.005, 0.995), axis=0)
    margin = np.maximum(0.25 * (high - low), 0.5 * std)
    low, high = low - margin, high + margin
  n = len(values.low)
  low[:n] = np.maximum(low[:n], values.low)
  high[:n] = np.minimum(high[:n], values.high)
  return low, high


def _slices(array):
  # [..., H, W, C] or [..., X, Y, Z, C], in [0, 1] or uint8 -> uint8 [h, w, 3].
  from matplotlib import colormaps

  while array.ndim > 4:
    array = array[len(array) // 2]
  parts = [array]
  if array.ndim == 4:
    x, y, z = (side // 2 for side in array.shape[:3])
    parts = [array[:, :, z], array[:, y], array[x]]
  strides = [-(-max(part.shape[:2]) // _LARGEST) for part in parts]
  parts = [p[::n, ::n] for p, n in zip(parts, strides, strict=True)]
  height, count = max(map(len, parts)), min(array.shape[-1], MOST)
  gap = max(1, height // 16) if len(parts) * count > 1 else 0
  rows = []
  for c in range(count):
    if array.dtype == np.uint8:
      row = [part[..., c, None].repeat(3, axis=-1) for part in parts]
    else:
      colours = functools.partial(colormaps[_MAPS[c]], bytes=True)
      row = [colours(part[..., c])[..., :3] for part in parts]
    row = [_padded(p, height - len(p) + gap, gap) for p in row]
    rows.append(np.concatenate(row, axis=1))
  return np.concatenate(rows)


def _padded(picture, below, right, level=32):
  sides = (0, below), (0, right), (0, 0)
  return np.pad(picture, sides, constant_values=level)


def _strips(tokens, columns=64):
  # Tokens [n, L] -> uint8 [n, h, w, 3]: neighbours in number have hues that are far apart.
  import matplotlib

  hues = matplotlib.colormaps['hsv'](np.asarray(tokens) * 0.618034 % 1.0)
  lines = -(-tokens.shape[1] // columns)
  cells = np.full((len(tokens), lines * columns, 3), 32, np.uint8)
  cells[:, : tokens.shape[1]] = np.rint(255.0 * hues[..., :3])
  cells = cells.reshape(len(tokens), lines, columns, 3)[..., : tokens.shape[1], :]
  return cells.repeat(8, axis=1).repeat(4, axis=2)


def _small(unit):
  # Bars of a vector, or curves [L, C], in [0, 1] -> uint8 [64, 96, 3].
  from PIL import Image, ImageDraw

  picture = Image.new('RGB', (96, 64), 'white')
  draw = ImageDraw.Draw(picture)
  draw.line([(0, 31), (95, 31)], '#cccccc')
  y = 63.0 * (1.0 - np.nan_to_num(unit).clip(0.0, 1.0))
  if unit.ndim == 1:
    edges = np.linspace(3, 93, len(y) + 1)
    for left, right, end in zip(edges[:-1], edges[1:], y, strict=True):
      right = max(left, right - 2)
      draw.rectangle([left, min(end, 31), right, max(end, 31)], _BLUE)
    return np.asarray(picture)
  x = np.linspace(0, 95, len(y))[~np.isnan(unit).any(axis=1)]
  y = y[~np.isnan(unit).any(axis=1)]
  for c in reversed(range(min(y.shape[1], MOST))):
    points = [*zip(x.tolist(), y[:, c].tolist(), strict=True)]
    draw.line(points, _colour(c), 1)
  return np.asarray(picture)


def _colour(i):
  from matplotlib import colormaps
  from matplotlib.colors import to_hex

  return to_hex(colormaps['tab10'](i % 10))


def _figure(width, height):
  # pyplot would keep global state, and this may run in several threads.
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure((width, height), dpi=100, layout='constrained')
  FigureCanvasAgg(figure)
  return figure


def _pixels(figure):
  figure.canvas.draw()
  return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def _title(x, what, low, high):
  # Returns the legend of samples; it counts those outside the axes.
  inside = (((x >= low) & (x <= high)) | np.isnan(x))[..., :MOST]
  count = int((~inside.reshape(len(x), -1).all(axis=1)).sum())
  return f'{len(x):,} {what}' + f', {count:,} outside the axes' * bool(count)


def _with_legend(figure):
  # Returns the figure's pixels, with the legend of its first axes on top.
  handles, labels = figure.axes[0].get_legend_handles_labels()
  figure.legend(
    handles,
    labels,
    loc='outside upper center',
    ncols=2,
    fontsize=9,
    frameon=False,
    markerscale=1.5,
  )
  return _pixels(figure)


def _with_bars(values, table):
  # The bar of each channel's colours below a table of pictures.
  from matplotlib import colormaps
  from matplotlib.cm import ScalarMappable
  from matplotlib.colors import Normalize

  count = min(values.shape[-1], MOST)
  width = max(table.shape[1], 200 * count)
  figure = _figure(width / 100, 0.7 if count > 1 else 0.5)
  axes = figure.subplots(1, count, squeeze=False)[0]
  for c, (ax, *ends) in enumerate(zip(axes, *limits(values), strict=False)):
    colours = ScalarMappable(Normalize(*ends), colormaps[_MAPS[c]])
    figure.colorbar(colours, cax=ax, orientation='horizontal')
    ax.tick_params(labelsize=8)
    ax.xaxis.get_offset_text().set_size(8)
    if count > 1:
      ax.set_title(f'channel {c + 1}', fontsize=8)
  bars = _pixels(figure)
  table = _padded(table, 0, bars.shape[1] - table.shape[1], 255)
  return np.concatenate([table, bars])


MOST_COLUMNS, MOST_BARS = 24, 12  # of a table; of its categories


def _of_table(values, x, data):
  # The columns of samples over training data, and below how columns depend on each other.
  x = np.asarray(x, np.float64)
  sets = [(x, _BLUE, f'{len(x):,} samples')]
  if data is not None:
    sets.insert(0, (np.asarray(data, np.float64), _GREY, 'training data'))
  names = [name.replace('$', r'\$')[:24] for name in values.names]
  sizes = np.array([len(texts) for texts in values.categories])
  matrices = [associations(rows, sizes) for rows, *_ in sets]
  columns = np.arange(len(names))
  if len(names) > MOST_COLUMNS and data is not None:
    apart = np.nanmean(np.abs(matrices[1] - matrices[0]), axis=1)
    apart += [_apart(x[:, i], sets[0][0][:, i], bool(sizes[i])) for i in columns]
    columns = np.sort(np.argsort(-np.nan_to_num(apart))[:MOST_COLUMNS])
  columns = columns[:MOST_COLUMNS].tolist()
  rest = len(names) - len(columns)
  note = f'{len(columns)} of {len(names)} columns, ' + (
    'which differ most' if data is not None else 'the first'
  )
  above = _columns(values, names, columns, sets, note * bool(rest))
  if len(columns) < 2:
    return above
  below = _pairs([names[i] for i in columns], [m[np.ix_(columns, columns)] for m in matrices])
  width = max(above.shape[1], below.shape[1])
  return np.concatenate([_padded(z, 0, width - z.shape[1], 255) for z in (above, below)])


def _apart(x, y, is_category):
  # The distance of two columns: total variation, or the Kolmogorov-Smirnov distance.
  x, y = (np.sort(z[~np.isnan(z)]) for z in (x, y))
  if not (len(x) and len(y)):
    return 0.0
  at = np.unique(np.concatenate([x, y]))
  below = [np.searchsorted(z, at, side='right') / len(z) for z in (x, y)]
  if is_category:
    return 0.5 * np.abs(np.diff(below[0] - below[1], prepend=0.0)).sum()
  return np.abs(below[0] - below[1]).max()


def _columns(values, names, columns, sets, note):
  # The share of each category, or a histogram of numbers, of each set.
  across = min(4, len(columns))
  down = -(-len(columns) // across)
  figure = _figure(max(4.0, 2.6 * across), 2.2 * down + 0.3 * bool(note))
  for place, i in enumerate(columns):
    ax = figure.add_subplot(down, across, place + 1)
    texts, cells = values.categories[i], [a[~np.isnan(a[:, i]), i] for a, *_ in sets]
    both = np.concatenate(cells)
    if not len(both):
      low, high = 0.0, 1.0
    else:
      low, high = (0, len(texts)) if texts else (both.min(), both.max())
    bins = min(len(texts), MOST_BARS) if texts else 30
    edges = np.linspace(low, high if high > low else low + 1.0, bins + 1).tolist()
    for column, (_, colour, label) in zip(cells, sets, strict=True):
      style = 'step' if colour == _BLUE else 'bar'
      weights = np.full(len(column), 1.0 / max(1, len(column)))
      ax.hist(column, edges, weights=weights, histtype=style, color=colour, label=label)
    ax.set_title(names[i], fontsize=9)
    ax.tick_params(labelsize=7, labelleft=False)
    if 1 <= len(texts) <= MOST_BARS:
      few = [text.replace('$', r'\$')[:8] for text in texts]
      ax.set_xticks(np.arange(len(texts)) + 0.5, few, rotation=30 if len(texts) > 3 else 0)
    else:
      ax.locator_params(axis='x', nbins=3)
  if note:
    figure.supxlabel(note, fontsize=9)
  return _with_legend(figure)


def _pairs(names, matrices):
  # Matrices of associations: of data, of samples, and the difference of both.
  titles = ['associations of samples']
  if len(matrices) > 1:
    most = np.nanmax(np.abs(matrices[1] - matrices[0]), initial=0.0)
    matrices = [*matrices, matrices[1] - matrices[0]]
    titles = ['associations of training data', 'of samples', f'difference, at most {most:.2f}']
  figure = _figure(max(4.0, 3.6 * len(matrices)), 3.8)
  for i, (title, matrix) in enumerate(zip(titles, matrices, strict=True)):
    ax = figure.add_subplot(1, len(matrices), i + 1)
    scale = 0.2 if i == 2 else 1.0
    drawn = ax.imshow(np.ma.masked_invalid(matrix), 'RdBu_r', vmin=-scale, vmax=scale)
    ax.set_title(title, fontsize=9)
    ax.set_yticks(range(len(names)), names if not i else [''] * len(names), fontsize=6)
    ax.set_xticks(range(len(names)), names, fontsize=6, rotation=90)
    figure.colorbar(drawn, shrink=0.6).ax.tick_params(labelsize=7)
  return _pixels(figure)


def _points(values, x, data, groups):
  count = min(values.shape[0], MOST)
  names = [name.replace('$', r'\$') for name in values.names] or [
    f'$x_{i + 1}$' for i in range(count)
  ]
  low, high = limits(values, data)
  sets = _sets_of_points(np.asarray(x, np.float64), data, groups, low, high)
  side = (4.4, 5.0, 7.0, 8.0)[count - 1]
  figure = _figure(side, side)
  cells = [(i, j) for i in range(count) for j in range(i + 1)]
  cells = [(1, 0)] if count == 2 else cells
  for i, j in cells:
    place = (count, count, i * count + j + 1) if len(cells) > 1 else ()
    ax = figure.add_subplot(*place)
    ax.set_xlim(low[j], high[j])
    ax.locator_params(nbins=5 if count < 3 else 3)
    if i == j:
      _histograms(ax, sets, j, low[j], high[j])
    else:
      ax.set_ylim(low[i], high[i])
      for array, colour, label, size in sets:
        ax.scatter(array[:, j], array[:, i], size, colour, linewidth=0, alpha=0.6, label=label)
      ax.set_ylabel(names[i] if j == 0 else '')
    last = i == count - 1
    ax.tick_params(labelsize=8, labelbottom=last, labelleft=j == 0 < i)
    ax.set_xlabel(names[j] if last else '')
  return _with_legend(figure)


def _sets_of_points(x, data, groups, low, high):
  # Returns (points, colour, label, area of a point) of training data and of each group.
  area = float(np.clip(4000.0 / len(x), 4.0, 25.0))
  sets = [(x, _BLUE, _title(x, 'samples', low, high), area)]
  if 1 < groups <= 10:
    sets = [
      (part, _colour(i), _title(part, f'given row {i}', low, high), area)
      for i, part in enumerate(np.split(x, groups))
    ]
  if data is not None:
    sets.insert(0, (np.asarray(data), _GREY, 'training data', 5.0))
  return sets


def _of_manifold(values, x, data, groups):
  # Draws up to MOST angles, vectors or rotations of each example.
  size = 1 if values.manifold == 'angles' else values.shape[-1]
  on_maps = values.manifold == 'rotations' or size == 3

  def shown(a):  # [N, M, size] on maps, else [N, D]
    a = np.reshape(a, (len(a), -1, size))
    if on_maps:
      return a
    if values.period:
      return directional.wrap(a[..., 0], values.period)
    return np.arctan2(a[..., 1], a[..., 0]) if size == 2 else a[:, 0]

  x, data = shown(x), None if data is None else shown(data)
  if on_maps:
    return _on_maps(values.manifold, x, data, groups)
  values = values._replace(shape=x.shape[1:])
  if size == 2:
    values = values._replace(manifold='angles', period=directional.TURN)
  return _points(values, x, data, groups)


def _on_maps(manifold, x, data, groups):
  # A map of directions; or a map of the axes of rotations, and a histogram of their angles.
  count, is_rotation = min(x.shape[1], MOST), manifold == 'rotations'
  across = 1 + is_rotation
  figure = _figure(8.0 if is_rotation else 5.0, 2.6 * count + 0.4)
  sets = _sets_of_points(np.asarray(x, np.float64), data, groups, -np.inf, np.inf)
  for i in range(count):
    ax = figure.add_subplot(count, across, across * i + 1, projection='hammer')
    for array, colour, label, area in sets:
      v = array[:, i]
      if is_rotation:
        v = np.where(v[:, :1] < 0.0, -v, v)[:, 1:]  # q and -q have one axis.
        v = v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)
      longitude, latitude = np.arctan2(v[:, 1], v[:, 0]), np.arcsin(np.clip(v[:, 2], -1.0, 1.0))
      size = 0.5 * area
      ax.scatter(longitude, latitude, size, colour, linewidth=0, alpha=0.6, label=label)
    ax.grid(visible=True, linewidth=0.4)
    ax.tick_params(labelsize=6)
    ax.set_title('axes' if is_rotation else 'longitude and latitude', fontsize=8)
    if is_rotation:
      _angles_of_rotations(figure.add_subplot(count, across, across * i + 2), sets, i)
  return _with_legend(figure)


def _angles_of_rotations(ax, sets, i):
  # Densities over degrees, and the density of uniform rotations, (1 - cos) / 180.
  edges = np.linspace(0.0, 180.0, 37)
  for array, colour, *_ in sets:
    q = array[:, i]
    angle = np.rad2deg(2.0 * np.arctan2(np.linalg.norm(q[:, 1:], axis=1), abs(q[:, 0])))
    density, _ = np.histogram(angle, edges, density=True)
    ax.stairs(density, edges, fill=colour == _GREY, color=colour)
  ax.plot(edges, (1.0 - np.cos(np.deg2rad(edges))) / 180.0, '0.3', lw=0.8, ls=':')
  ax.set(xlim=(0.0, 180.0), yticks=[], xticks=[0, 60, 120, 180])
  ax.set_title('angles in degrees; dotted: uniform', fontsize=8)
  ax.tick_params(labelsize=7)


def _histograms(ax, sets, j, low, high):
  # Densities; the axis ends above the highest of the data, or of a normal: twice as high for
  # several sets of samples, which are narrower.
  top = 2.4 / (high - low)
  for array, colour, label, _ in sets:
    bins = int(np.clip(2.0 * len(array) ** 0.5, 8, 40))
    count, edges = np.histogram(array[:, j], bins, (low, high))
    density = count / (len(array) * (edges[1] - edges[0]))
    behind = colour == _GREY
    top = density.max() if behind else top
    ax.stairs(density, edges, fill=behind, color=colour, label=label)
  above = 2.0 if sum(colour != _GREY for _, colour, *_ in sets) > 1 else 1.4
  ax.set(ylim=(0.0, above * top), yticks=[])


def _curves(values, x, data):
  count, length = min(values.shape[1], MOST), x.shape[1]  # of a rollout, longer than the data
  (low, high), n = limits(values, data), min(len(x), _CURVES)
  place = np.arange(length)
  figure = _figure(7.0, 1.0 + 2.0 * count)
  axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
  what = f'of {len(x):,} samples' if n < len(x) else 'samples'
  for c, ax in enumerate(axes):
    if data is not None:
      some = np.flatnonzero(~np.isnan(data[..., c]).all(axis=0))
      band = np.nanquantile(data[:, some, c], (0.05, 0.95), axis=0)
      label = 'training data, 5 to 95 %'
      ax.fill_between(some, *band, color='0.85', linewidth=0, label=label)
    for i, one in enumerate(x[:n]):
      label = _title(x[:n], what, low, high) if not i else None
      marker = '.' if length < 20 else ''
      ax.plot(place, one[:, c], color=_colour(i), marker=marker, lw=1.0, label=label)
    ax.set(ylim=(low[c], high[c]), xlim=(0, max(1, length - 1)))
    ax.set_ylabel(f'channel {c + 1}' if count > 1 else '$x$')
  axes[-1].set_xlabel('position')
  return _with_legend(figure)


def grid(images: np.ndarray, columns: int, zoom: int = 1) -> np.ndarray:
  """Arranges uint8 [N, H, W, C] in one image, by rows, on a dark background.

  The gap between images is 1/16 of their height, at least 1 pixel. The result
  is enlarged `zoom` times.
  """
  n, height, width, channels = images.shape
  rows = -(-n // columns)
  gap = max(1, height // 16)
  size = rows * (height + gap) + gap, columns * (width + gap) + gap
  sheet = np.full((*size, channels), 32, np.uint8)
  for i, image in enumerate(images):
    top = gap + (i // columns) * (height + gap)
    left = gap + (i % columns) * (width + gap)
    sheet[top : top + height, left : left + width] = image
  return sheet.repeat(zoom, axis=0).repeat(zoom, axis=1)


def write_png(path: str | Path, image: np.ndarray) -> None:
  """Writes uint8 [H, W], [H, W, 1] or [H, W, 3] as a PNG file."""
  with draft(path) as file:
    _picture(image).save(file, format='PNG')


def write_gif(path: str | Path, frames: Sequence[np.ndarray]) -> None:
  """Writes uint8 frames as a GIF that loops and pauses at the last frame."""
  first, *rest = [_picture(frame) for frame in frames]
  durations = [80] * len(rest) + [1600]  # milliseconds
  with draft(path) as file:
    first.save(file, 'GIF', save_all=True, append_images=rest, duration=durations, loop=0)


def _picture(image):
  from PIL import Image

  image = np.asarray(image)
  if image.ndim == 3 and image.shape[-1] == 1:
    image = image[..., 0]
  return Image.fromarray(image)
