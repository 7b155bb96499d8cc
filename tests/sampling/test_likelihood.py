"""The ODE's log-likelihood on data whose density is known; dequantisation."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st
from jax.experimental import io_callback
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from tests.jitted import jitted, level_at, level_grid
from tests.rows import normal, slow
from tests.sampling.moments import OneOf
from tests.schedules import anything
from tests.transcribed import transcribes

D, T_MIN = 8, 1e-5


def correlated(seed, scale=1.0):
  a = np.random.default_rng(seed).standard_normal((D, D))
  return scale * (a @ a.T / D + 0.1 * np.eye(D))


# The mean is near 0, since the model's prior does not have what remains at t = 1.
MIXTURE = oracles.mixture(
  [0.4, 0.6], [np.full(D, 0.6), np.full(D, -0.4)], [correlated(1, 0.5), 0.3 * np.eye(D)]
)
GAUSSIAN = oracles.gaussian(np.zeros(D), correlated(0))
SCHEDULES = {
  'ddpm': dj.DiscreteSchedule.from_betas(dj.linear_betas(1000)),
  'five_steps': dj.DiscreteSchedule.from_alphas([0.5, 0.4, 0.2, 0.1, 0.05]),
  'zero_terminal_snr': dj.DiscreteSchedule.from_betas(dj.zero_terminal_snr(dj.linear_betas(1000))),
  'cosine': dj.CosineSchedule(),
  'linear_vp': dj.LinearVPSchedule(),
  'sub_vp': dj.SubVPSchedule(),
  've': dj.GeometricVESchedule(),
  'flow': dj.RectifiedFlowSchedule(),
}


def among(names, number):
  return OneOf(number, tuple(SCHEDULES[name] for name in names))


@functools.partial(jax.jit, static_argnums=0)
def likelihood(names, number, rtol, x, t_min):
  # Schedules are constants here, so their tables keep float64.
  schedule = among(names, number)
  return dj.log_likelihood(
    None, MIXTURE.denoise, schedule, x, t_min=t_min, rtol=rtol, atol=rtol, exact_trace=True
  )


def exact(schedule_name, rtol, x, t_min=T_MIN):
  """Computes the likelihood of x [16, D], in one program for several schedules."""
  names = FAST if schedule_name in FAST else (*SCHEDULES,)
  return likelihood(names, names.index(schedule_name), rtol, x, t_min)


def of_images(image, level):
  x0 = GAUSSIAN.denoise(image.reshape(-1, D), level).x0
  return dj.Prediction(x0.reshape(image.shape))


@functools.partial(jax.jit, static_argnums=(1, 2))
def hutchinson(key, probe, num_probes, x):
  """Estimates log p of vectors as images, [B]."""
  images = x.reshape(-1, 2, 2, 2)
  return dj.log_likelihood(
    key,
    of_images,
    SCHEDULES['cosine'],
    images,
    probe=probe,
    num_probes=num_probes,
    rtol=1e-4,
    atol=1e-4,
  ).log_prob


def many_keys():
  return jax.random.split(jax.random.key(3), 256)


@functools.partial(jax.jit, static_argnums=1)
def noised(level, n):
  x0 = MIXTURE.sample(jax.random.key(0), n)
  return dj.q_sample(x0, jax.random.normal(jax.random.key(1), x0.shape), level)


def draws(schedule_name, n=16, t=T_MIN):
  """Draws from the marginal at t, whose density log_likelihood returns."""
  level = level_at(SCHEDULES[schedule_name], t)
  return np.asarray(noised(level, n)), level


log_prob = jax.jit(MIXTURE.log_prob)


def prior_log_prob(level, z):
  scale = np.hypot(level.alpha, level.sigma)
  return scipy.stats.norm.logpdf(np.float64(z), scale=scale).sum(axis=1)


def with_exact_prior(found, last):
  """Replaces the density of `prior_sample` by the marginal at t = 1."""
  prior = prior_log_prob(last, found.latent)
  exact_prior = log_prob(found.latent, last)
  return np.asarray(found.log_prob) - prior + exact_prior


FAST = 'ddpm', 'zero_terminal_snr', 've', 'flow'


@transcribes(
  'Score-SDE (Song et al. 2021)',
  "39, 40: likelihood, Hutchinson's estimate",
  '`log_likelihood`',
)
@pytest.mark.parametrize('schedule_name', [n if n in FAST else slow(n) for n in SCHEDULES])
def test_log_likelihood_of_a_mixture(schedule_name):
  x, level = draws(schedule_name)
  found = exact(schedule_name, 1e-5, x)
  truth = log_prob(x, level)
  last = level_at(SCHEDULES[schedule_name], 1.0)
  corrected = with_exact_prior(found, last)
  assert_allclose(corrected, truth, atol=5e-4 * D)
  if schedule_name != 'five_steps':  # alpha_bar_T is 2e-4.
    assert_allclose(found.log_prob, truth, atol=1e-3 * D)


def test_the_density_at_a_noisy_time_is_that_of_the_marginal():
  """The flow has no signal at t = 1, so the model's prior is exact."""
  x, level = draws('flow', t=0.3)
  found = exact('flow', 1e-5, x, t_min=0.3)
  assert_allclose(found.log_prob, log_prob(x, level), atol=5e-4 * D)


def counting(denoise, calls):
  """Appends the time of every call of the denoiser to `calls`."""

  def counted(x, level):
    note = lambda t: calls.append(t) or np.float32(0.0)
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return denoise(x + io_callback(note, shape, level.t), level)

  return counted


def test_the_error_falls_with_the_tolerance():
  """The kinks of a DDPM schedule do not matter: 1e-6 needs < 180 calls."""
  schedule = SCHEDULES['ddpm']
  x, level = draws('ddpm')
  last = level_at(schedule, 1.0)
  truth = log_prob(x, level)
  calls = []

  def still_at_0(x, level):
    return dj.Prediction(MIXTURE.denoise(x, level).x0 * (x[:, :1] != 0.0))

  denoise = counting(still_at_0, calls)

  @jax.jit
  def flow(x, rtol):
    return dj.probability_flow(denoise, schedule, x, T_MIN, 1.0, rtol=rtol, atol=rtol)

  errors, counts = [], []
  for rtol in (1e-3, 1e-6):
    found = exact('ddpm', rtol, x)
    corrected = with_exact_prior(found, last)
    errors.append(np.abs(corrected - truth).max() / D)
    calls.clear()
    jax.block_until_ready(flow(x, rtol))
    jax.effects_barrier()
    counts.append(len(calls))
  assert errors[0] < 1e-2 and errors[1] < 1e-5
  assert 6 < counts[0] < counts[1] < 180
  first = np.arange(16)[:, None] == 0
  alone, among_others = (
    flow(np.where(first, x, others), 1e-3)[0] for others in (x[0], np.zeros(D, np.float32))
  )
  assert_allclose(among_others, alone, atol=1e-5)


@transcribes('Score-SDE (Song et al. 2021)', "39, 40: likelihood, Hutchinson's estimate")
def test_hutchinson_is_unbiased():
  """The ODE of Gaussian data is linear: the trace is of the log M of a matrix.

  p^T M p has the variance 2 |M|^2, without the diagonal for random signs.
  """
  values, vectors = np.linalg.eigh(correlated(0))
  first, last = (
    np.float64(level.alpha) ** 2 * values + np.float64(level.sigma) ** 2
    for level in (level_at(SCHEDULES['cosine'], t) for t in (T_MIN, 1.0))
  )
  log = vectors * (0.5 * np.log(first / last)) @ vectors.T
  square, on_diagonal = np.sum(log**2), np.sum(np.diag(log) ** 2)
  x = normal(4, D)
  cov = vectors * first @ vectors.T
  truth = scipy.stats.multivariate_normal.logpdf(np.float64(x), cov=cov)
  for probe, num_probes, rest in (('rademacher', 1, on_diagonal), ('gaussian', 8, 0.0)):
    found = hutchinson(many_keys(), probe, num_probes, np.tile(x, (64, 1)))
    error = np.asarray(found, np.float64).reshape(64, 4) - truth
    std = np.sqrt(2.0 * (square - rest) / num_probes)
    assert_allclose(error.std(), std, rtol=0.16)
    assert (np.abs(error.mean(axis=0)) < 5 * std / 8 + 5e-3).all()


def test_a_value_depends_only_on_its_own_key():
  keys, x = many_keys(), normal(256, D)

  def log_prob(keys, x):
    return np.asarray(hutchinson(keys, 'rademacher', 1, x))

  repeated = np.arange(256) % 4
  together, few = log_prob(keys, x), log_prob(keys[repeated], x[repeated])
  # The whole batch determines the steps: the values agree to the tolerance.
  assert_allclose(together[repeated], few, atol=5e-4 * D)
  turned = log_prob(keys[::-1], x[::-1])
  assert_allclose(together, turned[::-1], atol=1e-4)
  other = log_prob(keys[::-1], x)
  assert np.mean(np.abs(other - together) > 1e-2) > 0.9


@transcribes('Score-SDE (Song et al. 2021)', '13: probability-flow ODE', '`probability_flow`')
def test_probability_flow_there_and_back():
  x = normal(16, D)

  @jax.jit
  def flow(number, x, start, end):
    schedule = among(names, number)
    return dj.probability_flow(GAUSSIAN.denoise, schedule, x, start, end)

  names = 'linear_vp', 'sub_vp', 've'
  for number, name in enumerate(names):
    ends = (level_at(SCHEDULES[name], t) for t in (T_MIN, 1.0))
    latent = flow(number, x, T_MIN, 1.0)
    expected = jitted(GAUSSIAN.ode_map)(x, *ends)
    assert_allclose(latent, expected, rtol=1e-3, atol=0.01, err_msg=name)
    assert_allclose(flow(number, latent, 1.0, T_MIN), x, atol=1e-3, err_msg=name)


def test_too_few_steps_are_nan():
  denoise = lambda x, level: dj.Prediction(0.5 * x)
  flow = functools.partial(dj.probability_flow, denoise, SCHEDULES['cosine'], max_steps=2)
  with jax.debug_nans(False):
    found = jax.jit(lambda x: flow(x, T_MIN, 1.0))(np.ones((3, D), np.float32))
  assert np.isnan(found).all()


def test_the_adaptive_sampler_solves_the_ode_in_one_step_to_its_tolerance():
  """A single step solves the ODE from noise to less noise, and to clean data."""
  oracle = oracles.gaussian([0.5, -0.3], [[0.1, 0.08], [0.08, 0.15]])
  x = normal(16, 2)

  @jax.jit
  def draw(number, levels, tolerance=1e-5):
    schedule = among(names, number)
    sampler = dj.adaptive_ode(schedule, tolerance, tolerance)
    return dj.sample(jax.random.key(1), oracle.denoise, sampler, levels, x)

  names = 'cosine', 'flow'
  levels = jax.device_get(level_at(SCHEDULES['cosine'], np.float32([0.95, 0.05, 0.05])))
  truth = jitted(oracle.ode_map)(x, levels.take(0), levels.take(-1))
  loose, fine = (np.abs(np.asarray(draw(0, levels, e)) - truth).max() for e in (3e-3, 1e-5))
  assert fine < 1e-4
  assert 10.0 * fine < loose < 1e-1
  for name, num_steps in itertools.product(names, (1, 2)):
    levels = jax.device_get(level_grid(SCHEDULES[name], num_steps))
    first = levels.take(0)._replace(alpha=np.maximum(levels.alpha[0], np.float32(1e-6)))
    truth = jitted(oracle.ode_map)(x, first, level_at(SCHEDULES[name], 1e-4))
    # A second step of the grid of one is from clean to clean data.
    found = draw(names.index(name), levels.take(np.minimum(np.arange(3), num_steps)))
    assert_allclose(found, truth, atol=3e-3, err_msg=f'{name}, {num_steps} steps')


def test_the_last_step_of_the_adaptive_sampler_does_not_add_noise():
  """A step from below `last_noisy_level` to clean data is one call of the denoiser."""
  schedule, oracle = SCHEDULES['flow'], oracles.gaussian([0.5, -0.3], [[0.1, 0.08], [0.08, 0.15]])
  levels = jax.device_get(level_at(schedule, np.float32([1e-4, 0.0])))
  sampler, x = dj.adaptive_ode(schedule), normal(4, 2)

  @jax.jit
  def last(x):
    drawn = dj.sample(jax.random.key(0), oracle.denoise, sampler, levels, x)
    return drawn, oracle.denoise(x, levels.take(0)).x0

  assert_allclose(*last(x), rtol=1e-6)


@transcribes(
  'Score-SDE (Song et al. 2021)',
  'bits/dim of dequantised data',
  '`dequantize`, `ode_bits_per_dim`',
)
@settings(anything, max_examples=15)
@given(st.integers(2, 256), st.integers(0, 2**31 - 1))
def test_bits_of_a_histogram_are_exact(num_levels, seed):
  """If the density is constant on bins, log p gives -log2 P of every image."""
  rng = np.random.default_rng(seed)
  mass = rng.dirichlet(np.ones(num_levels))
  values = np.linspace(-1.0, 1.0, num_levels)
  index = rng.integers(num_levels, size=(5, 12))
  x = dj.dequantize(jax.random.key(seed), jnp.asarray(values[index], jnp.float32), num_levels)
  # The density at x follows from the edges of the bins.
  width = values[1] - values[0]
  edges = values[0] + width * (np.arange(num_levels + 1) - 0.5)
  at = np.searchsorted(edges, x, side='right') - 1
  # float32 may round x to the far edge of its bin.
  assert ((at == index) | (np.abs(x - edges[index + 1]) < 1e-6)).all()
  log_p = np.log(mass[index] / width).sum(axis=1)
  found = dj.ode_bits_per_dim(jnp.asarray(log_p), (12,), num_levels)
  expected = -np.log2(mass[index]).mean(axis=1)
  assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_dequantised_data_fill_their_bins(key):
  x0, keys = np.zeros((4, 20_000), np.float32), jax.random.split(key, 4)
  dequantize = jax.jit(dj.dequantize, static_argnums=2)
  x = np.asarray(dequantize(keys, x0, 17)) * 8.0
  assert x.min() >= -0.5 and x.max() <= 0.5
  assert scipy.stats.kstest(x.ravel() + 0.5, 'uniform').pvalue > 1e-5
  alone = np.asarray(dequantize(keys[2:3], x0[:1], 17))
  assert_array_equal(alone[0] * 8.0, x[2])


@transcribes(
  'VDM (Kingma et al. 2021)', 'section 3.1: the bound of dequantised data', '`gaussian_dequantize`'
)
def test_gaussian_dequantisation_of_independent_levels_is_exact(key):
  """p(x_0 | z) is exact for equally likely levels, so the bound is tight."""
  num_levels, shape = 5, (16, 3)
  values = np.linspace(-1.0, 1.0, num_levels)
  x0 = jax.random.choice(key, jnp.asarray(values, jnp.float32), shape)
  alpha, sigma = 0.9, 0.2
  level = dj.NoiseLevel(*map(jnp.asarray, (0.0, alpha, sigma)))
  dequantize = jax.jit(dj.gaussian_dequantize, static_argnums=3)
  z, log_weight = dequantize(key, x0, level, num_levels)
  densities = scipy.stats.norm.pdf(np.asarray(z, np.float64)[..., None], alpha * values, sigma)
  log_p = np.log(densities.mean(axis=-1)).sum(axis=-1)  # of z, [B]
  assert_allclose(log_p + log_weight, -3 * np.log(5), rtol=1e-5)
  keys, x0 = jax.random.split(key, 16), np.asarray(x0)
  z = np.asarray(dequantize(keys, x0, level, num_levels)[0])
  alone, _ = dequantize(keys[3:4], x0[3:4], level, num_levels)
  assert_allclose(np.asarray(alone)[0], z[3], rtol=1e-6)
  noise = (z - alpha * x0).ravel() / sigma
  assert scipy.stats.kstest(noise, 'norm').pvalue > 1e-5
