"""VAEs and their bounds in the notation of lecture notes, NumPy float64.

All models are linear Gaussians: log p(x), every posterior and every KL are
known. Expectations over draws are exact, not sampled: all integrands are
quadratic, and the mean of a quadratic of standard normals is its mean over all
vectors of signs. The fixture `signs` replaces the library's draws by them.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.autoencoders import bounds as vae
from diffusion_jax.core.keys import split_key
from tests.jitted import jitted
from tests.papers import linear_gaussian as lg
from tests.papers.paper import ddpm, f32, network_fn, normal_kl
from tests.rows import slow
from tests.transcribed import transcribes

LOG_2PI = np.log(2.0 * np.pi)
SIGNS = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))  # [8, 3]


def normal(x, mean, variance):
  return -0.5 * ((x - mean) ** 2 / variance + np.log(variance) + LOG_2PI)


@pytest.fixture
def signs(monkeypatch):
  """Makes signs(fill)(f, *args): f(*args) with fill(x, k) as its draw k."""

  def with_draws(fill):
    def call(f, *args):
      calls = itertools.count()
      draw = lambda key, x: jnp.asarray(fill(x, next(calls)), x.dtype)
      with monkeypatch.context() as patch:
        patch.setattr(vae, 'draw_normal', draw)
        return jax.jit(lambda *args: f(*args))(*args)  # a new trace

    return call

  return with_draws


def each_entry(x, _):
  """Fills one draw z [B, 3] with all vectors of signs of three entries."""
  return np.tile(SIGNS, (len(x) // 8, 1))


def each_layer(x, call):
  """Fills z_1, z_2, z_3 in turn with all vectors of signs of three layers."""
  return np.tile(SIGNS[:, call % 3], len(x) // 8)[:, None] * np.ones(x.shape)


def repeated(x):
  return np.repeat(x, 8, axis=0)


def mean_of_8(values):
  return np.asarray(values, np.float64).reshape(-1, 8).mean(axis=1)


# --- one layer: p(z) = N(0, I), p(x | z) = N(W z + b, s^2 I) ----------------

X = np.random.default_rng(1).normal(size=(4, 5))
B, S2 = np.array([0.5, -0.3, 0.0, 0.2, 1.0]), 0.4
_RANDOM = np.random.default_rng(0).normal(size=(5, 3))
# With orthogonal columns the posterior's precision I + W^T W / s^2 is diagonal,
# so a q(z | x) with independent entries can be exact.
WEIGHTS = {'orthogonal': np.linalg.qr(_RANDOM)[0] * np.array([1.5, 0.8, 0.3]), 'general': _RANDOM}


def log_p(W):
  cov = W @ W.T + S2 * np.eye(5)
  return scipy.stats.multivariate_normal(B, cov).logpdf(X)


def posterior(W):
  cov = np.linalg.inv(np.eye(3) + W.T @ W / S2)
  return (X - B) @ W @ cov / S2, cov


def decoder(W):
  def decode(x, z):
    p = dj.Normal(z @ W.T + f32(B[None])[0], S2)
    return jnp.sum(dj.log_prob(p, x), axis=1)

  return decode


def elbo(key, x, W, q, num_samples=1):
  return dj.vae_elbo(key, x, q, decoder(W), num_samples=num_samples)


def approximation(W, how):
  """Returns the mean [4, 3] and the variance [3] of q(z | x)."""
  mean, cov = posterior(W)
  if how == 'exact':
    return mean, np.diag(cov)
  if how == 'mean field':  # the best diagonal covariance
    return mean, 1.0 / np.diag(np.linalg.inv(cov))
  return 0.8 * mean + 0.1, np.array([0.3, 0.6, 1.1])


def as_normal(mean, variance, copies=1):
  mean = np.repeat(mean, copies, axis=0)
  return dj.Normal(*f32(mean, np.broadcast_to(variance, mean.shape)))


@transcribes(
  'VAE (Kingma & Welling 2014)',
  'ELBO = log p(x) for the exact posterior; log p(x) = ELBO + KL(q(z | x) ‖ p(z | x))',
)
def test_with_the_exact_posterior_every_draw_weighs_log_p(key):
  """log p(x, z) - log q(z | x) = log p(x) for every z: no variance."""
  W = WEIGHTS['orthogonal']
  x = np.repeat(X, 50, axis=0)
  q = as_normal(*approximation(W, 'exact'), copies=50)
  weigh = lambda k, x, q: dj.vae_log_weight(k, x, q, decoder(*f32(W)))
  found = jax.jit(weigh)(key, *f32(x), q)
  assert_allclose(found, np.repeat(log_p(W), 50), rtol=1e-5)


@transcribes(
  'VAE (Kingma & Welling 2014)',
  'ELBO = log p(x) for the exact posterior; log p(x) = ELBO + KL(q(z | x) ‖ p(z | x))',
  '`vae_elbo`, `vae_log_weight`',
)
def test_log_p_is_the_elbo_and_the_kl_to_the_posterior(signs, key):
  """log p(x) = ELBO + KL(q(z | x) || p(z | x)), the KL in closed form."""
  cases = [*itertools.product(WEIGHTS.values(), ('exact', 'mean field', 'another'))]
  qs = [approximation(*case) for case in cases]
  each = [as_normal(*q, copies=8) for q in qs], [np.float32(W) for W, _ in cases]
  q, weights = (jax.tree.map(lambda *rows: np.stack(rows), *rows) for rows in each)
  elbos = jax.vmap(elbo, (None, None, 0, 0))
  found = signs(each_entry)(elbos, key, *f32(repeated(X)), weights, q)['elbo']
  for (W, how), (mean, variance), values in zip(cases, qs, found, strict=True):
    gap = log_p(W) - mean_of_8(values)
    expected = lg.kl(mean, np.diag(variance), *posterior(W))
    assert_allclose(gap, expected, rtol=1e-4, atol=2e-5)
    exact = how != 'another' and W is WEIGHTS['orthogonal']
    assert (expected < 1e-9).all() if exact else (expected > 0.1).all()


def noise(keys, num_samples):
  """Returns the library's eps_1..eps_L, [L, B, 3]."""
  draw = jax.vmap(jax.vmap(lambda k: jax.random.normal(k, (3,))))
  return np.asarray(jax.jit(draw)(split_key(keys, num_samples)), np.float64)


@transcribes(
  'VAE (Kingma & Welling 2014)',
  '3: E_q[log p(x | z)] − KL(q ‖ p), estimated',
  '`vae_elbo`',
)
def test_the_monte_carlo_estimate_literally(key):
  """(1/L) sum_l log p(x | z_l) - KL(q || N(0, I)), z_l = m + s * eps_l."""
  W, L = WEIGHTS['general'], 5
  mean, variance = approximation(W, 'another')
  keys = jax.random.split(key, len(X))
  z = mean + np.sqrt(variance) * noise(keys, L)
  reconstruction = normal(X, z @ W.T + B, S2).sum(axis=2).mean(axis=0)
  divergence = normal_kl(mean, variance, 0.0, 1.0)
  q = as_normal(mean, variance)
  found = jax.jit(elbo, static_argnums=4)(keys, *f32(X, W), q, L)
  assert_allclose(found['reconstruction'], reconstruction, rtol=1e-5)
  assert_allclose(found['kl'], divergence, rtol=1e-5)
  total = reconstruction - divergence
  assert_allclose(found['elbo'], total, rtol=1e-5)


@transcribes(
  'Burda et al. 2016',
  '8, Theorem 1: importance-weighted bound',
  '`importance_weighted_elbo`',
)
def test_the_importance_weighted_bound_literally(key):
  """log (1/k) sum_i p(x, z_i) / q(z_i | x) (Burda et al. 2016, Eq. 8)."""
  W, k = WEIGHTS['general'], 7
  mean, variance = approximation(W, 'another')
  keys = jax.random.split(key, len(X))
  z = mean + np.sqrt(variance) * noise(keys, k)
  log_joint = normal(X, z @ W.T + B, S2).sum(axis=2) + normal(z, 0, 1).sum(2)
  log_weights = log_joint - normal(z, mean, variance).sum(axis=2)
  expected = np.log(np.mean(np.exp(log_weights), axis=0))
  q = as_normal(mean, variance)
  weight = lambda key: dj.vae_log_weight(key, f32(X)[0], q, decoder(*f32(W)))
  bound = lambda key: dj.importance_weighted_elbo(key, weight, k)
  found = jax.jit(bound)(keys)
  assert_allclose(found, expected, rtol=1e-5)


# --- a Markov chain of three layers ------------------------------------------

POINTS = np.array([[0.3, -1.0], [2.0, 0.5]])
PRIORS = np.array([[0.9, 0.7], [0.8, 1.2], [1.1, -0.6]])  # gains
DECODER = [
  lg.Link(gain, np.array([0.1 * t, -0.2]), np.array([0.3, 0.2 + 0.1 * t]))
  for t, gain in enumerate(PRIORS, start=1)
]
LIKELIHOOD = lg.log_likelihood(DECODER)
EXACT = lg.reversal(DECODER)
ANOTHER = [lg.Link(1.2 * link.gain, link.offset + 0.1, 0.6 * link.variance) for link in EXACT]


def log_p_of_chain(x):
  each = [normal(x[:, d], *lg.likelihood(DECODER, d)) for d in (0, 1)]
  return np.sum(each, axis=0)


def gap(encoder, x):
  """KL(q(z_1, z_2, z_3 | x) || p(z_1, z_2, z_3 | x)) of the joint Gaussians."""
  total = 0.0
  for d in (0, 1):
    q, p = lg.encoder_joint(encoder, x, d), lg.decoder_posterior(DECODER, x, d)
    total += lg.kl(*q, *p)
  return total


def sampled(key, x, encoder):
  """Computes form (a)."""
  return dj.hierarchical_elbo(
    key, x, lg.transition(encoder), lg.transition(DECODER), LIKELIHOOD, num_steps=3
  )


def rearranged(key, x, encoder):
  """Computes form (b)."""
  return dj.rearranged_elbo(
    key,
    x,
    lg.marginal(encoder),
    lg.posterior(encoder),
    lg.transition(DECODER),
    LIKELIHOOD,
    num_steps=3,
  )


@transcribes(
  'hierarchical VAE',
  'its bound, sampled; rearranged: log p(x) less the KL of the chains',
)
@pytest.mark.parametrize('form', [sampled, rearranged])
def test_both_forms_are_log_p_less_the_kl_of_the_chains(form, signs, key):
  encoders = EXACT, ANOTHER
  both = jax.tree.map(lambda *each: np.stack(each), EXACT, ANOTHER)
  forms = jax.vmap(form, (None, None, 0))
  found = signs(each_layer)(forms, key, *f32(repeated(POINTS)), both)['elbo']
  for encoder, values in zip(encoders, found, strict=True):
    expected = log_p_of_chain(POINTS) - gap(encoder, POINTS)
    assert_allclose(mean_of_8(values), expected, rtol=1e-5)
    difference = log_p_of_chain(POINTS) - mean_of_8(values)
    assert_allclose(difference, gap(encoder, POINTS), rtol=1e-4, atol=2e-5)


def layer_noise(keys):
  """Returns the library's eps of z_1, z_2, z_3, [4, B, 2] (0 is unused)."""
  draw = lambda k, t: jax.random.normal(jax.random.fold_in(k, t), (2,))
  every = jax.vmap(jax.vmap(draw, (0, None)), (None, 0))
  return np.asarray(jax.jit(every)(keys, jnp.arange(4)), np.float64)


@transcribes(
  'hierarchical VAE',
  'its bound, sampled; rearranged: log p(x) less the KL of the chains',
  '`hierarchical_elbo`, `rearranged_elbo`',
)
def test_form_a_literally(key):
  """log p(x|z_1), and log q(z_t|z_{t-1}) - log p(z_t|z_{t+1}) for t = 1..3."""
  keys = jax.random.split(key, len(POINTS))
  eps, z = layer_noise(keys), [POINTS]
  for t in (1, 2, 3):
    gain, offset, variance = ANOTHER[t - 1]
    z.append(gain * z[-1] + offset + np.sqrt(variance) * eps[t])

  def log_q(t):
    gain, offset, variance = ANOTHER[t - 1]
    return normal(z[t], gain * z[t - 1] + offset, variance).sum(axis=1)

  def log_p(t):  # of z_t given z_{t+1}
    if t == 3:
      return normal(z[3], 0.0, 1.0).sum(axis=1)
    gain, offset, variance = DECODER[t]
    return normal(z[t], gain * z[t + 1] + offset, variance).sum(axis=1)

  ratios = np.stack([log_q(t) - log_p(t) for t in (1, 2, 3)], axis=1)
  found = jax.jit(sampled)(keys, *f32(POINTS), ANOTHER)
  assert_allclose(found['reconstruction'], log_p(0), rtol=1e-5)
  assert_allclose(found['log_ratio'], ratios, rtol=1e-5, atol=1e-6)
  elbo = log_p(0) - ratios.sum(axis=1)
  assert_allclose(found['elbo'], elbo, rtol=1e-5)


@transcribes(
  'hierarchical VAE',
  'its bound, sampled; rearranged: log p(x) less the KL of the chains',
)
def test_form_b_literally(key):
  """The KLs to q(z_{t-1} | z_t, x), conditioned in the joint Gaussian of q."""
  keys = jax.random.split(key, len(POINTS))
  eps = layer_noise(keys)
  reconstruction, prior, transitions = 0.0, 0.0, np.zeros((2, 2))
  for d in (0, 1):
    mean, cov = lg.encoder_joint(ANOTHER, POINTS, d)  # entry t - 1 is z_t
    z = mean + np.sqrt(np.diag(cov)) * eps[1:, :, d].T
    gain, offset, variance = lg.of_dimension(DECODER, d)[0]
    reconstruction += normal(POINTS[:, d], gain * z[:, 0] + offset, variance)
    prior += normal_kl(mean[:, 2:], cov[2, 2], 0.0, 1.0)
    for t in (2, 3):
      pair = [t - 2, t - 1]
      q_mean, q_cov = lg.condition(mean[:, pair], cov[np.ix_(pair, pair)], [1], z[:, t - 1 : t])
      gain, offset, variance = lg.of_dimension(DECODER, d)[t - 1]
      p_mean = gain * z[:, t - 1 : t] + offset
      transitions[:, t - 2] += normal_kl(q_mean, q_cov[0], p_mean, variance)
  found = jax.jit(rearranged)(keys, *f32(POINTS), ANOTHER)
  assert_allclose(found['reconstruction'], reconstruction, rtol=1e-5)
  assert_allclose(found['transitions'], transitions, rtol=1e-5)
  assert_allclose(found['prior'], prior, rtol=1e-5)
  elbo = reconstruction - transitions.sum(axis=1) - prior
  assert_allclose(found['elbo'], elbo, rtol=1e-5)


# --- DDPM is the chain with a fixed encoder -----------------------------------

X0 = np.random.default_rng(0).choice(np.linspace(-1, 1, 256), (3, 2, 2))


def pieces(p, variance):
  """Returns DDPM's denoiser and its q and p as functions of a step."""
  denoise = dj.Network(network_fn, dj.step_input(p.T), learned_variance=True).denoiser((1.0, 1.0))
  at = p.at_step
  first = None
  if p.T > 1:
    first = jitted(dj.reverse_variance)('fixed_small', at(1), at(2))

  @jax.jit
  def marginal(t, x):
    zero = jnp.zeros_like(x)
    spread = dj.q_sample(zero, jnp.ones_like(x), at(t))
    return dj.Normal(dj.q_sample(x, zero, at(t)), spread**2)

  @jax.jit
  def posterior(t, z, x):
    return dj.q_posterior(x, z, at(t - 1), at(t))

  @jax.jit
  def decode(t, z):
    x0, frac = denoise(z, at(t))
    return dj.p_reverse(x0, z, at(t - 1), at(t), variance=variance, var_frac=frac, first=first)

  def log_likelihood(x, z):
    return -dj.reconstruction_nll(x, decode(1, z))

  return denoise, marginal, posterior, decode, log_likelihood


@transcribes(
  'hierarchical VAE',
  'DDPM is one with a fixed encoder',
  '`rearranged_elbo`, `variational_bound`',
)
@pytest.mark.parametrize(
  'T, variance',
  [
    (1, 'fixed_large'),
    (3, 'learned'),
    slow(10, 'learned'),
    slow(200, 'fixed_small'),
  ],
)
def test_ddpm_is_a_hierarchical_vae(T, variance, key):
  """DDPM's bound is form (b) with a fixed encoder, term by term.

  The comparison needs float64: the last float32 bit of z_t is 4e-5 of the smallest KLs.
  """
  p = ddpm(dj.linear_betas(T, 1e-2, 0.7 if T < 100 else 0.05))
  keys = jax.random.split(key, len(X0))
  # The bound splits its keys once and folds t into the second, as the chain.
  noise_keys = split_key(keys, 2)[1]
  with jax.enable_x64(True):
    denoise, *functions = pieces(p, variance)
    bound = jax.jit(
      lambda keys, x0: dj.variational_bound(
        keys, denoise, p.schedule, x0, num_steps=T, variance=variance
      )
    )(keys, X0)
    chain = lambda keys, x0: dj.rearranged_elbo(keys, x0, *functions, num_steps=T)
    chain = jax.jit(chain) if T < 100 else chain  # 200 steps compile for 40 s.
    found = chain(noise_keys, jnp.asarray(X0))
  assert found['transitions'].shape == (3, T - 1)
  for name, expected in (
    ('prior', bound['prior']),
    ('transitions', np.asarray(bound['diffusion'])[:, 1:]),
    ('reconstruction', np.negative(bound['reconstruction'])),
    ('elbo', np.negative(bound['total'])),
  ):
    assert found[name].dtype == np.float64
    assert_allclose(found[name], expected, rtol=1e-9)


def test_the_exact_reversal_is_the_posterior():
  """Two float64 derivations agree: link by link, and by conditioning."""
  assert (np.abs(gap(EXACT, POINTS)) < 1e-12).all()
  assert (gap(ANOTHER, POINTS) > 0.1).all()


def many(x):
  return jnp.broadcast_to(f32(x)[0], (10_000, *x.shape[1:]))


def test_with_the_exact_encoder_every_draw_of_a_is_log_p(key):
  found = jax.jit(sampled)(key, many(POINTS[:1]), EXACT)['elbo']
  expected = np.broadcast_to(log_p_of_chain(POINTS[:1]), found.shape)
  assert_allclose(found, expected, rtol=1e-5)
