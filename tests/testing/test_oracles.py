"""The oracles against quadrature, scipy and autodiff."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from tests.rows import slow
from tests.transcribed import transcribes

MEAN, COV = [0.5, -0.3], [[1.0, 0.8], [0.8, 1.5]]
PARTS = (
  np.array([0.3, 0.7]),
  np.array([[-1.0, 0.5], [1.0, 0.0]]),
  np.array([np.eye(2) * 0.05, [[0.2, 0.1], [0.1, 0.3]]]),
)
GAUSSIAN, MIXTURE = oracles.gaussian(MEAN, COV), oracles.mixture(*PARTS)
DDPM = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
LEVEL = jax.jit(DDPM.at_step)(300)
ORACLES = pytest.mark.parametrize('oracle', [GAUSSIAN, MIXTURE], ids=['gaussian', 'mixture'])
normal = scipy.stats.multivariate_normal


@functools.partial(jax.jit, static_argnums=(0, 2))
def points(oracle, key, n=6):
  x0 = oracle.sample(key, n)
  return dj.q_sample(x0, jax.random.normal(key, x0.shape), LEVEL)


@transcribes('Score-SDE (Song et al. 2021)', 'Tweedie', '`score_from_x0`')
@ORACLES
def test_density_score_denoiser_and_covariance_belong_together(oracle, key):
  """Autodiff of log p and of E[x_0 | x_t], and Tweedie's formula, agree."""

  @jax.jit
  def run(x):
    of = lambda x: oracle.denoise(x[None], LEVEL).x0[0]
    jacobian = LEVEL.sigma**2 / LEVEL.alpha * jax.vmap(jax.jacfwd(of))(x)
    slope = jax.grad(lambda x: oracle.log_prob(x, LEVEL).sum())(x)
    x0, score = oracle.denoise(x, LEVEL).x0, oracle.score(x, LEVEL)
    by_tweedie = dj.score_from_x0(x0, x, LEVEL)
    return score, slope, by_tweedie, oracle.covariance(x, LEVEL), jacobian

  score, slope, by_tweedie, covariance, jacobian = run(points(oracle, key))
  assert_allclose(score, slope, atol=1e-5)
  assert_allclose(by_tweedie, score, atol=2e-5)
  assert_allclose(covariance, jacobian, rtol=2e-4, atol=2e-6)


def test_gaussian_log_prob_is_scipys(key):
  x = points(GAUSSIAN, key)
  cov = LEVEL.alpha**2 * np.array(COV) + LEVEL.sigma**2 * np.eye(2)
  expected = normal(LEVEL.alpha * np.array(MEAN), cov).logpdf(x)
  found = jax.jit(GAUSSIAN.log_prob)(x, LEVEL)
  assert_allclose(found, expected, rtol=1e-4)


@ORACLES
def test_levels_of_elements_literally(oracle, key):
  """x_t = A x_0 + S eps with diagonal A and S, in float64; a clean element is known."""
  x = points(oracle, key)
  t = np.random.default_rng(0).uniform(0.1, 0.9, x.shape)
  t[0] = 0.0, 0.6
  level = DDPM(jnp.asarray(t, jnp.float32))
  alpha, sigma, xt = (np.asarray(a, np.float64) for a in (level.alpha, level.sigma, x))
  joint, scores, means = [], [], []
  for w, m, c in zip(*oracles.moments(oracle), strict=True):
    of_xt = alpha[:, :, None] * c * alpha[:, None] + sigma[:, :, None] ** 2 * np.eye(2)
    centred = xt - alpha * m
    densities = [normal(None, k).logpdf(x) for k, x in zip(of_xt, centred, strict=True)]
    joint.append(np.log(w) + np.asarray(densities))
    solved = np.linalg.solve(of_xt, centred[..., None])[..., 0]
    scores.append(-solved)
    means.append(m + (alpha * solved) @ c)
  log_p = np.asarray(scipy.special.logsumexp(joint, axis=0))
  weights = np.exp(np.stack(joint) - log_p)[..., None]
  assert_allclose(oracle.log_prob(x, level), log_p, rtol=1e-4, atol=1e-4)
  assert_allclose(oracle.score(x, level), (weights * np.stack(scores)).sum(0), rtol=1e-3, atol=1e-3)
  found = np.asarray(oracle.denoise(x, level).x0)
  assert_allclose(found, (weights * np.stack(means)).sum(0), rtol=1e-3, atol=1e-4)
  assert_allclose(found[0, 0], x[0, 0], rtol=1e-5)


def test_what_takes_one_level_for_an_example_says_so(key):
  x, level = points(MIXTURE, key), DDPM(jnp.full((6, 2), 0.5))
  calls = (
    lambda: MIXTURE.covariance(x, level),
    lambda: GAUSSIAN.ode_map(x, level, LEVEL),
    lambda: GAUSSIAN.ode_map(x, LEVEL, level),
    lambda: MIXTURE.flow_map(x, LEVEL, level),
    lambda: MIXTURE.class_log_prob(x, level),
    lambda: MIXTURE.denoiser_given(jnp.zeros(2), 1.0)(x, level),
  )
  for call in calls:
    with pytest.raises(ValueError, match='takes levels'):
      call()


@ORACLES
def test_samples_have_mean_and_cov(oracle, key):
  x = np.asarray(jax.jit(oracle.sample, static_argnums=1)(key, 100_000))
  assert_allclose(x.mean(0), oracle.mean, atol=0.02)
  assert_allclose(np.cov(x.T), oracle.cov, atol=0.04)


def test_entropy_is_scipys():
  """The entropy of x_0, and of x_t at several levels, is SciPy's."""
  levels = jax.jit(dj.LinearVPSchedule())(np.array([0.1, 0.5, 1.0]))
  data, found = jax.jit(lambda: (GAUSSIAN.entropy(), GAUSSIAN.entropy(levels)))()
  assert_allclose(data, normal(MEAN, COV).entropy(), rtol=1e-5)
  for i in range(3):
    level = levels.take(i)
    cov = level.alpha**2 * np.array(COV) + level.sigma**2 * np.eye(2)
    assert_allclose(found[i], normal(MEAN, cov).entropy(), rtol=1e-5)


@pytest.mark.parametrize('schedule', [dj.LinearVPSchedule(), dj.SubVPSchedule()])
def test_ode_map_solves_the_ode(schedule):
  """dx/dt = f x - g^2 score / 2 (Song et al. 2021, Eq. 13), by differences."""
  x = jnp.asarray([[0.3, -1.0], [2.0, 0.5]], jnp.float32)

  @jax.jit
  def slope_and_field(t, h):
    now = schedule(t)
    ahead, behind = (GAUSSIAN.ode_map(x, now, schedule(t + s)) for s in (h, -h))
    f, g2 = dj.sde_coefficients(schedule, t)
    field = f * x - 0.5 * g2 * GAUSSIAN.score(x, now)
    return (ahead - behind) / (2 * h), field

  with jax.enable_x64(True):
    slope, field = slope_and_field(0.3, 1e-3)
  assert_allclose(slope, field, rtol=1e-3)


def three_dimensions():
  rng = np.random.default_rng(0)
  a = rng.standard_normal((2, 3, 3))
  covs = np.einsum('kij,klj->kil', a, a) + 0.3 * np.eye(3)
  means = rng.standard_normal((2, 3))
  return oracles.mixture([0.3, 0.7], means, covs), means, covs


@pytest.mark.parametrize('mask', [[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]])
def test_conditional_density_is_joint_over_marginal(mask):
  """p(u | k) = p(u, k) / p(k), the densities by scipy."""
  oracle, means, covs = three_dimensions()
  mask = np.array(mask, bool)
  rng = np.random.default_rng(1)
  known = rng.standard_normal(3)
  found = oracle.conditional(np.where(mask, known, np.nan), mask)
  x = np.tile(known, (5, 1))
  x[:, ~mask] = rng.standard_normal((5, (~mask).sum()))

  def density(x, keep):
    return sum(
      w * normal(m[keep], c[keep][:, keep]).pdf(x)
      for w, m, c in zip([0.3, 0.7], means, covs, strict=True)
    )

  expected = np.log(density(x, np.ones(3, bool)))
  if mask.any():
    expected -= np.log(density(known[mask], mask))
  at = x[:, ~mask].astype(np.float32)
  log_prob = jax.jit(found.log_prob)(at, dj.clean_level())
  assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)


STRAIGHT = dj.RectifiedFlowSchedule()


def straight_velocity(x, t):
  """Returns MIXTURE's E[eps - x_0 | x_t] on the straight path, [N, 2]."""
  density, x0 = [], []
  for w, m, c in zip(*PARTS, strict=True):
    total = (1 - t) ** 2 * c + t**2 * np.eye(2)
    density.append(w * np.atleast_1d(normal((1 - t) * m, total).pdf(x)))
    gain = (1 - t) * c @ np.linalg.inv(total)
    x0.append(m + (x - (1 - t) * m) @ gain.T)
  share = np.array(density) / np.sum(density, axis=0)
  mean = np.einsum('kn,knd->nd', share, x0)
  return (x - mean) / t


def test_the_flow_map_of_a_mixture_is_scipys():
  """Each example has its own levels; also velocities and their averages."""
  x = np.random.default_rng(0).standard_normal((3, 2))
  t, s = np.array([1.0, 0.9, 0.6]), np.array([0.01, 0.4, 0.6])
  expected = x.copy()
  for i in range(2):
    expected[i] = scipy.integrate.solve_ivp(
      lambda t, x: straight_velocity(x[None], t)[0], (t[i], s[i]), x[i], rtol=1e-9, atol=1e-9
    ).y[:, -1]

  @jax.jit
  def all_three(x, t, s):
    t, s = STRAIGHT(t), STRAIGHT(s)
    maps = MIXTURE.flow_map(x, t, s), MIXTURE.average_velocity(x, t, s)
    return *maps, MIXTURE.velocity(x, t)

  args = (jnp.asarray(a, jnp.float32) for a in (x, t, s))
  found, u, v = all_three(*args)
  assert_allclose(found, expected, atol=2e-5)
  velocity = np.stack([straight_velocity(x[i : i + 1], t[i])[0] for i in range(3)])
  assert_allclose(v, velocity, atol=2e-5)
  expected_u = velocity.copy()
  expected_u[:2] = ((x - expected)[:2].T / (t - s)[:2]).T
  assert_allclose(u, expected_u, atol=5e-5)


def residuals(oracle, x, t, s):
  """Returns errors of MeanFlow's identity and df/dt = 0, relative to |u|."""
  v = oracle.velocity(x, STRAIGHT(t))
  one, zero = jnp.ones_like(t), jnp.zeros_like(s)

  def u_fn(x, t, s):
    return oracle.average_velocity(x, STRAIGHT(t), STRAIGHT(s))

  def f_fn(x, t):
    return oracle.flow_map(x, STRAIGHT(t), STRAIGHT(0.0 * t))

  u, du = jax.jvp(u_fn, (x, t, s), (v, one, zero))
  df = jax.jvp(f_fn, (x, t), (v, one))[1]
  worst = jnp.abs(u - v + (t - s)[:, None] * du), jnp.abs(df)
  return jnp.stack([jnp.max(w) for w in worst]) / jnp.mean(jnp.abs(u))


@transcribes(
  'MeanFlow (Geng et al. 2025)',
  '6: its identity, of exact maps',
  '`testing.oracles.Mixture.average_velocity`',
)
@pytest.mark.parametrize('float64', [slow(False), True])
def test_the_identities_of_flow_maps_hold(float64, key):
  """The error is 1e-3 for a float32 mixture, 1e-8 for a float64 Gaussian."""
  with jax.enable_x64(float64):
    oracle = MIXTURE
    if float64:
      values, vectors = np.linalg.eigh(np.array(COV))
      arrays = np.ones(1), np.array(MEAN), values, vectors
      arrays = arrays[0], *(a[None] for a in arrays[1:])
      oracle = oracles.Mixture(*map(jnp.asarray, arrays))
    rng = np.random.default_rng(0)
    t = rng.uniform(0.1, 1.0, 32)
    args = rng.normal(size=(32, 2)), t, t * rng.uniform(0.0, 0.95, 32)
    dtype = float if float64 else jnp.float32
    args = [jnp.asarray(a, dtype) for a in args]
    found = jax.jit(lambda *args: residuals(oracle, *args))(*args)
    assert found.dtype == dtype
    assert (found < (1e-8 if float64 else 1e-3)).all(), found


@pytest.fixture(scope='module')
def on_a_grid():
  """Returns points x [n, 2] and MIXTURE's mass of the cell of each."""
  axis = np.linspace(-4.0, 4.0, 401)
  x = np.stack(np.meshgrid(axis, axis, indexing='ij'), -1).reshape(-1, 2)
  parts = zip(*PARTS, strict=True)
  prior = sum(w * normal(m, c).pdf(x) for w, m, c in parts)
  return x, prior * (axis[1] - axis[0]) ** 2


@pytest.mark.parametrize('std', [0.1, 0.5, 2.0])
@pytest.mark.parametrize('matrix', [[[1.0, -2.0]], [[1.0, 0.5], [0.0, 2.0], [1.0, 1.0]]])
def test_posterior_and_evidence_by_bayes_rule(matrix, std, on_a_grid):
  matrix, (x, prior) = np.array(matrix), on_a_grid
  y = matrix @ np.array([0.4, 0.3]) + 0.2
  noise = normal(np.zeros(len(y)), std**2 * np.eye(len(y)))
  joint = prior * noise.pdf(y - x @ matrix.T)
  evidence = joint.sum()
  mean = joint @ x / evidence
  cov = (x - mean).T @ (joint[:, None] * (x - mean)) / evidence

  found = MIXTURE.posterior(matrix, y, std)
  assert_allclose(found.mean, mean, atol=2e-5)
  assert_allclose(found.cov, cov, atol=2e-5)
  log_evidence = MIXTURE.log_evidence(matrix, y, std)
  assert_allclose(log_evidence, np.log(evidence), atol=2e-5)
