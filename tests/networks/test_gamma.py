"""The learned schedules of VDM always increase."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.networks.gamma import GammaFn, LinearGamma, MonotoneGamma
from diffusion_jax.training.optimizer import kernels
from tests.networks.literal import randomised
from tests.schedules import anything
from tests.transcribed import transcribes

SMALL = MonotoneGamma(-8.0, 4.0, features=16)
APPLY = jax.jit(lambda params, t: SMALL.apply({'params': params}, t))


def abstract(module):
  init = lambda: module.init(jax.random.key(0), np.zeros(1, np.float32))
  return jax.eval_shape(init)['params']


ABSTRACT = abstract(SMALL)


@pytest.mark.parametrize('learned', [True, False])
def test_the_line_begins_and_ends_at_gamma_min_and_max(learned, key):
  line = LinearGamma(-13.3, 5.0, learned)
  t = np.float32([0.0, 0.25, 1.0])
  found, _ = jax.jit(line.init_with_output)(key, t)
  assert_allclose(found, [-13.3, -8.725, 5.0], rtol=1e-6)


def literal(p, t):
  """recipes 4: l1(t) + l3(2 (sigmoid(l2(2 t - 1)) - 0.5)) / 1024."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), p)
  l1 = p['line']['bias'] + np.abs(p['line']['weight']) * t
  l2 = np.abs(p['inner_weight']) * (2 * t[:, None] - 1) + p['inner_bias']
  hidden = 2 * (1 / (1 + np.exp(-l2)) - 0.5)
  return l1 + hidden @ np.abs(p['outer_weight']) / len(p['outer_weight'])


def test_the_network_literally():
  params, t = randomised(ABSTRACT, 0, 3.0), np.linspace(0.0, 1.0, 9)
  found = APPLY(params, jnp.asarray(t))
  assert_allclose(found, literal(params, t), rtol=1e-5, atol=1e-5)
  one = APPLY(params, jnp.asarray(t[3]))
  assert one.shape == ()
  assert_allclose(one, found[3], rtol=1e-5)


def test_gamma_fn_is_the_function_of_a_learned_schedule():
  params, t = randomised(ABSTRACT, 0, 0.1), np.linspace(0.0, 1.0, 5)
  programs = []

  @jax.jit
  def logsnr(schedule, t):
    programs.append(schedule)
    return schedule(t).logsnr

  for _ in range(2):  # two equal functions, of two equal modules
    module = MonotoneGamma(-8.0, 4.0, features=16)
    schedule = dj.LearnedSchedule(params, GammaFn(module))
    found = logsnr(schedule, jnp.asarray(t))
    expected = -literal(params, t)
    assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  assert len(programs) == 1


@transcribes('VDM (Kingma et al. 2021)', 'monotone γ', '`networks.gamma`')
@anything
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 100.0))
def test_gamma_increases_whatever_the_parameters_are(seed, scale):
  params = randomised(ABSTRACT, seed, scale)
  gamma = np.asarray(APPLY(params, np.linspace(0.0, 1.0, 101)))
  rounding = 1e-5 * (1.0 + np.abs(gamma).max())
  assert (np.diff(gamma) >= -rounding).all()
  assert gamma[-1] >= gamma[0]


def test_no_parameter_of_gamma_is_decayed():
  for module in (LinearGamma(), MonotoneGamma()):
    assert not any(jax.tree.leaves(kernels(abstract(module))))
