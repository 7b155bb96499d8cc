"""Grids alone say what is drawn, given, and integrated out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import diffusion_jax as dj
from diffusion_jax import joint

VARIABLES = {
  'x': joint.gaussian(dj.CosineSchedule(), level_axes=2),
  'c': joint.states(dj.masking_process(3), dj.PolynomialMasking()),
}
LEVELS = joint.level_grids(VARIABLES, 4)


def test_a_name_holds_all_examples():
  levels = joint.held(LEVELS, given=['c'], noise=['x'])
  assert_array_equal(levels['c'].sigma, np.zeros(5))
  assert_array_equal(levels['c'].alpha, np.ones(5))
  assert_array_equal(levels['x'].sigma, np.repeat(LEVELS['x'].sigma[:1], 5))


def test_bools_hold_some():
  some = np.array([True, False])
  levels = joint.held(
    LEVELS, given={'c': some}, noise={'x': np.array([[True, False], [False] * 2])}
  )
  assert_array_equal(levels['c'].t[:, 0], np.zeros(5))
  assert_array_equal(levels['c'].t[:, 1], LEVELS['c'].t)
  assert levels['x'].t.shape == (5, 2, 2)
  assert_array_equal(levels['x'].sigma[:, 0, 0], np.repeat(LEVELS['x'].sigma[:1], 5))
  for row in ((0, 1), (1, 0), (1, 1)):
    assert_array_equal(levels['x'].sigma[:, *row], LEVELS['x'].sigma)
  both = joint.held(levels, given={'c': np.array([False, True])})
  assert_array_equal(both['c'].sigma, np.zeros((5, 2)))


def test_groups_move_in_turn():
  levels = joint.in_turn(LEVELS, [['c'], ['x']])
  assert_array_equal(levels['c'].t, [*LEVELS['c'].t, *[0.0] * 4])
  assert_array_equal(levels['x'].t, [*[1.0] * 4, *LEVELS['x'].t])


def test_what_is_known_is_held_and_filled_in():
  x = joint.draw_prior(jax.random.key(0), VARIABLES, {'x': (2, 3), 'c': (2,)}, LEVELS)
  known = {'x': jnp.array([[1.0, np.nan, 2.0], [np.nan] * 3]), 'c': jnp.array([-1, 2])}
  levels, start = joint.hold_known(VARIABLES, LEVELS, x, known)
  assert_array_equal(levels['x'].sigma[0] == 0.0, [[True, False, True], [False] * 3])
  assert_array_equal(levels['c'].sigma[0] == 0.0, [False, True])
  assert_array_equal(start['x'], np.where(np.isnan(known['x']), x['x'], known['x']))
  assert_array_equal(start['c'], [3, 2])


def test_an_example_with_one_level_is_known_whole_or_drawn():
  one = {'x': joint.gaussian(dj.CosineSchedule())}
  x = {'x': jnp.zeros((2, 3))}
  levels = joint.level_grids(one, 2)
  held, start = joint.hold_known(one, levels, x, {'x': jnp.array([[1.0, np.nan, 2.0], [3.0] * 3])})
  assert_array_equal(held['x'].sigma[0] == 0.0, [False, True])
  assert_array_equal(start['x'], [[0.0] * 3, [3.0] * 3])


@pytest.mark.parametrize(
  'call, words',
  [
    (lambda: joint.held(LEVELS, given=['z']), "no variable 'z'"),
    (lambda: joint.in_turn(LEVELS, [['c']]), 'must be in one group'),
    (lambda: joint.in_turn(LEVELS, [['c'], ['x', 'c']]), 'must be in one group'),
    (lambda: joint.hold_known(VARIABLES, LEVELS, {}, {'z': jnp.zeros(2)}), "no 'z'"),
  ],
)
def test_names_that_do_not_fit_are_refused(call, words):
  with pytest.raises(ValueError, match=words) as error:
    call()
  assert '\n' not in str(error.value)
