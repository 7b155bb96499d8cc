"""Angles, unit vectors and quaternions: what is refused, units, and their points."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation

from diffusion_jax.data import directional
from diffusion_jax.data.npz import npz
from diffusion_jax.data.sources import ArraySource, check_examples, measured
from diffusion_jax.data.spec import ArraySpec, problem_of


def units(rng, *shape):
  x = rng.normal(size=shape)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def changed(x, *place, by):
  x = x.copy()
  x[place] = by
  return x


X = units(np.random.default_rng(0), 9, 2, 4)
TURNS = np.random.default_rng(1).uniform(-180.0, 180.0, (9, 2))
WRONG = {
  'row 3 has the angle 361,': (changed(TURNS, 3, 1, by=361.0), {'kind': 'angles', 'period': 360.0}),
  'row 1 has the angle': (changed(0 * TURNS, 1, by=7.0), {'kind': 'angles'}),
  'row 5 has a vector of the length 0,': (changed(X, 5, 1, by=0.0), {'kind': 'directions'}),
  'row 2 has a quaternion of the length 2,': (changed(X, 2, 0, by=1.0), {'kind': 'rotations'}),
  'row 7 has numbers that are not finite': (changed(X, 7, 1, 0, by=np.nan), {'kind': 'directions'}),
  r'quaternions \[..., 4\], scalar first, not \[2, 3\]': (X[..., :3], {'kind': 'rotations'}),
  r'n of 2 or more, not \[2, 1\]': (X[..., :1], {'kind': 'directions'}),
  'angles are float': (np.zeros((9, 2), int), {'kind': 'angles'}),
  'period=360 is of angles: set kind=angles': (X, {'kind': 'rotations', 'period': 360.0}),
  'bounds are of numbers, and x has angles': (TURNS, {'kind': 'angles', 'bounds': (-1.0, 1.0)}),
}


@pytest.mark.parametrize('message', WRONG)
def test_what_is_no_direction_is_named_by_its_row(message, tmp_path):
  x, fields = WRONG[message]
  np.savez(tmp_path / 'x.npz', x=x)
  with pytest.raises(ValueError, match=message) as error:
    npz(str(tmp_path / 'x.npz'), **fields)
  assert '\n' not in str(error.value)


def test_lengths_are_refused(tmp_path):
  np.savez(tmp_path / 'x.npz', x=X, lengths=np.full(9, 2))
  with pytest.raises(ValueError, match='has lengths, and rotations have one length'):
    npz(str(tmp_path / 'x.npz'), kind='rotations')


def test_a_source_of_ones_own_is_checked_too():
  facts = ArraySource(X, manifold='rotations').facts
  with pytest.raises(ValueError, match='x: row 1 has a quaternion of the length'):
    check_examples({'x': changed(X, 1, by=1.0)}, facts)
  with pytest.raises(ValueError, match='has rotations, which are not scaled'):
    measured(ArraySource(X, manifold='rotations'), one_scale=True)


def test_a_file_keeps_its_unit(tmp_path):
  """Models see radians, and vectors of the length 1; both doors agree."""
  np.savez(tmp_path / 'x.npz', x=TURNS, labels=np.arange(9) % 3)
  source = npz(str(tmp_path / 'x.npz'), kind='angles', period=360.0, num_classes=3)
  values = measured(source).x
  assert values == ArraySpec((2,), manifold='angles', period=360.0)
  seen = values.encode(source.x)
  assert_allclose(seen, np.deg2rad(TURNS), rtol=1e-6)
  assert_allclose(values.decode(seen), TURNS, rtol=1e-6)
  a, b = values.affine
  assert_allclose(a + b * seen, TURNS, rtol=1e-6)
  values = ArraySource(X.astype(np.float16), manifold='rotations').facts.x
  seen = values.encode(X.astype(np.float16))
  assert_allclose(np.linalg.norm(seen, axis=-1), 1.0, rtol=1e-6)
  assert_allclose(values.decode(seen), X, atol=1e-3)


def test_points_are_the_same_for_equal_ones(rng):
  q = units(rng, 20, 3, 4)
  points = directional.as_points(q, 'rotations', 0.0)
  exact = Rotation.from_quat(q.reshape(-1, 4), scalar_first=True).as_matrix()
  assert_allclose(points, exact.reshape(20, 27), atol=1e-12)
  assert_allclose(directional.as_points(-q, 'rotations', 0.0), points)
  hours = rng.uniform(-12.0, 12.0, (20, 2))
  points = directional.as_points(hours, 'angles', 24.0)
  assert_allclose(directional.as_points(hours + 24.0, 'angles', 24.0), points, atol=1e-12)
  assert_allclose(points[:, ::2] ** 2 + points[:, 1::2] ** 2, 1.0)
  assert_allclose(directional.wrap(np.array([12.0, -12.0, 13.0]), 24.0), [-12.0, -12.0, -11.0])


def test_facts_of_no_directions_are_refused():
  good = ArraySpec((2, 4), manifold='rotations')
  assert not problem_of(good) and not problem_of(ArraySpec((3,), manifold='angles', period=1.0))
  for wrong in (
    good._replace(shape=(3,)),
    good._replace(period=1.0),
    good._replace(manifold='angles'),
    good._replace(levels=4),
    good._replace(mean=(0.0,), std=(1.0,)),
    ArraySpec((2,), period=1.0, mean=(0.0,), std=(1.0,)),
  ):
    assert problem_of(wrong)
