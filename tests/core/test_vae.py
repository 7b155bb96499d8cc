import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj

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


def test_reparameterize_has_the_moments_and_the_gradient(key):
  """dz/dm = 1 and dz/dv = eps / (2 sqrt(v))."""
  q = dj.Normal(jnp.full((100_000, 1), 2.0), jnp.array(9.0))
  z = jax.jit(dj.reparameterize)(key, q)
  assert abs(np.mean(z) - 2.0) < 4 * 3.0 / 100_000**0.5
  assert abs(np.var(z) - 9.0) < 4 * 9.0 * (2 / 100_000) ** 0.5
  mean = lambda m, v: dj.reparameterize(key, dj.Normal(m, v))[0, 0]
  slopes = jax.jit(jax.grad(mean, (0, 1)))(q.mean, q.variance)
  eps = (np.asarray(z)[0, 0] - 2.0) / 3.0
  np.testing.assert_allclose(slopes[0].sum(), 1.0)
  np.testing.assert_allclose(slopes[1], eps / 6.0, rtol=1e-5)


def test_another_prior(key):
  prior = dj.Normal(1.0, 2.0)
  run = lambda key: dj.vae_elbo(key, X, encode(X), decode, prior=prior)
  q, found = encode(X), jax.jit(run)(key)
  u = 0.1  # KL(N(m, 0.2) || N(1, 2)) = (u - 1 - log u + (m - 1)^2 / 2) / 2
  kl = 0.5 * (u - 1 - np.log(u) + (np.float64(q.mean) - 1) ** 2 / 2)
  np.testing.assert_allclose(found['kl'], kl.sum(axis=1), rtol=1e-5)


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


def test_free_bits_by_the_formula():
  """A group is max(lambda, mean over the batch), without a slope below."""
  kl = np.random.default_rng(0).gamma(1.0, size=(16, 3)) * [0.01, 1.0, 3.0]
  found = jax.jit(dj.free_bits)(jnp.asarray(kl, jnp.float32), 0.2)
  expected = np.maximum(0.2, [np.mean(kl[:, g]) for g in range(3)])
  assert expected[0] == 0.2 < expected[1]
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  total = lambda kl: jnp.sum(dj.free_bits(kl, 0.2))
  slopes = jax.jit(jax.grad(total))(jnp.asarray(kl, jnp.float32))
  np.testing.assert_allclose(slopes, [[0.0, 1 / 16, 1 / 16]] * 16)
  nothing = jax.jit(dj.free_bits)(np.float32(kl), 0.0)
  np.testing.assert_allclose(nothing, kl.mean(axis=0), rtol=1e-6)
