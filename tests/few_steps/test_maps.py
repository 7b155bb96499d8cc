"""Flow maps of networks, their boundary conditions and their conversions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.few_steps import maps
from diffusion_jax.testing import oracles
from tests.jitted import level_at
from tests.transcribed import transcribes

STRAIGHT, EDM = dj.RectifiedFlowSchedule(), dj.KarrasSchedule()
GAUSSIAN = oracles.gaussian([0.5, -0.3], [[1.0, 0.8], [0.8, 1.5]])
X = jax.random.normal(jax.random.key(3), (4, 2))
TIMES = [[1.0, 0.9, 0.6, 0.2], [0.0, 0.4, 0.3, 0.1]]
T, S = np.array(TIMES, np.float32)


def network(params, x, noise, cond, *, key=None):
  """A network without zeros."""
  out = 1.3 + x + 0.1 * noise[:, None]
  return out + (cond or {}).get('elapsed', jnp.zeros(len(x)))[:, None]


def flow_map(kind, sigma_min=0.002, cond=None, **options):
  return dj.make_flow_map(dj.Network(network, **options), (), cond, kind=kind, sigma_min=sigma_min)


@transcribes(
  'Consistency models (Song et al. 2023)',
  'appendix C: boundary condition',
  "`make_flow_map('consistency')`",
)
def test_the_three_kinds_have_their_boundaries_exactly():
  """x_s = x_t at s = t; f = x at sigma_min and at angle 0."""
  level = level_at(STRAIGHT, T)
  u = flow_map('average_velocity', noise_input=dj.time_input(1.0))
  assert_array_equal(jax.jit(u)(X, level, level), X)

  f = flow_map('consistency', noise_input=dj.edm_input, sigma_min=0.25)
  level = dj.NoiseLevel(jnp.zeros(()), jnp.ones(()), jnp.array(0.25))
  f = jax.jit(f)
  assert_array_equal(f(X, level, level), X)
  half = dj.NoiseLevel(level.t, jnp.array(0.5), jnp.array(0.125))
  assert_array_equal(f(0.5 * X, half, level), X)

  g = flow_map('trigflow', noise_input=dj.time_input(1.0))
  clean = dj.clean_level()
  assert_array_equal(jax.jit(g)(X, clean, clean), X)


def test_average_velocity_by_hand():
  """The network gets t and the elapsed time in the scale of its input."""
  u = flow_map('average_velocity', noise_input=dj.time_input(10.0), time_scale=10.0)
  t, s = (np.asarray(a, np.float64)[:, None] for a in (T, S))
  x = np.asarray(X, np.float64)
  expected = x - (t - s) * (1.3 + x + t + 10.0 * (t - s))
  found = jax.jit(u)(X, level_at(STRAIGHT, T), level_at(STRAIGHT, S))
  assert_allclose(found, expected, rtol=1e-5)


@transcribes('Consistency models (Song et al. 2023)', 'appendix C: boundary condition')
@pytest.mark.parametrize('schedule', [STRAIGHT, EDM])
def test_consistency_and_trigflow_by_the_papers_formulas(schedule):
  """On paths other than EDM's the functions get x / alpha."""
  level, s_d, s_min = level_at(schedule, T), 0.7, 0.002
  alpha, sigma = (np.asarray(a, np.float64)[1:, None] for a in level[1:])
  x, sigma = np.asarray(X, np.float64)[1:] / alpha, sigma / alpha
  noise = np.log(sigma) / 4

  def output(x, noise):
    return 1.3 + x + 0.1 * noise

  skip = s_d**2 / ((sigma - s_min) ** 2 + s_d**2)
  out = (sigma - s_min) * s_d / np.sqrt(sigma**2 + s_d**2)
  scaled = x / np.sqrt(sigma**2 + s_d**2)
  options = {'sigma_data': s_d, 'sigma_min': s_min}
  f = flow_map('consistency', noise_input=dj.edm_input, **options)
  found = np.asarray(jax.jit(f)(X, level, dj.clean_level()))[1:]
  expected = skip * x + out * output(scaled, noise)
  assert_allclose(found, expected, rtol=2e-5, atol=1e-6)

  angle = np.arctan(sigma / s_d)
  g = flow_map('trigflow', noise_input=dj.time_input(0.5 * np.pi), **options)
  found = np.asarray(jax.jit(g)(X, level, dj.clean_level()))[1:]
  x = np.cos(angle) * x
  expected = np.cos(angle) * x - np.sin(angle) * s_d * output(x / s_d, angle)
  assert_allclose(found, expected, rtol=2e-5)


def test_without_signal_the_consistency_function_is_finite():
  f = flow_map('consistency', noise_input=dj.time_input(1.0))
  found = jax.jit(f)(X, level_at(STRAIGHT, 1.0), dj.clean_level())
  assert_allclose(found, 0.5 * network((), X, jnp.ones(4), None))


def test_maps_to_the_clean_end_are_nan_elsewhere():
  f = flow_map('consistency', noise_input=dj.edm_input)
  with jax.debug_nans(False):
    found = jax.jit(f)(X, level_at(EDM, 0.9), level_at(EDM, np.array([0, 0.1, 0, 0])))
  assert_array_equal(np.isnan(found)[:, 0], [0, 1, 0, 0])
  # float32 rounds this end up.
  f = flow_map('consistency', noise_input=dj.edm_input, sigma_min=0.01)
  end = dj.KarrasSchedule(0.01)(0.0)
  assert end.sigma > np.float32(0.01)
  assert np.isfinite(jax.jit(f)(X, level_at(EDM, 0.9), end)).all()


def test_the_average_velocity_of_the_exact_map():
  """It is the oracle's, and leads back to the map."""

  @jax.jit
  def run(x):
    t, s = STRAIGHT(T), STRAIGHT(S)
    xs, u = GAUSSIAN.flow_map(x, t, s), GAUSSIAN.average_velocity(x, t, s)
    return xs, u, maps.average_velocity(x, xs, t, s), maps.from_average_velocity(x, u, t, s)

  xs, u, velocity, back = run(X)
  assert_allclose(velocity, u, rtol=1e-5, atol=1e-6)
  assert_allclose(back, xs, rtol=1e-5, atol=1e-6)
