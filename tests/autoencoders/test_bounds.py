"""Bounds of VAEs have their closed forms, and come closer to log p with more samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from tests.transcribed import transcribes

X = np.array([[0.3, -1.0], [2.0, 0.5], [-0.4, 1.0]], np.float32)


def summed(p, x):
  return jnp.sum(dj.log_prob(p, x), axis=tuple(range(1, x.ndim)))


# p(z) = N(0, I) and p(x | z) = N(2 z, 1/2), so p(x) = N(0, 4.5) and p(z | x) =
# N(4 x / 9, 1/9).
def decode(x, z):
  return summed(dj.Normal(2.0 * z, 0.5), x)


def encode(x, gain=0.3, variance=0.2):
  return dj.Normal(gain * x, jnp.full_like(x, variance))


def log_p(x):
  return summed(dj.Normal(0.0, 4.5), x)


@transcribes('VAE (Kingma & Welling 2014)', 'section 2.4: reparameterisation', '`reparameterize`')
def test_reparameterize_has_the_moments_and_the_gradient(key):
  """dz/dm = 1 and dz/dv = eps / (2 sqrt(v))."""
  q = dj.Normal(jnp.full((100_000, 1), 2.0), jnp.array(9.0))
  z = jax.jit(dj.reparameterize)(key, q)
  assert abs(np.mean(z) - 2.0) < 4 * 3.0 / 100_000**0.5
  assert abs(np.var(z) - 9.0) < 4 * 9.0 * (2 / 100_000) ** 0.5
  mean = lambda m, v: dj.reparameterize(key, dj.Normal(m, v))[0, 0]
  slopes = jax.jit(jax.grad(mean, (0, 1)))(q.mean, q.variance)
  eps = (np.asarray(z)[0, 0] - 2.0) / 3.0
  assert_allclose(slopes[0].sum(), 1.0)
  assert_allclose(slopes[1], eps / 6.0, rtol=1e-5)


def chain(key, x, form=dj.hierarchical_elbo):
  """A chain whose z_1 has 3 entries and z_2 one, unlike x."""

  def up(t, z):
    mean = jnp.mean(z, axis=1, keepdims=True) * jnp.ones((1, [3, 1][t - 1]))
    return dj.Normal(0.5 * mean, jnp.full_like(mean, 0.4))

  def down(t, z):
    return dj.Normal(0.7 * z * jnp.ones((1, 3)), jnp.full((1, 3), 0.6))

  def likelihood(x, z):
    return summed(dj.Normal(z[:, :2], 0.5), x)

  if form is dj.hierarchical_elbo:
    return form(key, x, up, down, likelihood, num_steps=2)
  # Only the shapes matter here, so q(z_1 | z_2, x) may be `down`.
  posterior = lambda t, z, x: down(t, z)
  return form(key, x, up, posterior, down, likelihood, num_steps=2)


FORMS = {
  'vae_elbo': lambda key, x: dj.vae_elbo(key, x, encode(x), decode, num_samples=3),
  'vae_log_weight': lambda key, x: dj.vae_log_weight(key, x, encode(x), decode),
  'importance_weighted': lambda key, x: dj.importance_weighted_elbo(
    key, lambda key: dj.vae_log_weight(key, x, encode(x), decode), 3
  ),
  'hierarchical': chain,
  'rearranged': functools.partial(chain, form=dj.rearranged_elbo),
}


@pytest.mark.parametrize('form', FORMS.values(), ids=FORMS)
def test_an_image_has_the_bound_of_its_own_key(form, key):
  keys = jax.random.split(key, 3)
  form = jax.jit(form)
  whole, other = jax.device_get(form(keys, X)), np.array([2, 0, 2])
  found = form(keys[other], X[other])
  for a, b in zip(*map(jax.tree.leaves, (found, whole)), strict=True):
    assert a.shape[:1] == (3,) and np.isfinite(a).all()
    assert_allclose(a, b[other], rtol=1e-6)
  one_key = jax.eval_shape(form, key, X)
  assert jax.tree.map(jnp.shape, one_key) == jax.tree.map(jnp.shape, whole)
  with pytest.raises(ValueError, match=r'\[2\] keys for a batch of 3'):
    form(keys[:2], X)


def test_another_prior(key):
  prior = dj.Normal(1.0, 2.0)
  run = lambda key: dj.vae_elbo(key, X, encode(X), decode, prior=prior)
  q, found = encode(X), jax.jit(run)(key)
  u = 0.1  # KL(N(m, 0.2) || N(1, 2)) = (u - 1 - log u + (m - 1)^2 / 2) / 2
  kl = 0.5 * (u - 1 - np.log(u) + (np.float64(q.mean) - 1) ** 2 / 2)
  assert_allclose(found['kl'], kl.sum(axis=1), rtol=1e-5)


@transcribes('Burda et al. 2016', '8, Theorem 1: importance-weighted bound')
def test_more_samples_come_closer_to_log_p(key):
  """Burda et al. 2016, Theorem 1; one sample gives log p - KL(q || p(z|x))."""
  x = jnp.broadcast_to(X[:1], (4000, 2))
  weight = lambda key: dj.vae_log_weight(key, x, encode(x), decode)
  bounds = jax.jit(lambda key: [dj.importance_weighted_elbo(key, weight, k) for k in (1, 4, 32)])
  values = np.asarray(bounds(key), np.float64)
  means, errors = values.mean(axis=1), values.std(axis=1) / len(x) ** 0.5
  truth = jax.jit(log_p)(X)[0]
  assert (np.diff(means) > 4 * np.hypot(errors[1:], errors[:-1])).all()
  assert -4 * errors[2] < truth - means[2] < 0.15 * (truth - means[0])
  u, x = 0.2 * 9, np.float64(X[0])  # KL(N(0.3 x, 0.2) || N(4 x / 9, 1/9))
  gap = 0.5 * (u - 1 - np.log(u) + 9 * ((0.3 - 4 / 9) * x) ** 2).sum()
  assert abs(truth - gap - means[0]) < 4 * errors[0]


@transcribes('Kingma et al. 2016', '15: free bits', '`free_bits`')
def test_free_bits_by_the_formula():
  """A group is max(lambda, mean over the batch), without a slope below."""
  kl = np.random.default_rng(0).gamma(1.0, size=(16, 3)) * [0.01, 1.0, 3.0]
  found = jax.jit(dj.free_bits)(jnp.asarray(kl, jnp.float32), 0.2)
  expected = np.maximum(0.2, [np.mean(kl[:, g]) for g in range(3)])
  assert expected[0] == 0.2 < expected[1]
  assert_allclose(found, expected, rtol=1e-6)
  total = lambda kl: jnp.sum(dj.free_bits(kl, 0.2))
  slopes = jax.jit(jax.grad(total))(jnp.asarray(kl, jnp.float32))
  assert_allclose(slopes, [[0.0, 1 / 16, 1 / 16]] * 16)
  nothing = jax.jit(dj.free_bits)(np.float32(kl), 0.0)
  assert_allclose(nothing, kl.mean(axis=0), rtol=1e-6)


@transcribes('Bowman et al. 2016', 'the weight of the KL', '`kl_warmup`')
def test_kl_warmup_is_a_line_from_0_to_1():
  found = jax.vmap(lambda step: dj.kl_warmup(step, 4))(jnp.arange(7))
  assert_array_equal(found, [0, 0.25, 0.5, 0.75, 1, 1, 1])
  assert dj.kl_warmup(0, 0) == 1.0 and dj.kl_warmup(3, 12) == 0.25
