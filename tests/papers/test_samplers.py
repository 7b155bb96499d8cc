"""Samplers against the algorithms of their papers, written out in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from tests.rows import slow
from tests.transcribed import transcribes


@pytest.fixture(autouse=True)
def _x64():
  with jax.enable_x64(True):
    yield


def D(x, alpha, sigma, xp=np):
  """A denoiser that is not affine and differs between levels."""
  return xp.tanh(2.0 * x + sigma) * alpha / (alpha + 0.3 * sigma) + 0.1


def denoise(x, level):
  level = level.expand_to(x)
  return dj.Prediction(D(x, level.alpha, level.sigma, jnp))


def ve_grid(n=8, clean=True):
  """Returns EDM Eq. 5: sigma from 80 down to 0.002, then 0."""
  i = np.arange(n)
  sigma = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
  return np.ones(n + clean), np.append(sigma, [0.0] * clean)


def vp_grid(n=8, clean=True):
  angle = np.linspace(1.5, 0.1, n) ** 1.1
  alpha, sigma = np.cos(angle), np.sin(angle)
  return np.append(alpha, [1.0] * clean), np.append(sigma, [0.0] * clean)


GRIDS = {'ve': ve_grid, 'vp': vp_grid}


def start(sigma):
  return sigma[0] * np.random.default_rng(0).standard_normal((3, 4))


@functools.partial(jax.jit, static_argnums=0)
def trajectory(sampler, levels, x):
  key = jax.random.key(3)
  return dj.trajectory(key, denoise, sampler, levels, x)


def run(sampler, alpha, sigma, x, t=None, step=-1):
  """Returns x after the last step; one program for all grids of a length."""
  t = np.linspace(1.0, 0.0, len(alpha)) if t is None else t
  return trajectory(sampler, dj.NoiseLevel(t, alpha, sigma), x)[step]


@functools.cache
def noises(first=False):
  """Returns the noise of 8 steps of `run`; first: of a key's split."""

  @jax.jit
  @jax.vmap
  def draw(key):
    key = jax.random.split(key)[0] if first else key
    return jax.random.normal(key, (3, 4))

  # The first keys of a split do not depend on their number.
  return np.asarray(draw(jax.random.split(jax.random.key(3), 8)))


def close(found, expected):
  assert found.dtype == np.float64
  scale = np.abs(expected).max()
  assert_allclose(found, expected, atol=1e-10 * scale)


@transcribes(
  'EDM (Karras et al. 2022)',
  'Alg. 1: Heun; Alg. 2: churn',
  '`heun`, `churn`, `churn_gamma`',
)
@pytest.mark.parametrize(
  's_churn, s_min, s_max, s_noise',
  [(0.0, 0.0, np.inf, 1.0), (2.0, 0.0, np.inf, 1.0), (40.0, 0.05, 50.0, 1.003)],
)
def test_edm_algorithms_1_and_2(s_churn, s_min, s_max, s_noise):
  """Algorithm 1 is Heun's method, without churn."""
  _, t = ve_grid()
  n = len(t) - 1
  x = start(t)
  eps = noises(first=True)
  expected = x
  for i in range(n):
    inside = s_min <= t[i] <= s_max
    gamma = min(s_churn / n, np.sqrt(2) - 1) if inside else 0.0
    t_hat = t[i] + gamma * t[i]
    noise = s_noise * eps[i]
    x_hat = expected + np.sqrt(t_hat**2 - t[i] ** 2) * noise
    d = (x_hat - D(x_hat, 1.0, t_hat)) / t_hat
    following = x_hat + (t[i + 1] - t_hat) * d
    if t[i + 1] != 0:
      d2 = (following - D(following, 1.0, t[i + 1])) / t[i + 1]
      following = x_hat + (t[i + 1] - t_hat) * (d / 2 + d2 / 2)
    expected = following
  gamma = dj.churn_gamma(s_churn, n)
  schedule = dj.GeometricVESchedule(0.002, 80.0)
  sampler = dj.churn(dj.heun(), schedule, gamma, s_min, s_max, s_noise)
  close(run(sampler, *ve_grid(), x), expected)
  if not s_churn:
    close(run(dj.heun(), *ve_grid(), x), expected)


def mean_of(order, nodes, values, h, weight):
  """Returns the mean over 0 < u < h: D_i of Alg. 2, or a parabola's."""
  values = values[:order]
  if len(values) == 1:
    return values[0]
  if len(values) == 2:
    r = -nodes[1] / h
    return (1 + 1 / (2 * r)) * values[0] - 1 / (2 * r) * values[1]
  u, w = np.polynomial.legendre.leggauss(20)
  u = 0.5 * h * (u + 1)
  w = w * np.exp(weight * u)
  basis = [np.prod([(u - b) / (a - b) for b in nodes[:3] if b != a], axis=0) for a in nodes[:3]]
  return sum(w @ p / w.sum() * a for p, a in zip(basis, values, strict=True))


@functools.cache
def ode_solvers(order):
  return dj.dpm_solver_pp(order), dj.dpm_solver_pp_sde(0.0, order)


@transcribes(
  'DPM-Solver++ (Lu et al. 2022)',
  'Alg. 2: 2M; 3M; 2M and 3M of the SDE',
  '`dpm_solver_pp(2)`, `dpm_solver_pp(3)`, `dpm_solver_pp_sde`',
)
@pytest.mark.parametrize('order, eta, grid', [
  (1, 0.0, 've'), (1, 1.0, 'vp'), (2, 0.0, 've'), (2, 0.0, 'vp'),
  slow(2, 0.5, 'vp'), (2, 1.0, 'vp'), (3, 0.0, 'vp'), (3, 0.5, 'vp'),
  (3, 1.0, 'vp'),
])  # fmt: skip
def test_dpm_solver_pp_algorithm_2_and_its_sde(order, eta, grid):
  """The step of the SDE is in tests/papers/recipes.md, section 11."""
  alpha, sigma = GRIDS[grid](clean=False)
  lam = np.log(alpha / sigma)
  x = expected = start(sigma)
  z, values = noises(), []
  for i in range(1, len(alpha)):
    h = lam[i] - lam[i - 1]
    values = [D(expected, alpha[i - 1], sigma[i - 1]), *values]
    mean = mean_of(order, lam[:i][::-1] - lam[i - 1], values, h, 1 + eta)
    expected = sigma[i] / sigma[i - 1] * np.exp(-eta * h) * expected
    expected = expected + alpha[i] * (1 - np.exp(-(1 + eta) * h)) * mean
    expected += sigma[i] * np.sqrt(1 - np.exp(-2 * eta * h)) * z[i - 1]
  if eta:
    close(run(dj.dpm_solver_pp_sde(eta, order), alpha, sigma, x), expected)
    return
  all_alpha, all_sigma = np.append(alpha, 1.0), np.append(sigma, 0.0)
  last = D(expected, alpha[-1], sigma[-1])
  for sampler in ode_solvers(order):
    close(run(sampler, all_alpha, all_sigma, x, step=-2), expected)
    close(run(sampler, all_alpha, all_sigma, x), last)  # The step to clean data returns x_0.


@transcribes('DPM-Solver++ (Lu et al. 2022)', 'Alg. 1: 2S', '`dpm_solver_pp_2s`')
@pytest.mark.parametrize('grid', GRIDS)
def test_dpm_solver_pp_2s_algorithm_1(grid):
  alpha, sigma = GRIDS[grid](clean=False)
  schedule = {'vp': dj.CosineSchedule(), 've': dj.GeometricVESchedule(1e-3, 80.0)}[grid]
  lam = np.log(alpha / sigma)
  x = expected = start(sigma)
  r = 0.5
  for i in range(1, len(alpha)):
    h = lam[i] - lam[i - 1]
    middle = lam[i - 1] + r * h
    a, s = 1.0, np.exp(-middle)
    if grid == 'vp':
      a, s = 1 / np.sqrt(1 + s**2), s / np.sqrt(1 + s**2)
    x0 = D(expected, alpha[i - 1], sigma[i - 1])
    u = s / sigma[i - 1] * expected - a * (np.exp(-r * h) - 1) * x0
    mean = (1 - 1 / (2 * r)) * x0 + 1 / (2 * r) * D(u, a, s)
    expected = sigma[i] / sigma[i - 1] * expected
    expected = expected - alpha[i] * (np.exp(-h) - 1) * mean
  close(run(dj.dpm_solver_pp_2s(schedule), alpha, sigma, x), expected)


def unipc(p, x, alpha, sigma, lower_order_final):
  """Computes UniPC-p, B_2(h) = e^h - 1, data prediction, as released."""
  lam = np.log(alpha / sigma)
  m = [D(x, alpha[0], sigma[0])]
  for i in range(1, len(alpha)):
    order = min(p, i, len(alpha) - i) if lower_order_final else min(p, i)
    h = lam[i] - lam[i - 1]
    B = np.expm1(-h)
    rs = [(lam[i - 1 - k] - lam[i - 1]) / h for k in range(1, order)]
    D1 = [(m[-1 - k] - m[-1]) / r for k, r in enumerate(rs, 1)]
    rs.append(1.0)
    phi, factorial = np.expm1(-h) / -h - 1, 1
    R, b = [], []
    for n in range(1, order + 1):
      R.append(np.power(rs, n - 1))
      b.append(phi * factorial / B)
      factorial *= n + 1
      phi = phi / -h - 1 / factorial
    R, b = np.array(R), np.array(b)
    base = sigma[i] / sigma[i - 1] * x - alpha[i] * np.expm1(-h) * m[-1]
    rho = [0.5] if order == 2 else np.linalg.solve(R[:-1, :-1], b[:-1])
    x_new = base - alpha[i] * B * sum(a * d for a, d in zip(rho, D1, strict=True))
    if i == len(alpha) - 1:
      return x_new
    new = D(x_new, alpha[i], sigma[i])
    rho = [0.5] if order == 1 else np.linalg.solve(R, b)
    D1.append(new - m[-1])
    x = base - alpha[i] * B * sum(a * d for a, d in zip(rho, D1, strict=True))
    m.append(new)


UNIPC = {(order, None): dj.unipc(order) for order in (1, 2, 3)}
UNIPC[3, True] = dj.unipc(3, num_steps=len(GRIDS['ve'](clean=False)[0]) - 1)


@transcribes('UniPC (Zhao et al. 2023)', 'UniPC-p, B_2(h), data prediction', '`unipc`')
@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('order, lower_order_final', UNIPC)
def test_unipc(order, lower_order_final, grid):
  alpha, sigma = GRIDS[grid](clean=False)
  x = start(sigma)
  expected = unipc(order, x, alpha, sigma, lower_order_final)
  close(run(UNIPC[order, lower_order_final], alpha, sigma, x), expected)


@transcribes('Score-SDE (Song et al. 2021)', 'appendix E: reverse diffusion', '`reverse_diffusion`')
@pytest.mark.parametrize('name', ['ddpm', 've'])
def test_score_sde_reverse_diffusion(name):
  """x - f + G^2 score + G z; VE has f = 0, G^2 = sigma_t^2 - sigma_s^2."""
  alpha, sigma = ve_grid()
  kept, g2 = np.ones(8), -np.diff(sigma**2)
  if name == 'ddpm':
    betas = np.array([0.05, 0.1, 0.2, 0.3])
    bars = np.append(1.0, np.cumprod(1 - betas))[::-1]
    alpha, sigma = np.sqrt(bars), np.sqrt(1 - bars)
    kept, g2 = np.sqrt(1 - betas[::-1]), betas[::-1]
  x = expected = start(sigma)
  z = noises() * (np.arange(8) < len(g2) - 1)[:, None, None]
  for i in range(len(g2)):
    x0 = D(expected, alpha[i], sigma[i])
    score = -(expected - alpha[i] * x0) / sigma[i] ** 2
    f = kept[i] * expected - expected
    expected = expected - f + g2[i] * score + np.sqrt(g2[i]) * z[i]
  close(run(dj.reverse_diffusion(), alpha, sigma, x), expected)


@transcribes('Score-SDE (Song et al. 2021)', '6: reverse SDE, Euler-Maruyama', '`euler_maruyama`')
def test_score_sde_euler_maruyama_of_the_vp_sde():
  """dx = (-beta x / 2 - beta score) dt + sqrt(beta) dw, backwards."""
  n, b0, b1 = 5, 0.1, 20.0
  t = np.append(np.linspace(1.0, 0.1, n), 0.0)
  bars = np.exp(-(t**2) * (b1 - b0) / 2 - t * b0)
  alpha, sigma = np.sqrt(bars), np.sqrt(1 - bars)
  x = expected = start(sigma)
  z = noises()
  for i in range(n):
    beta, dt = b0 + t[i] * (b1 - b0), t[i] - t[i + 1]
    x0 = D(expected, alpha[i], sigma[i])
    score = -(expected - alpha[i] * x0) / sigma[i] ** 2
    following = expected + (0.5 * beta * expected + beta * score) * dt
    following = following + np.sqrt(beta * dt) * z[i]
    expected = following if t[i + 1] > 0 else x0
  sampler = dj.euler_maruyama(dj.LinearVPSchedule(b0, b1))
  close(run(sampler, alpha, sigma, x, t), expected)


@transcribes('Score-SDE (Song et al. 2021)', 'Alg. 4, 5: Langevin corrector', '`langevin`')
def test_score_sde_corrector_algorithms_4_and_5():
  """Each example has its own norms, and alpha_i is 1."""
  alpha, sigma, snr = 0.6, 0.8, 0.16
  level = dj.NoiseLevel(*map(jnp.float64, (0.5, alpha, sigma)))
  x = np.random.default_rng(0).standard_normal((3, 4, 2))
  key = jax.random.key(3)
  z = np.asarray(jax.random.normal(key, x.shape))
  score = -(x - alpha * D(x, alpha, sigma)) / sigma**2
  expected = np.empty_like(x)
  for b in range(3):
    ratio = np.linalg.norm(z[b]) / np.linalg.norm(score[b])
    e = 2 * (snr * ratio) ** 2
    expected[b] = x[b] + e * score[b] + np.sqrt(2 * e) * z[b]
  step = jax.jit(lambda x: dj.langevin(snr)(key, x, denoise, level))
  close(step(x), expected)


@transcribes('Score-SDE (Song et al. 2021)', 'Alg. 1-3: predictor-corrector', '`with_corrector`')
def test_the_corrector_comes_before_the_predictor():
  alpha, sigma = vp_grid(3)
  x = jnp.asarray(start(sigma))
  corrected = []

  def corrector(key, x, denoise, level):
    jax.debug.callback(lambda s: corrected.append(float(s)), level.sigma)
    return x + 1.0

  found = run(dj.with_corrector(dj.ddim(), corrector, 2), alpha, sigma, x)
  jax.effects_barrier()
  assert_allclose(corrected, np.repeat(sigma[:-1], 2))
  expected = np.asarray(x)
  for i in range(3):
    expected = expected + 2.0
    x0 = D(expected, alpha[i], sigma[i])
    eps = (expected - alpha[i] * x0) / sigma[i]
    expected = alpha[i + 1] * x0 + sigma[i + 1] * eps
  close(found, expected)


@transcribes(
  'NCSN (Song & Ermon 2019)',
  'Alg. 1: annealed Langevin dynamics',
  '`annealed_langevin`',
)
def test_ncsn_algorithm_1():
  """alpha_i = e sigma_i^2 / sigma_L^2, T steps at each level, then x_0."""
  _, sigma = ve_grid(4)
  T, e = 3, 2e-5
  step_size = e / 0.01**2
  x = expected = start(sigma)

  @jax.jit
  @jax.vmap
  def noise(key):
    keys = jax.random.split(key, 1 + T)[1:]
    return jax.vmap(lambda key: jax.random.normal(key, x.shape))(keys)

  z = np.asarray(noise(jax.random.split(jax.random.key(3), 4)))
  for i in range(4):
    for j in range(T):
      a = step_size * sigma[i] ** 2
      score = (D(expected, 1.0, sigma[i]) - expected) / sigma[i] ** 2
      expected = expected + a / 2 * score + np.sqrt(a) * z[i, j]
  expected = D(expected, 1.0, sigma[3])
  sampler = dj.annealed_langevin(T, step_size)
  close(run(sampler, *ve_grid(4), x), expected)


def lagrange_integral(nodes, j, low, high):
  """Integrates the polynomial that is 1 at node j and 0 at the others."""
  others = np.delete(nodes, j)
  basis = np.poly1d(others, r=True) / np.prod(nodes[j] - others)
  return basis.integ()(high) - basis.integ()(low)


LMS = {order: dj.lms(order) for order in (1, 2, 3, 4)}


@transcribes('k-diffusion (Crowson 2022)', 'linear multistep method', '`lms`')
@pytest.mark.parametrize('order', LMS)
@pytest.mark.parametrize('grid', GRIDS)
def test_linear_multistep_method_of_k_diffusion(grid, order):
  """y_s = y_t + sum_j c_j eps_j in y = x / alpha and r = sigma / alpha."""
  alpha, sigma = GRIDS[grid]()
  r = sigma / alpha
  x = start(sigma)
  y, slopes = x / alpha[0], []
  for i in range(len(r) - 1):
    x0 = D(alpha[i] * y, alpha[i], sigma[i])
    slopes = [(y - x0) / r[i], *slopes][:order]
    nodes = r[i::-1][: len(slopes)]
    for j, slope in enumerate(slopes):
      y = y + lagrange_integral(nodes, j, r[i], r[i + 1]) * slope
  close(run(LMS[order], alpha, sigma, x), alpha[-1] * y)


VE = dj.GeometricVESchedule(1e-6, 80.0)


def dpm_solver_2(x, t, s):
  """DPM-Solver-2, Alg. 1, for alpha = 1: eps at the geometric mean."""
  middle = np.sqrt(t * s)
  u = x + (middle - t) * (x - D(x, 1.0, t)) / t
  return x + (s - t) * (u - D(u, 1.0, middle)) / middle


def dpm_solver_pp_2s(x, t, s):
  """DPM-Solver++(2S), Alg. 1, for alpha = 1."""
  middle = np.sqrt(t * s)
  u = middle / t * x + (1 - middle / t) * D(x, 1.0, t)
  return s / t * x + (1 - s / t) * D(u, 1.0, middle)


def up_and_down(t, s, eta):
  """The level to step down to, and the noise that leads back (DDIM Eq. 16)."""
  up = eta * s / t * np.sqrt(t**2 - s**2)
  return np.sqrt(s**2 - up**2), up


ANCESTRAL = {
  'sample_euler_ancestral': (dj.ddim(), lambda x, t, s: x + (s - t) * (x - D(x, 1.0, t)) / t),
  'sample_dpm_2_ancestral': (dj.dpm_solver_2(VE), dpm_solver_2),
  'sample_dpmpp_2s_ancestral': (dj.dpm_solver_pp_2s(VE), dpm_solver_pp_2s),
}


@transcribes('DPM-Solver (Lu et al. 2022a)', 'Alg. 1: DPM-Solver-2', '`dpm_solver_2`')
@transcribes('k-diffusion (Crowson 2022)', 'ancestral steps of a solver', '`with_ancestral_noise`')
@pytest.mark.parametrize('eta', [slow(0.0), 0.5, slow(1.0)])
@pytest.mark.parametrize('name', ANCESTRAL)
def test_ancestral_samplers_of_k_diffusion(name, eta):
  _, sigma = ve_grid(6)
  x = expected = start(sigma)
  sampler, ode_step = ANCESTRAL[name]
  z = noises(first=True)
  for i in range(5):
    down, up = up_and_down(sigma[i], sigma[i + 1], eta)
    expected = ode_step(expected, sigma[i], down) + up * z[i]
  expected = D(expected, 1.0, sigma[5])
  narrow = dj.GeometricVESchedule(float(sigma[5]), 80.0)
  sampler = dj.with_ancestral_noise(sampler, narrow, eta)
  close(run(sampler, *ve_grid(6), x), expected)


@jax.jit
def path_noise(key, x, t, s):
  """Returns the noise of the step from sigma = t to s, with alpha = 1."""
  level_t, level_s = (dj.NoiseLevel(0.0, jnp.ones(()), a) for a in (t, s))
  return dj.path_noise(key, x, level_s, level_t)


@transcribes(
  'DPM-Solver++ (Lu et al. 2022)',
  'singlestep of the SDE, as in k-diffusion',
  '`dpm_solver_pp_2s_sde`',
)
@pytest.mark.parametrize('eta', [0.5, slow(1.0)])
def test_sample_dpmpp_sde_of_k_diffusion(eta):
  """The half step and the whole step are DDIM's, with the noise of one path."""
  _, sigma = ve_grid(5)
  x, key = start(sigma), jax.random.key(3)
  expected = x
  for t, s in zip(sigma[:-2], sigma[1:-1], strict=True):
    middle = np.sqrt(t * s)
    z_middle, z = path_noise(key, x, t, middle), path_noise(key, x, t, s)
    down, up = up_and_down(t, middle, eta)
    u = down / t * expected + (1 - down / t) * D(expected, 1.0, t)
    u = u + up * z_middle
    down, up = up_and_down(t, s, eta)
    expected = down / t * expected + (1 - down / t) * D(u, 1.0, middle) + up * z
  expected = D(expected, 1.0, sigma[-2])
  found = run(dj.dpm_solver_pp_2s_sde(VE, eta), *ve_grid(5), x)
  close(found, expected)
