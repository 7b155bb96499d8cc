"""Digits and a table of scikit-learn, and synthetic pictures."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_diabetes, load_digits

from diffusion_jax.data import small_sets
from diffusion_jax.data.splits import random_part


def test_digits_are_scikit_learns_split_once_and_for_all():
  train, test = small_sets.digits('train'), small_sets.digits('test')
  assert len(train) == 1437 and len(test) == 360
  assert train.facts.x.shape == (8, 8, 1)
  assert (train.facts.num_classes, train.facts.x.levels) == (10, 17)
  assert train.x.dtype == np.uint8 and train.x.max() == 16
  data: Any = load_digits()
  pairs = lambda images, labels: sorted(
    (image.astype(int).tobytes(), label) for image, label in zip(images, labels, strict=True)
  )
  found = pairs(train.x[..., 0], train.label) + pairs(test.x[..., 0], test.label)
  assert sorted(found) == pairs(data.images, data.target)  # none is altered
  assert set(train.label) == set(test.label) == set(range(10))


def test_diabetes_is_scikit_learns_in_its_own_units():
  context, x = load_diabetes(return_X_y=True, scaled=False)
  for split in ('train', 'test'):
    rows, source = random_part(442, split, 0.1, ''), small_sets.diabetes(split)
    assert_array_equal(source.x[:, 0], x[rows])
    assert_array_equal(source.context, context[rows])


def test_turned_digits_are_a_quarter_further_anticlockwise():
  """The top row becomes the left column, from the bottom to the top."""
  upright, turned = small_sets.digits(), small_sets.digits(quarter_turns=1)
  assert_array_equal(turned.x[:, ::-1, 0], upright.x[:, 0])
  assert_array_equal(turned.label, upright.label)


@pytest.mark.parametrize('shape', [(32, 32, 3), (8, 16, 1)])
def test_synthetic_pictures(shape):
  train, test = (small_sets.synthetic(s, shape, 4, 40) for s in ('train', 'test'))
  assert train.x.shape == (40, *shape) and train.x.dtype == np.uint8
  assert np.bincount(train.label).tolist() == [10] * 4
  assert_array_equal(train.x, small_sets.synthetic('train', shape, 4, 40).x)
  assert (train.x != test.x).any()


@pytest.mark.parametrize(
  'points, mean, variance',
  [
    (small_sets.eight_gaussians, [0.0, 0.0], [12.5 + 0.1**0.5, 12.5 + 0.1**0.5]),
    # an arc has the mean (0, 2 / pi) and the variances 1/2 and 1/2 - 4 / pi^2
    (
      small_sets.moons,
      [0.8, 0.05],
      [
        9 * (0.5 + 0.25 + 0.04 / 12),
        9 * (0.5 - 4 / np.pi**2 + (2 / np.pi - 0.25) ** 2 + 0.04 / 12),
      ],
    ),
  ],
)
def test_points_of_a_plane_have_their_moments(points, mean, variance):
  train, test = (points(split, 40_000).x for split in ('train', 'test'))
  spread = 5.0 * np.sqrt(np.array(variance) / len(train))
  assert np.all(np.abs(train.mean(axis=0) - mean) < spread)
  assert_allclose(train.var(axis=0), variance, rtol=0.03)
  assert not np.array_equal(train, test)
