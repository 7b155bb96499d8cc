"""Equations of IDDPM, DDIM, EDM and zero terminal SNR, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.training import objectives
from tests.jitted import at_step, jitted
from tests.papers.paper import column, ddpm, f32, levels
from tests.rows import slow
from tests.transcribed import transcribes


@transcribes('IDDPM (Nichol & Dhariwal 2021)', '17: cosine ᾱ', '`cosine_betas`')
def test_iddpm_eq_17_cosine_alpha_bar():
  """alpha_bar_t = f(t) / f(0), f(t) = cos^2((t/T + s) / (1 + s) pi / 2)."""
  T, s = 1000, 0.008

  def f(t):
    return np.cos((t / T + s) / (1 + s) * np.pi / 2) ** 2

  steps = np.arange(1, T)  # The last beta is clipped.
  schedule = dj.DiscreteSchedule.from_betas(dj.cosine_betas(T))
  assert_allclose(schedule.alpha_bars[:-1], f(steps) / f(0), rtol=1e-5)
  assert dj.cosine_betas(T)[-1] == 0.999


@transcribes(
  'IDDPM (Nichol & Dhariwal 2021)',
  '15: learned variance',
  "`reverse_variance('learned')`",
)
def test_iddpm_eq_15_learned_variance():
  """exp(v log beta_t + (1 - v) log beta-tilde_t)."""
  p = ddpm(dj.linear_betas(1000))
  v = np.random.default_rng(0).uniform(0, 1, (1000, 5))
  t, first = p.steps, 5.0e-5
  small = (1 - p.alpha_bar[t - 1]) / (1 - p.alpha_bar[t]) * p.beta[t]
  beta, small = column(p.beta[t], v), column(np.append(first, small[1:]), v)
  expected = np.exp(v * np.log(beta) + (1 - v) * np.log(small))
  variance = jitted(dj.reverse_variance)
  found = variance('learned', *levels(p), *f32(v), first)
  assert_allclose(found, expected, rtol=1e-4)
  without = np.asarray(variance('learned', *levels(p), *f32(v)))
  assert (without[0] == 0.0).all()
  assert_array_equal(without[1:], np.asarray(found)[1:])


@transcribes('DDIM (Song et al. 2021)', '12, 16: one step, σ(η)', '`ddim(eta)`')
@pytest.mark.parametrize('eta', [0.0, 0.5, 1.0])
def test_ddim_eq_12_and_16(eta):
  """The step is between two levels that are not neighbours."""
  p = ddpm(dj.linear_betas(1000))
  rng = np.random.default_rng(0)
  xt, eps_hat = rng.standard_normal((2, 3, 5))
  now, before = p.alpha_bar[800], p.alpha_bar[500]
  sigma = eta * np.sqrt((1 - before) / (1 - now)) * np.sqrt(1 - now / before)
  x0_hat = (xt - np.sqrt(1 - now) * eps_hat) / np.sqrt(now)
  direction = np.sqrt(1 - before - sigma**2) * eps_hat
  key = jax.random.key(7)
  noise = np.asarray(jax.random.normal(key, (3, 5)), np.float64)
  expected = np.sqrt(before) * x0_hat + direction + sigma * noise

  def network(params, x, t, cond, *, key=None):
    return jnp.asarray(eps_hat, jnp.float32)

  denoise = dj.Network(network, dj.step_input(1000)).denoiser(None)
  t, s = p.at_step(800), p.at_step(500)
  step = dj.ddim(eta).step
  found = jax.jit(lambda x: step(key, x, (), denoise, level_s=s, level_t=t)[0])(*f32(xt))
  assert_allclose(found, expected, atol=2e-5)


@functools.partial(jax.jit, static_argnums=0)
def table_1(sd, level, y, eps):
  """Returns c_out, c_skip, c_in, c_noise, the weight and the target."""
  inputs = {}

  def skip_and_out(x, output):
    def network(params, x, noise, cond, *, key=None):
      inputs.update(x=x, noise=noise)
      return jnp.full_like(x, output)

    denoise = dj.Network(network, dj.edm_input, parametrization='edm', sigma_data=sd).denoiser(None)
    return denoise(jnp.full((1, 1), x), level).x0

  factors = skip_and_out(0.0, 1.0), skip_and_out(1.0, 0.0)
  target = dj.target('edm', y, eps, level, sigma_data=sd)
  inner = inputs['x'], inputs['noise']
  return *factors, *inner, dj.edm_weight(sd)(level), target


@transcribes(
  'EDM (Karras et al. 2022)',
  'Table 1: preconditioning, weight, c_noise',
  "`'edm'` of `target`, `to_x0`; `edm_weight`, `edm_input`",
)
@pytest.mark.parametrize('sd', [0.5, 0.75])
@pytest.mark.parametrize('sigma', [0.002, 0.03, 0.5, 1.0, 7.0, 80.0])
def test_edm_table_1_to_1e_6(sigma, sd):
  """c_skip, c_out, c_in and c_noise, and the weight and target of Eq. 8."""
  sigma = float(np.float32(sigma))
  y, eps = np.random.default_rng(0).uniform(-1, 1, (2, 2, 5))
  level = dj.NoiseLevel(*f32(0.5, 1.0, sigma))
  *found, target = table_1(sd, level, *f32(y, eps))
  c_skip = sd**2 / (sigma**2 + sd**2)
  c_out = sigma * sd / np.sqrt(sigma**2 + sd**2)
  c_in, c_noise = 1 / np.sqrt(sigma**2 + sd**2), np.log(sigma) / 4
  weight = (sigma**2 + sd**2) / (sigma * sd) ** 2
  for a, b in zip(found, (c_out, c_skip, c_in, c_noise, weight), strict=True):
    assert_allclose(a, b, rtol=1e-6, atol=1e-6 * (b is c_noise))
  expected = (y - c_skip * (y + sigma * eps)) / c_out
  assert_allclose(target, expected, rtol=2e-5, atol=2e-6)


@transcribes('Lin et al. 2023', 'Alg. 1: zero terminal SNR', '`zero_terminal_snr`')
def test_zero_terminal_snr_algorithm_1():
  """The betas follow Lin et al. 2023, Alg. 1, transcribed literally."""
  betas = dj.scaled_linear_betas(1000)
  alphas_bar_sqrt = np.sqrt(np.cumprod(1 - betas))
  first, last = alphas_bar_sqrt[0].copy(), alphas_bar_sqrt[-1].copy()
  alphas_bar_sqrt -= last
  alphas_bar_sqrt *= first / (first - last)
  alphas_bar = alphas_bar_sqrt**2
  alphas = np.concatenate([alphas_bar[0:1], alphas_bar[1:] / alphas_bar[:-1]])
  found = dj.zero_terminal_snr(betas)
  assert_allclose(found, 1 - alphas, rtol=1e-9, atol=1e-12)
  schedule = dj.DiscreteSchedule.from_betas(found)
  assert at_step(schedule, 1000)[1:] == (0.0, 1.0)
  assert_allclose(schedule.alpha_bars[0], 1 - betas[0], rtol=1e-6)


@transcribes(
  'EDM (Karras et al. 2022)',
  '2, 8: training loss (its mean over pixels)',
  '`training.objectives.denoising`',
)
@pytest.mark.parametrize('sd', [slow(0.5), 0.75])
def test_edm_training_loss_literally(sd, key):
  """EDM's loss is the mean over images and pixels of lambda |D(y + n; sigma) - y|^2."""
  schedule = dj.GeometricVESchedule(0.002, 80.0)

  @jax.jit
  def loss_and_inputs(key, image):
    inputs = {}

    def network(params, x, noise, cond, *, key=None):
      inputs.update(x=x, noise=noise)
      return 0.3 * jnp.sin(x) + 0.1 * noise[:, None]

    loss = objectives.denoising(
      dj.Network(network, dj.edm_input, parametrization='edm', sigma_data=sd),
      schedule,
      times=dj.log_normal_times(-1.2, 1.2),
      weight=dj.edm_weight(sd),
    )
    found, (metrics, _) = loss({'network': {}}, objectives.Context(), key, {'x': image})
    return found, metrics['loss'].total, inputs

  y = np.float32(np.random.default_rng(0).uniform(-1.0, 1.0, (64, 5)))
  found, total, inputs = loss_and_inputs(key, y)
  x_in, c_noise = (np.asarray(a, np.float64) for a in (inputs['x'], inputs['noise']))
  y = np.asarray(y, np.float64)
  sigma = np.exp(4 * c_noise)[:, None]
  x = x_in * np.sqrt(sigma**2 + sd**2)  # y + n
  F = 0.3 * np.sin(x_in) + 0.1 * c_noise[:, None]
  c_skip = sd**2 / (sigma**2 + sd**2)
  c_out = sigma * sd / np.sqrt(sigma**2 + sd**2)
  D = c_skip * x + c_out * F
  weight = (sigma**2 + sd**2) / (sigma * sd) ** 2
  assert_allclose(found, np.mean(weight * (D - y) ** 2), rtol=1e-4)
  assert_allclose(total, found)
  # The noise is standard normal, log sigma N(-1.2, 1.2^2).
  n = (x - y) / sigma
  assert abs(n.std() - 1) < 0.15 and abs(n.mean()) < 0.2
  assert abs(4 * c_noise.mean() + 1.2) < 4 * 1.2 / 8
  assert 0.8 < 4 * c_noise.std() < 1.7
