"""Flow matching on geodesics: its target, and a last step that lands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax import joint
from diffusion_jax.training.objectives import Context
from tests.joint.test_geodesics import MANIFOLDS, NUMBERS, uniform
from tests.rows import normal
from tests.transcribed import transcribes

FLOW = dj.RectifiedFlowSchedule()
SHAPES = {'circle': (40, 3), 'sphere': (40, 3), 'rotations': (40, 2, 4)}


def data(name):
  shape = SHAPES[name]
  return MANIFOLDS[name].uniform(jax.random.key(1), shape)


@transcribes(
  'Riemannian flow matching (Chen & Lipman 2023)',
  'x_t on a geodesic, and its velocity',
  '`joint.directions`',
)
@pytest.mark.parametrize('name', MANIFOLDS)
def test_the_target_is_the_velocity_towards_x_0(name):
  space, x0 = MANIFOLDS[name], data(name)
  variable, level = joint.directions(space), FLOW(np.linspace(0.1, 0.9, len(x0), dtype=np.float32))
  xt, target = variable.noised(jax.random.key(2), x0, level)
  sigma = level.expand_to(x0).sigma
  assert_allclose(sigma * target, space.log(xt, x0), atol=3e-6)
  output = target + 0.1
  error = np.square(space.tangent(xt, output) - target).reshape(len(x0), -1).sum(1)
  assert_allclose(variable.loss(output, x0, xt, target, level), error, rtol=1e-5)
  assert_allclose(variable.loss(target, x0, xt, target, level), 0.0, atol=1e-10)
  if name == 'sphere':  # What is not tangent does not count.
    assert_allclose(variable.loss(target + 5.0 * xt, x0, xt, target, level), 0.0, atol=1e-9)


@pytest.mark.parametrize('name', MANIFOLDS)
def test_the_last_step_lands(name):
  """The velocity towards one point leads there from any place."""
  space, count = MANIFOLDS[name], 500
  x = uniform(name, 3, count)
  at = np.broadcast_to(uniform(name, 4, 1), x.shape)
  denoise = lambda x, level: space.log(x, at) / level.expand_to(x).sigma
  for num_steps in (1, 7):
    levels = dj.level_grid(FLOW, num_steps)
    y = jax.jit(
      lambda x, levels=levels: dj.sample(
        jax.random.key(0), denoise, joint.geodesic(space), levels, x
      )
    )(x)
    assert np.max(space.dist(y, at)) < 2e-6
    if NUMBERS[name]:
      assert_allclose(np.linalg.norm(y, axis=-1), 1.0, atol=1e-6)


@pytest.mark.parametrize('name', MANIFOLDS)
def test_a_network_sees_no_jump_and_what_is_not_known_has_no_loss(name):
  """Its gradient is finite also where a point is NaN."""
  space, x0 = MANIFOLDS[name], np.array(data(name))
  x0[:10] = np.nan
  variable = joint.directions(space)
  tangent = np.asarray(jax.eval_shape(space.log, data(name), data(name)).shape)

  def apply(params, x, noise, cond, *, key=None):
    assert x['a'].shape == space.seen(x0).shape
    return {'a': params * jnp.ones(tangent) + noise['a'].reshape(-1, *[1] * (len(tangent) - 1))}

  objective = joint.denoising(joint.JointNetwork(apply, {'a': variable}))
  run = jax.jit(
    jax.value_and_grad(
      lambda p: objective({'network': p}, Context(), jax.random.key(0), {'a': x0}), has_aux=True
    )
  )
  (loss, (metrics, _)), gradient = run(0.5)
  assert np.isfinite(loss) and np.isfinite(gradient) and metrics['loss_a'].count == 30
  inputs, _ = objective.draw(jax.random.key(0), {'a': x0}, Context())
  if NUMBERS[name]:
    assert_allclose(np.linalg.norm(inputs.xt['a'], axis=-1), 1.0, atol=1e-6)
  assert len({*np.ravel(inputs.xt['a'][:10, ..., 0])}) > 9  # of the prior


def test_samplers_take_levels_of_examples_and_of_elements():
  space = joint.circle()
  denoise = lambda x, level: (
    space.log(x, 0.5 * jnp.ones_like(x)) / jnp.maximum(level.expand_to(x).sigma, 1e-6)
  )
  x, grid, sampler = jnp.asarray(normal(4, 2)), dj.level_grid(FLOW, 3), joint.geodesic(space)
  draw = jax.jit(lambda levels: dj.sample(jax.random.key(0), denoise, sampler, levels, x))
  some = np.array([True, False, True, False])
  y = draw(joint.held({'a': grid}, given={'a': some})['a'])
  assert_array_equal(y[some], x[some])
  assert_allclose(y[~some], 0.5, atol=1e-6)
  y = draw(dj.staggered(grid, [0, np.inf]))
  assert_array_equal(y[:, 1], x[:, 1])
  assert_allclose(y[:, 0], 0.5, atol=1e-6)
