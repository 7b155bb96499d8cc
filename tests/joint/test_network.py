"""What a network of several variables gets, and what its denoisers return."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax import joint
from tests.rows import normal

EDM, COSINE = dj.KarrasSchedule(), dj.CosineSchedule()
MASKING = dj.masking_process(3)
VARIABLES = {
  'x': joint.gaussian(EDM, 'edm', sigma_data=0.7, level_axes=2),
  'c': joint.states(MASKING, dj.PolynomialMasking()),
}
X = {'x': jnp.asarray(normal(2, 3)), 'c': jnp.array([3, 1])}
LEVEL = {'x': EDM(jnp.full((2, 3), 0.5)), 'c': dj.PolynomialMasking()(0.25)}


def network(seen):
  def apply(params, x, noise, cond, *, key=None):
    seen.append((x, noise, cond))
    return {'x': 0.3 * x['x'], 'c': jnp.zeros((2, 4)), 'more': x['x']}

  return joint.JointNetwork(apply, VARIABLES)


def test_a_network_gets_what_each_variable_says():
  """EDM's c_in, and a number for each level."""
  calls = []
  outputs = network(calls).outputs((), X, LEVEL, {'label': X['c']})
  [(seen, noise, cond)] = calls
  scale = 1.0 / np.sqrt(LEVEL['x'].sigma ** 2 + 0.7**2)
  assert_allclose(seen['x'], scale * X['x'], rtol=1e-6)
  assert_array_equal(seen['c'], X['c'])
  assert_array_equal(noise['x'], np.full((2, 3), 0.5))
  assert_array_equal(noise['c'], [0.25, 0.25])
  assert cond['label'] is X['c'] and outputs.keys() == VARIABLES.keys()


def test_denoisers_return_what_samplers_of_each_variable_take():
  x0 = network([]).denoiser(())(X, LEVEL)
  expected = dj.to_x0(
    'edm', 0.3 * X['x'] / np.sqrt(LEVEL['x'].sigma ** 2 + 0.49), X['x'], LEVEL['x'], 0.7
  )
  assert_allclose(x0['x'].x0, expected, rtol=1e-5)
  logits = dj.posterior_logits(jnp.zeros((2, 4)), X['c'], MASKING, LEVEL['c'])
  assert_array_equal(x0['c'], logits)


def test_one_variable_given_the_others():
  denoise = network([]).denoiser(())
  one = joint.given_others(denoise, 'x', {'c': X['c']}, {'c': LEVEL['c']})
  assert_array_equal(one(X['x'], LEVEL['x']).x0, denoise(X, LEVEL)['x'].x0)


def test_levels_that_do_not_fit_and_outputs_that_are_missing_are_refused():
  with pytest.raises(ValueError, match="the variable 'c' with level_axes=1 takes levels"):
    network([]).outputs((), X, {**LEVEL, 'c': COSINE(jnp.full((2, 3), 0.5))})
  few = joint.JointNetwork(lambda params, x, noise, cond, *, key=None: {'x': x['x']}, VARIABLES)
  with pytest.raises(ValueError, match=r"returns \['x'\], but not \['c'\]"):
    few.outputs((), X, LEVEL)
