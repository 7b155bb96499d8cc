"""The pure functions under jit, vmap and shard_map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.runtime.sharding import make_mesh
from tests.jitted import at_step

SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
S, T = at_step(SCHEDULE, 300), at_step(SCHEDULE, 700)

FUNCTIONS = {
  'forward_step': lambda x, y: dj.forward_step(x, y, S, T),
  'q_sample': lambda x, y: dj.q_sample(x, y, T),
  'q_posterior': lambda x, y: dj.q_posterior(x, y, S, T).mean,
  'p_reverse': lambda x, y: dj.p_reverse(x, y, S, T).mean,
  'target': lambda x, y: dj.target('v', x, y, T),
  'to_x0': lambda x, y: dj.to_x0('v', x, y, T),
  'eps_from_x0': lambda x, y: dj.eps_from_x0(x, y, T),
  'score_from_x0': lambda x, y: dj.score_from_x0(x, y, T),
  'simple_loss': dj.simple_loss,
  'weighted_eps_loss': lambda x, y: dj.weighted_eps_loss(x, y, S, T),
  'denoising_loss': lambda x, y: dj.denoising_loss('eps', x, y, y, T, dj.snr_weight),
}


@pytest.fixture
def xy(key):
  return list(map(jnp.asarray, np.asarray(jax.random.normal(key, (2, 8, 4)))))


def of_each(change):
  """Returns a jitted function of (x, y) with the result of each, by name."""
  return jax.jit(lambda x, y: {name: change(f)(x, y) for name, f in FUNCTIONS.items()})


JITTED, MAPPED = of_each(lambda f: f), of_each(jax.vmap)


@pytest.mark.parametrize('name', FUNCTIONS)
def test_jit_and_vmap(name, xy):
  expected = FUNCTIONS[name](*xy)
  close = functools.partial(assert_allclose, rtol=1e-5, atol=1e-6)
  close(JITTED(*xy)[name], expected)
  found = MAPPED(*np.reshape(xy, (2, 2, 4, 4)))[name]
  close(found, np.reshape(expected, found.shape))


def test_shard_map_over_eight_devices(xy):
  spec = jax.sharding.PartitionSpec('data')
  f = FUNCTIONS['q_posterior']
  mapped = jax.shard_map(f, mesh=make_mesh(8), in_specs=(spec, spec), out_specs=spec)
  assert_allclose(jax.jit(mapped)(*xy), f(*xy), rtol=1e-6)
