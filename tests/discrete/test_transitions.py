"""Processes on states against their matrices, multiplied out in float64."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose

import diffusion_jax as dj
from tests.states import BETAS, EACH, LINEAR, NUM_STEPS, PROCESSES, at, between, gaussian_matrices
from tests.transcribed import transcribes

matrix = jax.jit(dj.transition_matrix)


@transcribes(
  'D3PM (Austin et al. 2021)',
  'A.2: uniform, absorbing, discretised Gaussian',
  '`uniform_process`, `masking_process`, `gaussian_process`',
)
@EACH
@settings(max_examples=20, deadline=None, derandomize=True)
@given(steps=st.lists(st.integers(0, NUM_STEPS), min_size=2, max_size=2))
def test_any_two_levels_have_the_product_of_the_steps_between(name, steps):
  s, t = sorted(steps)
  if s == NUM_STEPS:  # No step is left.
    return
  q = matrix(PROCESSES[name], at(s), at(t))
  assert_allclose(q, between(name, s, t), rtol=2e-6, atol=3e-7)


@pytest.mark.parametrize('name', ['uniform', 'masking'])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(times=st.lists(st.floats(0.0, 0.96875, width=32), min_size=3, max_size=3).map(sorted))
def test_chapman_kolmogorov_at_any_times(name, times):
  """Q_{u|s} = Q_{t|s} Q_{u|t}."""
  process = PROCESSES[name]
  s, t, u = (LINEAR(jnp.float32(time)) for time in times)
  first, second, both = (
    np.asarray(matrix(process, *levels), np.float64) for levels in ((s, t), (t, u), (s, u))
  )
  assert_allclose(first @ second, both, atol=1e-5)
  assert_allclose(both.sum(axis=1), 1.0, rtol=2e-5)
  assert (both >= 0.0).all()


@EACH
def test_levels_differ_between_examples(name):
  """Products with a matrix and with its transpose take [B, H, W, K] and levels [B]."""
  process, size = PROCESSES[name], len(PROCESSES[name].prior)
  probs = np.random.default_rng(0).dirichlet(np.ones(size), (4, 2, 3))
  steps = [(0, 0), (0, 2), (1, 4), (3, 6)]
  s, t = (at(np.array(column)) for column in zip(*steps, strict=True))
  both = jax.jit(lambda *args: [process.multiply(*args, True), process.multiply(*args)])
  results = both(jnp.asarray(probs, jnp.float32), s, t)
  for transpose, result in zip((True, False), results, strict=True):
    for i, pair in enumerate(steps):
      q = between(name, *pair)
      expected = probs[i] @ (q.T if transpose else q)
      assert_allclose(result[i], expected, rtol=3e-6, atol=3e-7)


@transcribes('D3PM (Austin et al. 2021)', 'A.2: uniform, absorbing, discretised Gaussian')
def test_the_gaussian_is_the_papers():
  matrices = [dj.gaussian_matrix(5, beta) for beta in BETAS]
  assert_allclose(matrices, gaussian_matrices(5, BETAS), rtol=1e-12)
  # It is doubly stochastic, so the uniform distribution is stationary.
  assert_allclose(np.sum(matrices, axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize('make', [dj.masking_process, dj.uniform_process])
def test_a_process_of_many_states_has_no_matrix(make):
  """A vocabulary has up to 65,536 tokens; a matrix of them has 17 GB."""
  tracemalloc.start()
  make(65_536)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 4e6


def test_a_time_in_float32_is_the_nearest_step():
  """T = 47 is the least T with i / T * T < i for some powers i of 2."""
  beta, steps = 0.01, np.arange(48)
  assert (np.float32(1 / 47) * np.float32(47)) < 1
  process = dj.MatrixProcess.from_matrices([[[1 - beta, beta], [beta, 1 - beta]]] * 47)
  x0 = jnp.tile(jnp.array([1.0, 0.0]), (48, 1))
  q = jax.jit(process.multiply)(x0, LINEAR(0.0), LINEAR(steps / 47))
  expected = 0.5 - 0.5 * (1 - 2 * beta) ** steps
  assert_allclose(q[:, 1], expected, rtol=1e-5, atol=1e-7)
