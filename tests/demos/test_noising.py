"""The pictures of a noised photo, and how white its noise is."""

import numpy as np
import pytest
from PIL import Image

import diffusion_jax as dj
from diffusion_jax.demos import noising

SIDE = 64
PHOTO = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
PHOTO //= 2  # a mean far from grey


def written(alphas, folder):
  """Returns the report of a noising, whose pictures are in the folder."""
  few = noising.Noising(size=SIDE, frames=5, num_draws=10)
  schedule = dj.DiscreteSchedule.from_betas(1.0 - np.array(alphas))
  return noising.write(few, PHOTO, schedule, 0, folder)[1]


def test_pictures_and_numbers_of_white_noise(tmp_path):
  """Within five standard errors of the closed forms, after 500 steps."""
  found = written(np.linspace(0.9998, 0.96, 500), tmp_path)
  with Image.open(tmp_path / 'strip.png') as strip:
    assert strip.size == (4 + 6 * (SIDE + 4), SIDE + 2 * 4)
  with Image.open(tmp_path / 'noise.gif') as gif:
    assert gif.n_frames == 5  # pyright: ignore[reportAttributeAccessIssue]
    assert gif.size == (SIDE, SIDE)
  for name in ('schedule.png', 'spectrum.png'):
    with Image.open(tmp_path / name) as plot:
      assert np.asarray(plot.convert('L')).std() > 10  # something is drawn
  assert found['steps'] == 500 and found['dimensions'] == PHOTO.size
  per_dim, total = found['distance_per_dim'], found['distance_total']
  assert abs(total['estimate'] - total['closed_form']) < 5 * total['standard_error']
  for name in ('estimate', 'standard_error', 'closed_form', 'white_noise'):
    np.testing.assert_allclose(total[name] / PHOTO.size, per_dim[name])
  assert per_dim['white_noise'] == 2.0
  spread = 5 * (2 / PHOTO.size) ** 0.5
  assert abs(per_dim['closed_form'] - per_dim['averaged_over_z']) < spread
  correlation = found['correlation_with_x']
  error = abs(correlation['value'] - correlation['expected'])
  assert error < 5 * correlation['of_independent_noise']


def test_few_steps_leave_the_picture_and_only_the_correlation_tells(tmp_path):
  """The lecture's five alphas end nowhere near noise."""
  found = written((0.99, 0.98, 0.97, 0.96, 0.95), tmp_path)
  assert found['steps'] == 5
  assert found['alpha_bar_T'] == pytest.approx(0.858277728)
  assert found['correlation_with_x']['value'] > 0.5
