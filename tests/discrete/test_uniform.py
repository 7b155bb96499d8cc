"""The bound of uniform states in continuous time, by schedules and priors."""

import functools

import jax
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.discrete import oracles as discrete_oracles
from tests.rows import slow
from tests.states import LINEAR

TABLE = discrete_oracles.table(np.random.default_rng(2).dirichlet(np.full(9, 0.5)).reshape(3, 3))
N = 20_000
SCHEDULES = {
  'linear': LINEAR,
  'cosine': dj.CosineMasking(),
  'cubic': dj.PolynomialMasking(3.0),
  # At t = 1 its alpha is 0.32, so that the prior has a term.
  'to 0.32': dj.AlphaBarSchedule(dj.LinearVPSchedule(0.1, 2.2)),
}


@functools.partial(jax.jit, static_argnums=0)
def bound(name, prior, x0):
  process = dj.ReplacementProcess(prior)
  key, denoise = jax.random.key(1), TABLE.denoiser(process)
  return dj.uniform_bound(key, denoise, process, SCHEDULES[name], x0, num_times=4)


@pytest.mark.parametrize('prior', [(1 / 3, 1 / 3, 1 / 3), (0.6, 0.3, 0.1)])
# The bound takes a schedule's own levels, slopes and end.
@pytest.mark.parametrize('name', [slow('linear'), 'cosine', slow('cubic'), 'to 0.32'])
def test_the_bound_is_the_entropy_and_what_the_prior_lacks(name, prior):
  """The exact denoiser's is the entropy of x_0 plus KL(q(x_T) || prior)."""
  x0 = np.asarray(TABLE.sample(jax.random.key(0), N))
  nats = np.asarray(bound(name, np.float32(prior), x0), np.float64)
  alpha = float(SCHEDULES[name](1.0).alpha)
  assert (alpha > 0.3) == (name == 'to 0.32')
  q = alpha * np.eye(3) + (1 - alpha) * np.array(prior)
  law = q.T @ TABLE.probs @ q
  expected = TABLE.entropy() + np.sum(law * np.log(law / np.outer(prior, prior)))
  error = nats.std() / N**0.5
  assert error < 0.05 and abs(nats.mean() - expected) < 4.5 * error
  assert expected > TABLE.entropy() + 0.05 or alpha < 0.3
