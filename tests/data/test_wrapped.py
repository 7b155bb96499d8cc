"""The drawn directions have the mean points of their law, in closed form."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation
from scipy.special import dawsn

from diffusion_jax.data import wrapped
from diffusion_jax.data.directional import as_points

COUNT = 40_000


def means_of_parts(kind):
  """Returns the mean point of each component, [3, D].

  The mean of exp_c(s xi) is c times E cos(s |xi|) where xi has one or two dimensions: exp(-s^2/2)
  and 1 - sqrt(2) s D(s / sqrt(2)), D Dawson's integral; a turn by s xi of three dimensions has
  the mean matrix (1 + 2 (1 - s^2) exp(-s^2/2)) / 3 times 1.
  """
  s = np.array(wrapped.DEVIATIONS)[:, None]
  if kind == 'angles':
    return np.exp(-0.5 * s**2) * as_points(np.array(wrapped.ANGLES), 'angles', 360.0)
  if kind == 'directions':
    return (1.0 - 2**0.5 * s * dawsn(s / 2**0.5)) * np.array(wrapped.DIRECTIONS)
  matrices = Rotation.from_quat(wrapped.ROTATIONS, scalar_first=True).as_matrix().reshape(3, 9)
  return (1.0 + 2.0 * (1.0 - s**2) * np.exp(-0.5 * s**2)) / 3.0 * matrices


def mean_of(kind):
  """Returns the mean point of all, [D]."""
  return np.array(wrapped.SHARES) @ means_of_parts(kind)


@pytest.mark.parametrize('kind', ['angles', 'directions', 'rotations'])
def test_the_mean_points_are_those_of_the_law(kind):
  source = wrapped.wrapped_normals('test', kind, COUNT, labelled=True)
  x = as_points(source.x, kind, source.period)
  assert_allclose(x.mean(axis=0), mean_of(kind), atol=4.5 / COUNT**0.5)
  for label, (share, mean) in enumerate(zip(wrapped.SHARES, means_of_parts(kind), strict=True)):
    of = source.label == label
    assert abs(of.mean() - share) < 4.5 * (share / COUNT) ** 0.5
    atol = 4.5 * x[of].std(axis=0).max() / of.sum() ** 0.5
    assert_allclose(x[of].mean(axis=0), mean, atol=atol)
  assert wrapped.wrapped_normals(kind=kind).facts.num_classes == 0
