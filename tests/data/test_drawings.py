"""Drawings of samples are chosen by what the data are."""

from typing import Any

import matplotlib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy import ndimage

from diffusion_jax.data import drawings
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.data.text_files import draw_bytes

RNG = np.random.default_rng(0)


def test_pictures_are_a_grid_of_themselves():
  values = ArraySpec((8, 6, 3), 17)
  x = RNG.integers(0, 256, (5, 8, 6, 3), np.uint8)
  assert_array_equal(drawings.pictures(values, x), x)
  sheet = drawings.sheet(values, x, 2, height=16)  # enlarged twice
  assert_array_equal(sheet, drawings.grid(x, 2, 2))
  assert drawings.sheet(values, x, 9, 8).shape == drawings.grid(x, 5).shape


def standard(*shape, **box):
  """Returns the values of arrays of mean 0 and standard deviation 1."""
  size = shape[-1]
  return ArraySpec(shape, 0, size * (0.0,), size * (1.0,), **box)


def panels(sheet):
  found: Any = ndimage.label(sheet.max(axis=2) > 100)
  regions = found[0]
  large = [b for b in ndimage.find_objects(regions) if np.sum(regions[b] > 0) > 0.01 * regions.size]
  inside = [b for b in large if b[0].start > 5]  # not the figure itself
  return [sheet[b] for b in sorted(inside, key=lambda b: (b[0].stop, b[1].start))]


def place(panel, mask):
  """Returns the centre of some pixels, x from the left and y from below."""
  y, x = np.argwhere(mask).mean(axis=0) + 0.5
  return x / panel.shape[1], 1.0 - y / panel.shape[0]


def blue(panel):
  red, green, blue = np.moveaxis(panel.astype(int), -1, 0)
  return (blue > red + 60) & (blue > green + 25)


def grey(panel):
  return (np.ptp(panel, axis=2) < 5) & (panel[..., 0] < 235)


@pytest.mark.parametrize('size', [2, 6])
def test_a_vector_is_a_point_in_each_pair_of_the_first_coordinates(size):
  """Axes are mean ± 3 std. Lower triangle, histograms on the diagonal."""
  mean, std = 100.0 + np.arange(size), 0.1 * (1.0 + np.arange(size))
  values = ArraySpec((size,), 0, tuple(mean), tuple(std))
  z = np.array([1.5, -2.25, 0.6, -0.9, 9.0, 9.0])[:size]
  drawn = panels(drawings.sheet(values, (mean + std * z)[None], 10))
  pairs = [(i, j) for i in range(min(size, 4)) for j in range(i + 1)]
  pairs = [(1, 0)] if size == 2 else pairs
  assert len(drawn) == len(pairs)
  for (i, j), panel in zip(pairs, drawn, strict=True):
    if i != j:
      expected = (z[j] + 3.0) / 6.0, (z[i] + 3.0) / 6.0
      assert_allclose(place(panel, blue(panel)), expected, atol=2.0 / len(panel))


def test_numbers_are_a_histogram_in_front_of_the_data():
  """Data are -1 and 1, samples are only 1."""
  data = np.array([[-1.0], [1.0]]).repeat(500, axis=0)
  (panel,) = panels(drawings.sheet(standard(1), np.ones((100, 1)), 10, data=data))
  low, high = drawings.limits(standard(1), data)
  assert_allclose([low[0], high[0]], [-1.5, 1.5])
  left, right = np.split(panel, [panel.shape[1] // 2], axis=1)
  assert grey(left).sum() > 100 < grey(right).sum()
  assert not blue(left[: len(left) // 2]).any() and blue(right).any()
  # Of 20 bins the samples' are all in one, twice the data's share of 40.
  x, _ = place(panel, blue(panel[:-5]))
  assert abs(x - 2.5 / 3.0) < 1.0 / 20


def test_training_data_are_grey_behind_the_samples():
  cloud = np.array([-2.0, 1.0]) + 0.05 * RNG.standard_normal((500, 2))
  far = np.array([[-4.0, -4.0], [4.0, 4.0]]).repeat(500, axis=0)
  data = np.concatenate([cloud, far])
  x = np.array([[3.0, -1.0]])
  (panel,) = panels(drawings.sheet(standard(2), x, 10, data=data))
  low, high = drawings.limits(standard(2), data)
  assert_allclose(low, -6.0)  # a quarter more than -4..4
  assert_allclose(high, 6.0)
  middle = panel[len(panel) // 4 : -len(panel) // 4]  # without `far`
  spot = np.zeros(panel.shape[:2], bool)
  spot[len(panel) // 4 : -len(panel) // 4] = grey(middle)
  assert_allclose(place(panel, spot), [4 / 12, 7 / 12], atol=0.01)
  assert_allclose(place(panel, blue(panel)), [9 / 12, 5 / 12], atol=0.01)


def test_draws_of_each_given_row_have_a_colour():
  """Draws of two rows are blue and orange, the first colours of matplotlib's tab10."""
  x = np.array([[-1.0, -1.0], [2.0, 1.0]]).repeat(20, axis=0)
  (panel,) = panels(drawings.sheet(standard(2), x, 10, groups=2))
  red, _, low = np.moveaxis(panel.astype(int), -1, 0)
  found = place(panel, blue(panel)), place(panel, red > low + 60)
  assert_allclose(found, [[2 / 6, 2 / 6], [5 / 6, 4 / 6]], atol=0.01)


def test_axes_have_the_names_of_a_table(monkeypatch):
  """A dollar does not begin a formula."""
  figures = []
  monkeypatch.setattr(drawings, '_with_legend', figures.append)
  for names in ((), ('price ($)', '$/m')):
    drawings.sheet(standard(2, names=names), RNG.standard_normal((5, 2)), 10)
  labels = [(ax.get_xlabel(), ax.get_ylabel()) for f in figures for ax in f.axes]
  assert labels == [('$x_1$', '$x_2$'), (r'price (\$)', r'\$/m')]


def test_axes_end_at_the_box_of_the_data():
  """A uniform prior fills them; a box far away does not matter."""
  data = RNG.uniform(0.0, 2.0, (2000, 2))
  low, high = drawings.limits(standard(2, low=(0.0, -50.0), high=(2.0, 50.0)), data)
  assert (low[0], high[0]) == (0.0, 2.0)
  assert_allclose([low[1], high[1]], [-0.5, 2.5], atol=0.05)


@pytest.mark.parametrize('shape', [(5,), (6, 2), (6, 6, 2)])
def test_axes_and_sizes_do_not_depend_on_the_samples(shape):
  """The first of these samples are far outside, as noise of VE is."""
  x = RNG.standard_normal((5, *shape)).clip(-2.0, 2.0)
  data = RNG.standard_normal((200, *shape)) if len(shape) < 3 else None
  draw = lambda x: drawings.sheet(standard(*shape), x, 3, data=data)
  one, two, far = draw(x), draw(x[::-1] / 2.0), draw(50.0 * x)
  assert one.shape == two.shape == far.shape and one.dtype == np.uint8
  assert one.shape[2] == 3 and not np.array_equal(one, two)
  edges = [(slice(None), slice(30)), (slice(-25, None),)]
  if len(shape) > 2:  # the bar of colours
    edges = [(slice(-25, None),)]
  for edge in edges:
    assert_array_equal(one[edge], two[edge])
    assert_array_equal(one[edge], far[edge])
    assert np.ptp(one[edge]) > 100
  if len(shape) < 3:  # The legend says how many are outside.
    assert_array_equal(one[:22], two[:22])
    assert not np.array_equal(one[:22], far[:22])


def test_curves_are_at_their_heights_in_front_of_the_band():
  """A panel a channel; the band is 5 to 95 % of data in -1..1."""
  length = 50
  x = np.empty((1, length, 2))
  x[..., 0], x[..., 1] = 1.2, np.linspace(-1.4, 1.4, length)
  data = np.broadcast_to(np.linspace(-1.0, 1.0, 201)[:, None, None], (201, length, 2))
  values = standard(length, 2)
  low, high = drawings.limits(values, data)
  drawn = panels(drawings.sheet(values, x, 10, data=data))
  assert len(drawn) == 2
  for c, panel in enumerate(drawn):
    for part in (0.25, 0.75):
      column = panel[:, round(part * panel.shape[1])]
      at = np.interp(part * (length - 1), np.arange(length), x[0, :, c])
      height = 1.0 - (at - low[c]) / (high[c] - low[c])
      found = np.mean(np.nonzero(blue(column[:, None])[:, 0])) / len(column)
      assert abs(found - height) < 2.0 / len(column)
    band = np.nonzero(grey(panel[5:-5, 5:9]))[0] + 5
    ends = 1.0 - (np.array([0.9, -0.9]) - low[c]) / (high[c] - low[c])
    found = np.array([band.min(), band.max()]) / len(panel)
    assert_allclose(found, ends, atol=2.0 / len(panel))


def colours(name, z):
  """Returns the colours of z in -3..3, by matplotlib."""
  return matplotlib.colormaps[name]((z + 3.0) / 6.0, bytes=True)[..., :3]


def test_fields_have_a_colour_map_for_each_channel():
  x = RNG.standard_normal((4, 16, 12, 2))
  drawn = drawings.pictures(standard(16, 12, 2), x)
  assert_array_equal(drawn[:, :16, :12], colours('viridis', x[..., 0]))
  assert_array_equal(drawn[:, 17:33, :12], colours('magma', x[..., 1]))
  sheet = drawings.sheet(standard(16, 12, 2), x, 2, height=32)
  table = drawings.grid(drawn, 2, 2)
  height, width = table.shape[:2]
  assert_array_equal(sheet[:height, :width], table)
  bars = sheet[height:]
  ends = colours('magma', np.array([-3.0, 0.0, 3.0]))
  right = bars[:, bars.shape[1] // 2 :].reshape(-1, 3).astype(int)
  for end in ends.astype(int):
    assert np.abs(right - end).max(axis=1).min() < 4  # 180 pixels, 256 colours


def test_levels_of_two_channels_and_of_texts_are_pictures():
  x = RNG.integers(0, 256, (2, 8, 8, 2), np.uint8)
  drawn = drawings.pictures(ArraySpec((8, 8, 2), 4), x)
  assert_array_equal(drawn[:, 9:17, :8, 0], x[..., 1])
  letters = draw_bytes(x[..., 0, 0])
  assert_array_equal(
    drawings.sheet(ArraySpec((8,), 256), x[..., 0, 0], 4), drawings.grid(letters, 2, 4)
  )


def test_volumes_are_their_middle_slices():
  """Levels are grey; with five axes, the first is cut in its middle too."""
  x = RNG.integers(0, 256, (2, 6, 5, 4, 1), np.uint8)
  for values, array in [
    (ArraySpec((6, 5, 4, 1), 256), x),
    (ArraySpec((3, 6, 5, 4, 1), 256), np.stack([x // 2, x, x // 3], axis=1)),
  ]:
    drawn = drawings.pictures(values, array)
    assert drawn.shape == (2, 7, 5 + 1 + 4 + 1 + 4 + 1, 3)
    assert_array_equal(drawn[:, :6, :5, 0], x[:, :, :, 2, 0])
    assert_array_equal(drawn[:, :6, 6:10, 1], x[:, :, 2, :, 0])
    assert_array_equal(drawn[:, :5, 11:15, 2], x[:, 3, :, :, 0])
    assert_array_equal(drawings.sheet(values, array, 2, 6), drawings.grid(drawn, 2))


def test_large_fields_are_drawn_smaller():
  x = RNG.standard_normal((1, 600, 300, 1))
  (drawn,) = drawings.pictures(standard(600, 300, 1), x)
  assert_array_equal(drawn, colours('viridis', x[0, ::3, ::3, 0]))


def test_each_vector_and_curve_has_a_small_picture():
  """A bar goes from the mean to the side of its sign; three std fill it."""
  (picture,) = drawings.pictures(standard(2), np.array([[3.0, -1.5]]))
  left, right = blue(picture[:, :48]), blue(picture[:, 48:])
  assert left[:31].any() and not left[33:].any()
  assert right[33:].any() and not right[:31].any()
  rows = lambda mask: np.ptp(np.nonzero(mask.any(axis=1)))
  assert abs(rows(left) - 31) < 2 and abs(rows(right) - 16) < 2
  curve = np.linspace(-3.0, 3.0, 20)[None, :, None]
  (picture,) = drawings.pictures(standard(20, 1), curve)
  assert blue(picture[60:, :4]).any() and blue(picture[:4, -4:]).any()
  two = np.concatenate([curve, -curve])
  sheet = drawings.sheet(standard(20, 1), two, 2, 64, each=True)
  assert_array_equal(sheet, drawings.grid(drawings.pictures(standard(20, 1), two), 2))


def test_grid_places_images_row_by_row():
  pictures = np.arange(1, 6, dtype=np.uint8).reshape(5, 1, 1, 1) * 40
  sheet = drawings.grid(np.broadcast_to(pictures, (5, 2, 2, 1)), 3)
  assert sheet.shape == (1 + 2 * 3, 1 + 3 * 3, 1)
  assert_array_equal(sheet[1::3, 1::3, 0], [[40, 80, 120], [160, 200, 32]])
  assert drawings.grid(pictures, 5, zoom=4).shape == (12, 44, 1)


def test_gif_has_its_frames(tmp_path):
  drawings.write_gif(tmp_path / 'a.gif', [np.full((4, 4, 3), v, np.uint8) for v in (0, 100, 255)])
  with Image.open(tmp_path / 'a.gif') as gif:
    assert gif.n_frames == 3  # pyright: ignore[reportAttributeAccessIssue]
    assert gif.info['loop'] == 0


def test_tokens_are_strips_of_colours():
  """Equal tokens have one colour, and others another."""
  spec = ArraySpec((3,), 1000, tokens=True)
  drawn = drawings.pictures(spec, np.array([[5, 6, 5], [6, 999, 998]], np.uint16))
  assert drawn.shape == (2, 8, 12, 3) and (drawn == drawn[:, :1]).all()
  (a, b, c), (d, e, f) = (tuple(map(tuple, row[0, ::4])) for row in drawn)
  assert a == c and b == d and len({a, b, e, f}) == 4
  assert drawings.sheet(spec, np.zeros((2, 3), np.uint16), 2).ndim == 3


def units(*shape):
  x = np.random.default_rng(0).normal(size=shape)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize('kind, shape', [('rotations', (2, 4)), ('directions', (3,))])
def test_directions_are_points_of_a_map(kind, shape):
  """q and -q are drawn as one; others than the poles are elsewhere after half a turn."""
  values, x = ArraySpec(shape, manifold=kind), units(50, *shape)
  sheet = drawings.sheet(values, x, 1, data=x[:20])
  other = drawings.sheet(values, -x, 1, data=-x[:20])
  assert np.array_equal(sheet, other) == (kind == 'rotations')
  assert np.any(np.all(sheet == 165, axis=2))  # the grey of the data
  assert sheet.shape == drawings.sheet(values, units(9, *shape), 1).shape


def test_angles_are_drawn_in_one_period():
  values = ArraySpec((2,), manifold='angles', period=24.0)
  x = np.random.default_rng(0).uniform(0.0, 24.0, (50, 2))
  sheet = drawings.sheet(values, x, 1, data=x - 24.0)
  assert_array_equal(sheet, drawings.sheet(values, np.where(x < 12.0, x, x - 24.0), 1, data=x))
  assert np.any(sheet != drawings.sheet(values, x + 6.0, 1, data=x))


def test_vectors_of_a_plane_are_their_angles():
  x = units(50, 2, 2)
  angles = ArraySpec((2,), manifold='angles', period=2.0 * np.pi)
  sheet = drawings.sheet(ArraySpec((2, 2), manifold='directions'), x, 1)
  assert_array_equal(sheet, drawings.sheet(angles, np.arctan2(x[..., 1], x[..., 0]), 1))
  five = drawings.sheet(ArraySpec((5,), manifold='directions'), units(50, 5), 1, groups=2)
  assert (
    five.shape == drawings.sheet(ArraySpec((5,), mean=(0.0,), std=(1.0,)), units(9, 5), 1).shape
  )
