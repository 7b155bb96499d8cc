"""EDM's augmentations are what they say, as often as they say, by the key of each example."""

import functools
import itertools

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.training import augmentation
from tests.transcribed import transcribes

SIZE = 24
NOTHING = augmentation.Changes(
  **dict.fromkeys(('x_flip', 'y_flip'), np.zeros((), bool)),
  **dict.fromkeys(('scale', 'angle', 'stretch', 'axis'), np.float32(0.0)),
  shift=np.zeros(2, np.float32),
)
MIDDLE = slice(6, -6)


def picture(x, y):
  """Returns a smooth image of two channels; x, y in pixels from the centre."""
  waves = np.sin(2 * np.pi * (x / 11 + y / 17)), np.cos(x / 2 - y / 3)
  return np.stack(waves, axis=-1)


def grid():
  places = np.arange(SIZE) - (SIZE - 1) / 2
  return np.meshgrid(places, places)  # x to the right, y down


IMAGE = picture(*grid()).astype(np.float32)
apply = jax.jit(augmentation.apply_changes)
augment = jax.jit(augmentation.augment)


def changed(**changes):
  changes = {k: np.asarray(v, getattr(NOTHING, k).dtype) for k, v in changes.items()}
  return np.asarray(apply(IMAGE, NOTHING._replace(**changes)))


def test_sym6_is_the_wavelet_of_its_name():
  """The wavelet is orthonormal to its even shifts, and has six vanishing moments."""
  h = augmentation.SYM6
  assert_allclose(h.sum(), np.sqrt(2), rtol=1e-11)
  for shift in range(0, 12, 2):
    product = h[shift:] @ h[: 12 - shift]
    assert_allclose(product, shift == 0, atol=1e-11)
  high_pass = h * (-1.0) ** np.arange(12)
  places = np.arange(12) - 5.5
  moments = [(high_pass * places**i).sum() for i in range(7)]
  assert_allclose(moments[:6], 0.0, atol=1e-7)
  assert abs(moments[6]) > 1.0
  # sym6 is the least asymmetric; the centre of db6 is 4.1 taps away
  assert abs((np.arange(12) - 5.5) @ h / h.sum()) < 0.5


def test_flips_are_exact():
  assert_array_equal(changed(), IMAGE)
  assert_array_equal(changed(x_flip=True), IMAGE[:, ::-1])
  assert_array_equal(changed(y_flip=True), IMAGE[::-1])


def test_a_warp_by_nothing_changes_nothing(key):
  """Doubling and halving are inverse up to the edges, for any image."""
  image = jax.random.normal(key, (7, 10, 3))
  found = jax.jit(augmentation.warp)(image, np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
  assert_allclose(found, image, atol=1e-5)


def test_a_shift_by_whole_pixels_is_a_shift():
  """The shift is 3 to the right and 6 up, as 1 is an eighth of the image."""
  found = changed(shift=[1.0, -2.0])
  expected = np.roll(IMAGE, (-6, 3), axis=(0, 1))
  inside = (MIDDLE, MIDDLE)
  assert_allclose(found[inside], expected[inside], atol=1e-5)
  # pixels beyond the left edge are mirror images
  assert_allclose(found[6:-6, 0], IMAGE[12:, 3], atol=0.1)


def test_beyond_the_edges_there_are_mirrors():
  """The image has a quarter of its size, so that four fit into a row."""
  found = changed(scale=-10.0)
  assert np.isfinite(found).all() and np.abs(found).max() < 1.5
  low = np.full((SIZE, SIZE, 2), 0.7, np.float32)
  changes = NOTHING._replace(angle=np.float32(0.3), scale=np.float32(-10.0))
  assert_allclose(apply(low, changes), low, atol=1e-5)


IMAGES = np.repeat(IMAGE[None], 48, axis=0)


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None))
def draw_changes(key, probability):
  return augmentation.draw_changes(key, probability)


@pytest.fixture(scope='module')
def drawn(seeds):
  """Returns the changes of many images."""
  keys = jax.random.split(jax.random.key(1), 20_000)
  return jax.device_get(draw_changes(keys, 0.12))


def literal_labels(c):
  """Computes the labels of tests/papers/recipes.md, section 6."""
  columns = [
    c.x_flip,
    c.y_flip,
    c.scale,
    np.cos(c.angle) - 1,
    np.sin(c.angle),
    c.stretch * np.cos(c.axis),
    c.stretch * np.sin(c.axis),
    *c.shift.T,
  ]
  return np.stack(columns, axis=1)


def test_the_changes_come_as_often_as_asked_for(drawn):
  done = {name: x != 0 for name, x in drawn._asdict().items()}
  done['shift'] = done['shift'].all(axis=1)
  expected = dict.fromkeys(('scale', 'angle', 'stretch', 'shift'), 0.12)
  expected |= {'x_flip': 0.5, 'y_flip': 0.06, 'axis': 0.06}
  for name, p in expected.items():
    error = 5 * np.sqrt(p * (1 - p) / 20_000)
    assert abs(done[name].mean() - p) < error, name
  assert not (done['axis'] & ~done['stretch']).any()
  names = 'y_flip', 'scale', 'angle', 'stretch', 'shift'
  for a, b in itertools.combinations(names, 2):  # independent of one another
    p = expected[a] * expected[b]
    both = (done[a] & done[b]).mean()
    assert abs(both - p) < 5 * np.sqrt(p / 20_000), (a, b)


@transcribes(
  'EDM (Karras et al. 2022)',
  'augmentation and its nine labels',
  '`training.augmentation.augment`',
)
def test_the_changes_have_their_distributions(drawn):
  for name in ('scale', 'stretch', 'shift'):
    values = getattr(drawn, name)
    values = values[values != 0]
    assert_allclose(values.mean(), 0.0, atol=0.09)
    assert_allclose(values.std(), 1.0, atol=0.06)
  for name in ('angle', 'axis'):
    values = getattr(drawn, name)
    values = np.sort(values[values != 0])
    uniform = np.linspace(-np.pi, np.pi, len(values))
    assert np.abs(values - uniform).max() < 4 * np.pi / np.sqrt(len(values))


def test_no_two_values_of_a_change_are_related(drawn):
  """Correlations of the values of a change are within five standard errors of 0."""
  values = drawn._asdict()
  values['shift'] = values['shift'][:, 0]
  for (a, x), (b, y) in itertools.combinations(values.items(), 2):
    flips = {a, b} & {'x_flip', 'y_flip'}
    both = np.ones(len(x), bool) if flips else (x != 0) & (y != 0)
    r = np.corrcoef(x[both].astype(float), y[both].astype(float))[0, 1]
    assert abs(r) < 5 / np.sqrt(both.sum()), (a, b)


def test_an_example_depends_only_on_its_own_key(key):
  keys = jax.random.split(key, 48)
  found, turned = (augment(k, IMAGES, 0.9) for k in (keys, keys[::-1]))
  close = lambda a, b: assert_allclose(a, b[::-1], atol=1e-6)
  jax.tree.map(close, found, turned)
  assert len({label.tobytes() for label in np.asarray(found[1])}) == 48


def test_changes_are_made_in_their_order(key):
  """Each image is the smooth picture at the places of its own changes."""
  keys = jax.random.split(key, 48)
  changes = jax.device_get(draw_changes(keys, 0.6))
  found, labels = jax.device_get(augment(keys, IMAGES, 0.6))
  assert_allclose(labels, literal_labels(changes), atol=1e-6)
  assert (labels[:, 1:] != 0).any(axis=0).all()
  turn = lambda a: np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
  checked = 0
  for image, c in zip(found, zip(*changes, strict=True), strict=True):
    c = augmentation.Changes(*map(np.float64, c))
    squeeze = np.diag([2 ** (-0.2 * c.stretch), 2 ** (0.2 * c.stretch)])
    inverse = turn(c.angle) @ turn(-c.axis) @ squeeze @ turn(c.axis)
    place = np.stack(grid()) - c.shift[:, None, None] * SIZE / 8
    u, v = np.einsum('ab,bij->aij', inverse / 2 ** (0.2 * c.scale), place)
    inside = np.maximum(np.abs(u), np.abs(v)) < SIZE / 2 - 3
    expected = picture(-u if c.x_flip else u, -v if c.y_flip else v)
    errors = np.abs(image - expected)[inside]
    checked += errors.size
    # a picture is smoothed if it is sampled too coarsely for its waves
    if c.scale > -1 and abs(c.stretch) < 1.5:
      assert errors.max(initial=0.0) < 0.15, c
  assert checked > 48 * 100
