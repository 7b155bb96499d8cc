"""Conditions of a training are made of its own examples."""

import functools

import jax
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.training import conditions, objectives
from tests.transcribed import transcribes

X0 = np.random.default_rng(1).uniform(-1.0, 1.0, (5, 4, 6, 3))
X0 = X0.astype(np.float32)
known_pixels = jax.jit(conditions.known_pixels)


@transcribes(
  'Palette (Saharia et al. 2022)',
  'the network takes the known pixels as input',
  '`training.conditions.known_pixels`',
)
def test_known_pixels_and_where_they_are(key):
  mask = jax.random.bernoulli(key, 0.5, (5, 4, 6, 1))
  found = np.asarray(known_pixels(X0, mask))
  assert found.shape == (5, 4, 6, 4)
  assert_array_equal(found[..., 3], np.asarray(mask)[..., 0])
  for c in range(3):
    expected = np.asarray(X0)[..., c] * np.asarray(mask)[..., 0]
    assert_array_equal(found[..., c], expected)


def test_superres_is_conditioned_on_means_over_blocks():
  found = jax.jit(lambda x: conditions.superres(2)(None, x))(X0)
  assert found.shape == X0.shape
  x = np.asarray(X0, np.float64)
  for i in range(4):
    for j in range(6):
      block = x[:, i // 2 * 2 :, j // 2 * 2 :][:, :2, :2].mean(axis=(1, 2))
      assert_allclose(found[:, i, j], block, atol=1e-6)


def test_an_image_condition_is_of_the_example_itself(key):
  """Masks of an image condition have their own key, which other conditions do not change."""
  batch = {'x': X0, 'label': np.arange(5)}
  condition = objectives.make_condition(True, 0.5, conditions.inpaint())

  @jax.jit
  def run(key, batch):
    drawn = conditions.draw_masks(jax.random.fold_in(key, 1), X0.shape)
    plain = objectives.make_condition(True, 0.5)(key, batch)
    return condition(key, batch), drawn, plain

  cond, drawn, plain = jax.device_get(run(key, batch))
  assert set(cond) == {'label', 'image', 'drop'}
  mask = cond['image'][..., 3:] == 1.0
  assert_array_equal(mask, drawn)
  known = known_pixels(X0, mask)
  assert_array_equal(cond['image'], known)
  # labels and drops are the same as without it
  assert_array_equal(cond['drop'], plain['drop'])


KEYS = jax.random.split(jax.random.key(3), 200)


@functools.cache
def draw(kind):
  return np.asarray(jax.jit(jax.vmap(lambda key: kind(key, 8, 12)))(KEYS))


def test_halves_are_all_four_halves():
  known = draw(conditions.half)[..., 0]
  seen = {tuple(map(tuple, m)) for m in known}
  rows, columns = np.indices((8, 12))
  halves = [rows < 4, rows >= 4, columns < 6, columns >= 6]
  assert seen == {tuple(map(tuple, m)) for m in halves}


def test_a_box_is_one_box_of_a_quarter_to_three_quarters():
  found = ~draw(conditions.box)[..., 0]
  for unknown in found:
    rows, columns = (np.flatnonzero(unknown.any(1)), np.flatnonzero(unknown.any(0)))
    # contiguous, and all of it
    assert unknown.sum() == len(rows) * len(columns)
    assert np.ptp(rows) == len(rows) - 1 and np.ptp(columns) == len(columns) - 1
    assert 1 <= len(rows) <= 7 and 2 <= len(columns) <= 10  # to a pixel
  spread = found.sum(axis=(1, 2))
  assert len(set(spread)) > 10


def test_a_stroke_is_what_lies_near_the_lines_between_its_corners():
  """The stroke is drawn again by 2,000 points of every line."""

  @jax.jit
  @jax.vmap
  def draws(key):
    corner_key, width_key = jax.random.split(key)
    corners = jax.random.uniform(corner_key, (5, 1, 1, 2)).reshape(5, 2)
    radius = jax.random.uniform(width_key, (), minval=1 / 16, maxval=1 / 8)
    return conditions.stroke(key, 16, 16)[..., 0], corners, radius

  found = jax.device_get(draws(KEYS[:5]))
  for known, corners, radius in zip(*found, strict=True):
    along = np.linspace(0.0, 1.0, 2000)[:, None, None]
    line = (corners[:-1] + along * (corners[1:] - corners[:-1])).reshape(-1, 2)
    pixels = (np.indices((16, 16)).transpose(1, 2, 0) + 0.5) / 16
    gaps = np.linalg.norm(pixels[:, :, None] - line, axis=-1).min(axis=-1)
    sure = np.abs(gaps - radius) > 1e-3
    assert_array_equal(known[sure], (gaps > radius)[sure])
    assert 0.05 < 1.0 - known.mean() < 0.9


def test_every_image_has_a_mask_of_its_own(key):
  draw_masks = jax.jit(conditions.draw_masks, static_argnums=1)
  found = np.asarray(draw_masks(key, (200, 8, 12, 3)))
  assert found.shape == (200, 8, 12, 1) and found.dtype == bool
  assert len({m.tobytes() for m in found}) > 100
  halves = {m.tobytes() for m in draw(conditions.half)}
  share = np.mean([m.tobytes() in halves for m in found])
  assert abs(share - 1 / 3) < 5 * (2 / 9 / 200) ** 0.5
  # a mask depends only on its own key
  whole, turned = (np.asarray(draw_masks(keys, (200, 8, 12, 3))) for keys in (KEYS, KEYS[::-1]))
  assert_array_equal(turned[::-1], whole)
