"""What models see of the data, and the way back to the data's units."""

import json

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.data.sources import ArraySource, measured
from diffusion_jax.data.spec import ArraySpec, Facts, misfits, problem_of


@pytest.mark.parametrize('levels', [2, 17, 256])
def test_levels_fill_minus_one_to_one_and_are_written_in_0_to_255(levels):
  values = ArraySpec((8, 8, 1), levels)
  level = np.arange(levels, dtype=np.uint8)
  x = values.encode(level)
  assert x.dtype == np.float32
  assert_allclose(x, np.linspace(-1.0, 1.0, levels), atol=1e-6)
  shown = values.decode(x)
  assert shown.dtype == np.uint8
  assert_array_equal(shown, np.rint(level * (255 / (levels - 1))))
  again = values.decode(values.written.encode(shown))
  assert_array_equal(again, shown)  # what files have
  assert values.log_det == 0.0 and values.written.levels == 256


def test_levels_are_rounded_to_the_nearest_and_clipped():
  x = np.array([-3.0, -0.9, -0.06, 0.06, 0.95, 7.0])
  expected = np.array([0, 0, 1, 1, 2, 2]) * 127.5
  assert_array_equal(ArraySpec((6,), 3).decode(x), np.rint(expected))


def test_pictures_and_texts():
  """Levels [H, W, C] are pictures, levels [L] texts, real numbers neither."""
  found = [
    (ArraySpec(shape, levels).is_picture, ArraySpec(shape, levels).is_text)
    for levels in (17, 0)
    for shape in ((8,), (8, 2), (8, 8, 1), (4, 4, 4, 1))
  ]
  neither = False, False
  assert found == [(False, True), neither, (True, False), *[neither] * 5]


FAR = ArraySpec((4, 2), mean=(3.0, -2.0), std=(0.5, 7.0))


@pytest.mark.parametrize('values', [FAR, ArraySpec((3,)), ArraySpec((8, 2, 1), 17)])
def test_a_program_has_the_same_units(values):
  data = np.full((3, *values.shape), 5.0)
  a, b = values.affine
  assert a.ndim == b.ndim == data.ndim  # for strict promotion of ranks
  assert_allclose(a + b * values.encode(data), data, rtol=1e-5)


@given(st.integers(0, 2**31), st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_real_numbers_come_back_in_their_units(seed, mean, std):
  """Real numbers come back to 1e-6 standard deviations, or as float32 keeps them."""
  values = ArraySpec((5, 1), mean=(mean,), std=(std,))
  x = mean + std * np.random.default_rng(seed).normal(size=(3, 5, 1))
  z = values.encode(x)
  assert z.dtype == np.float32
  assert_allclose(z, (x - mean) / std, rtol=1e-6, atol=1e-6)
  found = values.decode(z)
  if abs(mean) > 1e3 * std:
    assert found.dtype == np.float64
    assert_allclose(found, x, rtol=0, atol=1e-6 * std)
  else:
    assert found.dtype == np.float32
    assert_allclose(found, x, rtol=1e-6, atol=1e-6 * std)


def test_log_det_is_that_of_decode():
  values = ArraySpec((3, 2), mean=(0.3, 7.0), std=(0.02, 4.0))
  ahead, behind = (values.decode(x.reshape(6, 3, 2)) for x in (np.eye(6), -np.eye(6)))
  _, expected = np.linalg.slogdet((ahead - behind).reshape(6, 6) / 2.0)
  assert_allclose(values.log_det, expected, rtol=1e-5)
  one, two = (ArraySpec((3, 2), 0, n * (0.3,), n * (0.02,)) for n in (1, 2))
  assert_allclose(one.log_det, two.log_det)  # one number for all


def test_inside_is_a_closed_box_of_the_last_axis():
  values = ArraySpec((2, 2), low=(0.0, -1.0), high=(1.0, 5.0))
  x = np.full((5, 2, 2), 0.5)
  x[1, 1] = 0.0, 5.0  # the corners are in
  x[2, 0, 0], x[3, 1, 1], x[4, 1, 0] = 1.01, -1.01, np.nan
  assert values.inside(x).tolist() == [True, True, False, False, False]
  assert ArraySpec((2, 2)).inside(x).all()
  # float16 and float32 round each of these ends out of or into the box.
  for low, high in ((0.1, 0.7), (0.7, 1.1), (-1.1, -0.7), (-0.7, 0.1)):
    box = ArraySpec((1,), low=(low,), high=(high,))
    for kind in np.float16, np.float32, np.float64:
      both = np.array([[low], [high]], kind)
      assert box.inside(both).all()
      beyond = np.nextafter(both, np.array([[-9.0], [9.0]], kind))
      assert not box.inside(beyond).any()
  first = ArraySpec((2, 2), low=(0.0,), high=(1.0,))  # of the first number only
  assert first.inside(x).tolist() == [True, True, False, True, False]


def test_nan_is_a_real_number_and_no_level():
  x = np.array([[0.0, np.nan]])
  with pytest.raises(ValueError, match='nan, which are not levels'):
    ArraySpec((2,), 17).decode(x)
  assert_array_equal(ArraySpec((2,)).decode(x), x.astype(np.float32))


def test_long_doubles_have_facts_of_json():
  """A number of 80 bits is in neither JSON nor a network."""
  x = np.arange(12.0).reshape(4, 3)
  facts = measured(ArraySource(x.astype(np.longdouble))).x
  assert facts == measured(ArraySource(x)).x
  about = json.loads(json.dumps(facts.as_json()))
  assert about['mean'] == [4.5, 5.5, 6.5]
  assert_allclose(about['std'], 11.25**0.5, rtol=1e-15)


def test_the_first_category_that_differs_is_named():
  columns = (('a', 'b'), ('c', 'd')), (('a', 'b'), ('c', 'e', 'f'))
  one, other = (
    Facts(ArraySpec((2,), names=('x', 'y'), kinds=2 * ('category',), categories=x)) for x in columns
  )
  assert [*misfits(one, other)] == [('categories 1 1 of x', 'd', 'e')]


def test_all_tokens_come_back():
  """Of float32 numbers in [-1, 1], by the data's and by the library's functions."""
  all_of_them = np.arange(2**16, dtype=np.uint16)
  spec = ArraySpec((2**16,), 2**16, tokens=True)
  x = spec.encode(all_of_them)
  assert spec.written is spec and not spec.is_text and spec.noun == 'examples'
  assert_array_equal(spec.decode(x), all_of_them)
  states = dj.states_of(x, 2**16)
  assert_array_equal(states, all_of_them)
  assert_array_equal(dj.states_of(dj.values_of(states, 2**16), 2**16), all_of_them)
  assert not problem_of(spec)
  assert 'tokens are levels' in problem_of(spec._replace(shape=(2, 2)))
  assert 'not 0 or 2..65536' in problem_of(spec._replace(levels=2**16 + 1))
  assert 'not 0 or 2..256' in problem_of(spec._replace(tokens=False))
