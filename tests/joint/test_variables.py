"""Variables of numbers and of states have the laws and losses of core/ and discrete/."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax import joint
from tests.rows import normal

COSINE, FLOW = dj.CosineSchedule(), dj.RectifiedFlowSchedule()
B = 6
X0 = normal(B, 3)
T = np.linspace(0.1, 1.0, B, dtype=np.float32)


@pytest.mark.parametrize('kind', ['v', 'eps', 'edm', 'flow', 'x0'])
def test_numbers_have_the_loss_of_denoising(kind):
  variable = joint.gaussian(COSINE, kind, dj.truncated_snr_weight)
  level = COSINE(T)
  xt, eps = variable.noised(jax.random.key(0), X0, level)
  assert_array_equal(xt, dj.q_sample(X0, eps, level))
  truth = dj.target(kind, X0, eps, level)
  # x_0 is noisier in float32 the more noise there is.
  assert_allclose(variable.estimate(truth, xt, level).x0[:-1], X0[:-1], atol=2e-4)
  assert_array_equal(variable.loss(truth, X0, xt, eps, level), np.zeros(B))
  output = truth + normal(B, 3, seed=2)
  expected = dj.denoising_loss(kind, output, X0, eps, level, dj.truncated_snr_weight)
  assert_array_equal(variable.loss(output, X0, xt, eps, level), expected)


PROCESSES = {'masking': dj.masking_process(4), 'uniform': dj.uniform_process(4)}


@pytest.mark.parametrize('process', PROCESSES.values(), ids=PROCESSES)
def test_states_have_the_integrand_of_their_bound(process):
  variable = joint.states(process, FLOW)
  x0, level = jnp.asarray(np.arange(B)[:, None] % 4), FLOW(T[:, None][:, 0])
  xt, _ = variable.noised(jax.random.key(3), x0, level)
  logits = jnp.asarray(normal(B, 1, len(process.prior)))
  posterior = dj.posterior_logits(logits, xt, process, level)
  assert_array_equal(variable.estimate(logits, xt, level), posterior)
  if process.mask is None:
    nats = dj.uniform_weight(FLOW)(level) * dj.jump_nats(posterior, x0, xt, process, level)[:, 0]
  else:
    nats = dj.state_nll(posterior, x0, xt == 4) / T
  assert_allclose(variable.loss(logits, x0, xt, (), level), nats, rtol=1e-6)


def test_priors_are_those_of_the_processes():
  numbers, states = joint.gaussian(dj.KarrasSchedule()), joint.states(PROCESSES['masking'], FLOW)
  level = dj.KarrasSchedule()(1.0)
  expected = dj.prior_sample(jax.random.key(0), (B, 3), level)
  assert_array_equal(numbers.prior(jax.random.key(0), (B, 3), level), expected)
  assert_array_equal(states.prior(jax.random.key(0), (B,), FLOW(1.0)), np.full(B, 4))


def test_explicit_matrices_are_refused():
  with pytest.raises(TypeError, match='process must be a ReplacementProcess'):
    joint.states(dj.gaussian_process(4, [0.1, 0.2]), FLOW)


def test_states_that_cannot_be_data_are_refused():
  variable = joint.states(PROCESSES['masking'], FLOW)
  states = jnp.full((B,), 4)
  with pytest.raises(ValueError, match='states of data are 0..4'):
    variable.loss(jnp.zeros((B, 5)), states, states, (), FLOW(T))
