"""-ELBO of VAEs with linear networks against float64 transcriptions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

import diffusion_jax as dj
from diffusion_jax.autoencoders import objectives as vae
from diffusion_jax.training.objectives import Context
from diffusion_jax.training.step import rows

LEVELS, B, D = 5, 6, 3
RNG = np.random.default_rng(0)
X = RNG.choice(np.linspace(-1.0, 1.0, LEVELS), (B, 2, 2, 1))
BATCH = {'x': np.float32(X)}
W = {
  'encode': RNG.normal(size=(4, 2 * D)) / 2,
  'decode': RNG.normal(size=(D, 8)) / 2,
  'up': RNG.normal(size=(D, 2 * D)) / 2,
  'down': RNG.normal(size=(D, 2 * D)) / 2,
}
PARAMS = {'network': jax.tree.map(np.float32, W)}


def halves(h):
  return h[:, :D], np.exp(h[:, D:])


def gaussian(w, h):
  return dj.Normal(h @ w[:, :D], jnp.exp(h @ w[:, D:]))


def encode(w, x):
  return gaussian(w['encode'], x.reshape(len(x), 4))


def decode(w, z):
  return (z @ w['decode']).reshape(len(z), 2, 2, 2)


def encode_step(w, t, z, *, key=None):
  return encode(w, z) if t == 1 else gaussian(w['up'], z)


def decode_step(w, t, z, *, key=None):
  return decode(w, z) if t == 1 else gaussian(w['down'], z)


LOGISTIC = vae.log_likelihood('logistic', LEVELS)


def make(**options):
  return jax.jit(vae.vae(encode_step, decode_step, LOGISTIC, **options))


def chain(**options):
  return vae.hvae(encode_step, decode_step, LOGISTIC, num_latents=2, **options)


def make_chain(**options):
  return jax.jit(chain(**options))


PLAIN = jax.jit(jax.value_and_grad(make(), has_aux=True))
CHAIN = make_chain()


def mass(cdf, mean, scale, x):
  """Computes the mass of a grey level; the outer ones extend to infinity."""
  half = 1.0 / (LEVELS - 1)
  upper = np.where(x > 0.99, 1.0, cdf((x + half - mean) / scale))
  lower = np.where(x < -0.99, 0.0, cdf((x - half - mean) / scale))
  return upper - lower


def literal_decoder(h, cdf=stats.logistic.cdf):
  """Computes log p(x | z), [B], of h [B, 8], mean and log scale by pixel."""
  h = h.reshape(B, 2, 2, 2)
  scale = np.exp(7.0 * np.tanh(h[..., 1:] / 7.0))
  return np.log(mass(cdf, h[..., :1], scale, X)).sum((1, 2, 3))


@jax.jit
def draws(key):
  """Returns the noise [B, D] of z of a VAE, and of z_1 and z_2 of a chain."""
  keys = jax.random.split(jax.random.split(key, 3)[0], B)
  normal = jax.vmap(lambda key: jax.random.normal(key, (D,)))
  of_layer = jax.vmap(jax.random.fold_in, (0, None))
  alone = jax.vmap(lambda key: jax.random.split(key, 1)[0])(keys)
  return normal(alone), normal(of_layer(keys, 1)), normal(of_layer(keys, 2))


def bits(nats):
  return np.mean(nats) / (4 * np.log(2.0))


def literal(key):
  """Computes reconstruction [B] and KL per channel [B, D], in nats."""
  mean, variance = halves(X.reshape(B, 4) @ W['encode'])
  eps, _, _ = map(np.float64, draws(key))
  z = mean + np.sqrt(variance) * eps
  kl = 0.5 * (variance + mean**2 - 1.0 - np.log(variance))
  return -literal_decoder(z @ W['decode']), kl


def literal_chain(key):
  """Computes reconstruction [B] and log q - log p per layer [B, 2], in nats."""
  log_normal = lambda z, mean, variance: stats.norm.logpdf(z, mean, np.sqrt(variance)).sum(axis=1)
  _, eps_1, eps_2 = map(np.float64, draws(key))
  q1 = halves(X.reshape(B, 4) @ W['encode'])
  z1 = q1[0] + np.sqrt(q1[1]) * eps_1
  q2 = halves(z1 @ W['up'])
  z2 = q2[0] + np.sqrt(q2[1]) * eps_2
  p1 = halves(z2 @ W['down'])
  ratios = [
    log_normal(z1, *q1) - log_normal(z1, *p1),
    log_normal(z2, *q2) - log_normal(z2, 0.0, 1.0),
  ]
  return -literal_decoder(z1 @ W['decode']), np.stack(ratios, axis=1)


START = Context(jnp.zeros((), jnp.int32))


def test_kingma_welling_eq_3(key):
  (loss, (metrics, state)), _ = PLAIN(PARAMS, START, key, BATCH)
  reconstruction, kl = literal(key)
  found = {name: float(x.total / x.count) for name, x in metrics.items()}
  expected = {
    'reconstruction': bits(reconstruction),
    'kl': bits(kl.sum(axis=1)),
    'bits_per_dim': bits(reconstruction + kl.sum(axis=1)),
    'loss': bits(reconstruction + kl.sum(axis=1)),
    'beta': 1.0,
  }
  assert found == pytest.approx(expected, rel=1e-5)
  assert loss == metrics['loss'].total and state == ()


def test_the_bound_of_a_markov_chain(key):
  loss, (metrics, state) = CHAIN(PARAMS, START, key, BATCH)
  reconstruction, ratios = literal_chain(key)
  expected = bits(reconstruction + ratios.sum(axis=1))
  assert_allclose(loss, expected, rtol=1e-5)
  for t in (1, 2):
    found = metrics[f'kl_{t}'].total
    assert_allclose(found, bits(ratios[:, t - 1]), rtol=1e-4)
  assert state == ()


def test_the_gradient_is_that_of_the_literal_loss(key):
  """The gradient includes the derivative through the draw of z."""
  _, gradient = jax.device_get(PLAIN(PARAMS, START, key, BATCH))
  places = ('encode', (1, 0)), ('encode', (2, 4)), ('decode', (0, 3))
  for name, place in places:
    values = []
    for step in (1e-5, -1e-5):
      W[name][place] += step
      reconstruction, kl = literal(key)
      values.append(bits(reconstruction + kl.sum(axis=1)))
      W[name][place] -= step
    slope = (values[0] - values[1]) / 2e-5
    found = gradient['network'][name][place]
    assert_allclose(found, slope, rtol=1e-3)


def test_parts_of_a_batch_are_the_batch(key):
  whole, (metrics, _) = CHAIN(PARAMS, START, key, BATCH)

  @jax.jit
  def part(key, index):
    inputs, keys = chain().draw(key, BATCH, START)
    return chain().loss(PARAMS, START, rows(inputs, index, 3), keys)

  parts = [part(key, index) for index in range(3)]
  found = np.mean([(loss, m['kl'].total) for loss, (m, _) in parts], axis=0)
  assert_allclose(found, (whole, metrics['kl'].total), rtol=1e-6)


def test_beta_and_warm_up_weigh_the_divergence(key):
  reconstruction, kl = literal(key)
  reconstruction, kl = bits(reconstruction), bits(kl.sum(axis=1))
  objective = make(beta=0.5, kl_warmup=4)
  for step, weight in ((0, 0.0), (1, 0.125), (4, 0.5), (9, 0.5)):
    context = Context(jnp.int32(step))
    loss, (metrics, _) = objective(PARAMS, context, key, BATCH)
    assert_allclose(loss, reconstruction + weight * kl, rtol=1e-5)
    assert_allclose(metrics['beta'].total, weight)
    found = metrics['bits_per_dim'].total
    assert_allclose(found, reconstruction + kl, rtol=1e-5)


def test_free_bits_are_of_channels_and_of_layers(key):
  cases = (0.4, make, literal), (5.0, make_chain, literal_chain)
  for least, make_objective, terms in cases:
    objective = make_objective(free_bits=least)
    reconstruction, groups = terms(key)
    means = groups.mean(axis=0)
    assert means.min() < least < means.max()  # both cases are met
    price = np.maximum(means, least).sum()
    loss, (metrics, _) = objective(PARAMS, START, key, BATCH)
    expected = bits(reconstruction.mean() + price)
    assert_allclose(loss, expected, rtol=1e-5)
    plain = bits(reconstruction + groups.sum(axis=1))
    assert_allclose(metrics['bits_per_dim'].total, plain, rtol=1e-5)
    kl = bits(groups.sum(axis=1))
    assert_allclose(metrics['kl'].total, kl, rtol=1e-5)


def test_decoders_literally():
  h = RNG.normal(size=(B, 2, 2, 2))
  log_likelihood = lambda name, levels, *inputs: jax.jit(vae.log_likelihood(name, levels))(
    *map(np.float32, inputs)
  )
  found = log_likelihood('gaussian', LEVELS, h, BATCH['x'])
  expected = literal_decoder(h.reshape(B, 8), stats.norm.cdf)
  assert_allclose(found, expected, rtol=1e-5)
  mean, image = np.float64(h[..., :1]), np.float64(BATCH['x'])
  expected = np.log(mass(stats.norm.cdf, mean, 1.0, image)).sum((1, 2, 3))
  found = log_likelihood('unit_gaussian', LEVELS, mean, image)
  assert_allclose(found, expected, rtol=1e-5)
  x, logits = np.sign(h[..., :1]), h[..., 1:]
  p = 1.0 / (1.0 + np.exp(-logits))
  expected = np.log(np.where(x > 0, p, 1.0 - p)).sum((1, 2, 3))
  found = log_likelihood('bernoulli', 2, logits, x)
  assert_allclose(found, expected, rtol=1e-5)
  mean = vae.DECODERS['bernoulli'][2](jnp.float32(logits))
  assert_allclose(mean, 2 * p - 1, rtol=1e-5)
