"""The energy distance of chords, where it is known by hand."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.metrics.chords import chordal_energy
from diffusion_jax.metrics.estimates import Missing

COUNT = 100


def scores(x, y, kind, period=0.0, beside=True, **more):
  reference = {'values': np.asarray(y), 'manifold': np.array([kind, str(period)]), **more}
  found = chordal_energy(beside=beside).compute({'values': np.asarray(x)}, reference)
  return {name: estimate for name, estimate, _ in found}


def of(x, y, *about):
  return scores(x, y, *about)['chordal_energy'].value


def test_poles_are_not_two_points_of_the_equator():
  """Their mean arcs are equal, all pi / 2, and chords are 0, 2 and sqrt(2)."""
  poles, equator = (np.tile([v, [-a for a in v]], (COUNT // 2, 1)) for v in ([0, 0, 1], [0, 1, 0]))
  within = 2.0 * (COUNT / 2) / (COUNT - 1)
  assert_allclose(of(poles, equator, 'directions'), 2.0 * 2**0.5 - 2.0 * within)


@pytest.mark.parametrize('turn', [0.3, 2.0, 3.0])
def test_two_rotations_are_apart_by_their_angle(turn):
  """|R - 1| = sqrt(8) sin(angle / 2), also of -q."""
  one, other = (np.tile([np.cos(a / 2), 0, np.sin(a / 2), 0], (COUNT, 1)) for a in (0.0, turn))
  expected = 2.0 * 8**0.5 * np.sin(turn / 2)
  assert_allclose(of(one, other, 'rotations'), expected)
  assert_allclose(of(one, -other, 'rotations'), expected)


def test_an_angle_is_the_same_a_period_later():
  noon, midnight = np.full((COUNT, 1), 12.0), np.zeros((COUNT, 1))
  assert_allclose(of(noon, midnight, 'angles', 24.0), 4.0)
  assert abs(of(noon, -noon, 'angles', 24.0)) < 1e-9


def test_real_examples_are_beside_as_many_samples(rng):
  x, y, others = (rng.uniform(-1.0, 1.0, (n, 2)) for n in (60, 200, 500))
  both = scores(x, y, 'angles', 2.0, others=others)
  assert [*both] == ['chordal_energy', 'chordal_energy_real']
  assert all(abs(value) < 4.5 * error for value, error in both.values())
  assert [*scores(x, y, 'angles', 2.0, beside=False, others=others)] == ['chordal_energy']
  assert [*scores(x, y, 'angles', 2.0)] == ['chordal_energy']
  with pytest.raises(Missing, match='2 examples or more'):
    of(x[:1], y, 'angles', 2.0)
