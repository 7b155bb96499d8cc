"""The law that data declare: what it must be, and what a network sees of it."""

from unittest import mock

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.app.kinds import laws
from diffusion_jax.data.spec import ArraySpec, Facts
from tests.app.conftest import refused

MOMENTS = {
  'lists': lambda: ([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]),
  'another size': lambda: (np.zeros(3), np.eye(3)),
  'no covariance': lambda: np.zeros(2),
  'equal numbers': lambda: (np.zeros(2), np.ones((2, 2))),
}


@pytest.mark.parametrize('name', MOMENTS)
def test_moments_of_a_user_are_checked(name):
  data = mock.Mock(declared=mock.Mock(moments=MOMENTS[name]))
  data.name = 'mine:pairs'
  facts = Facts(ArraySpec((2,), 0))
  if name == 'lists':
    assert_array_equal(laws.moments_of(data, facts)[1], np.eye(2))
    return
  text = refused('', laws.moments_of, data, facts)
  assert 'config.data=mine:pairs: its moments must be the mean' in text and 'D=2 numbers' in text


def test_a_network_sees_the_law_in_its_units():
  """(x - mean) / std of two numbers in each of two rows."""
  cov = np.diag([4.0, 9.0, 1.0, 25.0])
  cov[0, 3] = cov[3, 0] = 2.0
  data = mock.Mock(declared=mock.Mock(moments=lambda: (np.array([1.0, 2.0, 3.0, 4.0]), cov)))
  facts = Facts(ArraySpec((2, 2), 0, mean=(1.0, 2.0), std=(2.0, 5.0)))
  law = laws.law_of(data, facts)
  assert_allclose(law.mean, [0.0, 0.0, 1.0, 0.4], atol=1e-6)
  assert_allclose(np.diag(law.cov), [1.0, 0.36, 0.25, 1.0], rtol=1e-5)
  assert_allclose(law.cov[0, 3], 2.0 / (2.0 * 5.0), rtol=1e-5)


def test_data_without_moments_have_no_law():
  assert laws.law_of(None, Facts(ArraySpec((2,), 0))) is None
  assert laws.law_of(mock.Mock(declared=mock.Mock(moments=None)), mock.Mock()) is None
