"""One step of D3PM, MD4, MDLM, UDLM and ReMDM, transcribed in float64.

D3PM: Austin et al. 2021, with row vectors and explicit matrices Q_1..Q_T.
MD4: Shi et al. 2024. MDLM: Sahoo et al. 2024. ReMDM: Wang et al. 2025.
UDLM: Schiff et al. 2024, which Duo (Sahoo et al. 2025) takes too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from tests.jitted import jitted, level_at
from tests.states import gaussian_matrices
from tests.transcribed import transcribes

K, T, D = 4, 5, 6
BETAS = np.array([0.1, 0.2, 0.3, 0.5, 0.9])


def d3pm_matrix(name, beta):
  """Returns a matrix of appendix A.2; the last state is absorbing."""
  if name == 'uniform':
    return (1 - beta) * np.eye(K) + beta / K * np.ones((K, K))
  if name == 'absorbing':
    return (1 - beta) * np.eye(K) + beta * np.ones((K, 1)) * np.eye(K)[K - 1]
  return gaussian_matrices(K, [beta])[0]


PROCESSES = {
  'uniform': dj.uniform_process(K),
  'absorbing': dj.masking_process(K - 1),
  'gaussian': dj.gaussian_process(K, BETAS),
}
SCHEDULE = dj.AlphaBarSchedule(dj.DiscreteSchedule.from_betas(BETAS))


def example(name, t, seed=0):
  """Returns x_0 and a possible x_t, [1, D], and logits [1, D, K]."""
  rng = np.random.default_rng(seed)
  x0 = rng.integers(0, K - (name == 'absorbing'), (1, D))
  q = np.eye(K)
  for beta in BETAS[:t]:
    q = q @ d3pm_matrix(name, beta)
  xt = np.array([[rng.choice(K, p=q[x]) for x in x0[0]]])
  return x0, xt, rng.normal(size=(1, D, K))


def d3pm_step(name, t, x0, xt, logits):
  """Computes Eq. 3, Eq. 4 and L_{t-1} of one element."""
  q_t = d3pm_matrix(name, BETAS[t - 1])
  before = np.eye(K)
  for beta in BETAS[: t - 1]:
    before = before @ d3pm_matrix(name, beta)
  after = before @ q_t
  x0, xt = np.eye(K)[x0], np.eye(K)[xt]
  posterior = (xt @ q_t.T) * (x0 @ before) / (x0 @ after @ xt)
  p_x0 = np.exp(logits) / np.exp(logits).sum()
  if name == 'absorbing':  # Data are not masked.
    p_x0[-1] = 0.0
  # The sum over x_0 of q(x_{t-1}, x_t | x_0) p(x_0 | x_t), normalised.
  joint = (xt @ q_t.T) * (p_x0 @ before)
  reverse = joint / joint.sum()
  some = posterior > 0
  kl = np.sum(posterior[some] * np.log(posterior[some] / reverse[some]))
  return posterior, reverse, kl


@jax.jit
def library_step(x0, xt, logits, process, level_s, level_t):
  """Returns the posterior, the reverse step and the term of the bound."""
  denoised = dj.posterior_logits(logits, xt, process, level_t)
  return (
    dj.q_posterior_states(x0, xt, process, level_s, level_t),
    dj.p_reverse_states(denoised, xt, process, level_s, level_t),
    dj.transition_kl_states(denoised, x0, xt, process, level_s, level_t),
  )


@transcribes(
  'D3PM (Austin et al. 2021)',
  '3: q(x_t | x_0), posterior; 4: reverse by x_0-parametrisation',
  '`q_states`, `q_posterior_states`, `p_reverse_states`, `posterior_logits`',
)
@pytest.mark.parametrize('t', [1, 3, T])
@pytest.mark.parametrize('name', PROCESSES)
def test_d3pm_eq_3_and_4_and_the_term_of_the_bound(name, t):
  x0, xt, logits = example(name, t)
  process = PROCESSES[name]
  level_s, level_t = (level_at(SCHEDULE, i / T) for i in (t - 1, t))
  if t == 1:
    level_s = dj.NoiseLevel(*np.array([0.0, 1.0, 0.0], np.float32))
  q, p, kl = library_step(x0, xt, np.float32(logits), process, level_s, level_t)
  steps = [d3pm_step(name, t, x0[0, i], xt[0, i], logits[0, i]) for i in range(D)]
  posterior, reverse, terms = map(np.array, zip(*steps, strict=True))
  assert_allclose(q[0], posterior, rtol=1e-4, atol=1e-6)
  assert_allclose(p[0], reverse, rtol=1e-4, atol=1e-6)
  assert_allclose(kl[0], terms.sum(), rtol=1e-4)


def mdlm_reverse(x, xt, alpha_s, alpha_t):
  """Computes MDLM Eq. 7 of one element; x: p(x_0 | x_t), unmasked, [K]."""
  mask = np.eye(K)[K - 1]
  if xt != K - 1:
    return np.eye(K)[xt]
  return ((1 - alpha_s) * mask + (alpha_s - alpha_t) * x) / (1 - alpha_t)


def substituted(logits, xt):
  """Applies MDLM section 3.2.3: zero masking and carry-over unmasking."""
  x = np.exp(logits)
  x[..., K - 1] = 0.0
  x /= x.sum(axis=-1, keepdims=True)
  return np.where((xt == K - 1)[..., None], x, np.eye(K)[xt])


@transcribes('MDLM (Sahoo et al. 2024)', 'reverse step with SUBS', '`posterior_logits`')
@pytest.mark.parametrize('name', ['linear', 'cosine'])
def test_mdlm_eq_7_and_the_loss_of_md4(name):
  """The loss is alpha' / (1 - alpha) times the sum over masked elements."""
  s, t = 0.3, 0.55
  schedule, alpha, slope = {
    'linear': (dj.PolynomialMasking(), lambda t: 1 - t, lambda t: -1.0),
    'cosine': (
      dj.CosineMasking(),
      lambda t: 1 - np.cos(np.pi / 2 * (1 - t)),
      lambda t: -np.pi / 2 * np.sin(np.pi / 2 * (1 - t)),
    ),
  }[name]
  process = PROCESSES['absorbing']
  x0, xt, logits = example('absorbing', 3)
  assert 0 < (xt == K - 1).sum() < D
  x = substituted(logits, xt)
  level_s, level_t = level_at(schedule, s), level_at(schedule, t)
  denoised = jitted(dj.posterior_logits)(jnp.float32(logits), jnp.asarray(xt), process, level_t)
  p = jitted(dj.p_reverse_states)(denoised, jnp.asarray(xt), process, level_s, level_t)
  for i in range(D):
    expected = mdlm_reverse(x[0, i], xt[0, i], alpha(s), alpha(t))
    assert_allclose(p[0, i], expected, rtol=1e-5, atol=1e-7)
  loss = 0.0
  for i in range(D):
    if xt[0, i] == K - 1:
      loss += slope(t) / (1 - alpha(t)) * np.log(x[0, i, x0[0, i]])
  nll = jitted(dj.state_nll)(denoised, x0, xt == K - 1)
  result = jax.jit(dj.masked_weight(schedule))(level_t) * nll[0]
  assert_allclose(result, loss, rtol=1e-5)


def udlm_integrand(x0, z, x_theta, alpha, slope):
  """Computes the integrand of UDLM's bound in continuous time of one element, in nats.

  z: the state of x_t; x_theta: the network's probabilities, [K].
  """
  x = K * alpha * np.eye(K)[x0] + (1 - alpha)
  theta = K * alpha * x_theta + (1 - alpha)
  others = sum(
    x[j] / x[z] * np.log(theta[z] * x[j] / (theta[j] * x[z])) for j in range(K) if j != z
  )
  return slope / (K * alpha) * (K / x[z] - K / theta[z] - others)


@transcribes(
  'UDLM (Schiff et al. 2024)',
  'bound of uniform states in continuous time',
  '`uniform_bound`, `jump_nats`, `uniform_weight`',
)
@pytest.mark.parametrize('t', [1e-3, 0.2, 0.7, 0.999])
def test_udlm_s_bound_and_the_limit_of_d3pm_s(t):
  """A short step of D3PM has the term dt times the integrand; linear schedule."""
  rng = np.random.default_rng(3)
  x0, xt = (x.reshape(1, -1) for x in np.meshgrid(np.arange(K), np.arange(K)))
  logits = rng.normal(size=(*x0.shape, K))
  probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
  alpha, slope = 1 - t, -1.0
  expected = [
    udlm_integrand(a, z, p, alpha, slope) for a, z, p in zip(x0[0], xt[0], probs[0], strict=True)
  ]
  found = uniform_integrand(jnp.float32(logits), x0, xt, level_at(dj.PolynomialMasking(), t))
  assert_allclose(found[0], expected, rtol=2e-4, atol=2e-6)
  # D3PM of one step from t - dt to t: its x_0-parametrisation has the same probabilities.
  dt = 1e-7
  before = (1 - t + dt) * np.eye(K) + (t - dt) / K
  r = (1 - t) / (1 - t + dt)
  q_t = r * np.eye(K) + (1 - r) / K
  for i, (a, z) in enumerate(zip(x0[0], xt[0], strict=True)):
    posterior, reverse = (q_t[:, z] * (x @ before) for x in (np.eye(K)[a], probs[0, i]))
    posterior, reverse = posterior / posterior.sum(), reverse / reverse.sum()
    # Sums of exp(x) - 1 - x keep the digits that small probabilities lose.
    x = np.log(reverse / posterior)
    kl = np.sum(posterior * (np.expm1(x) - x))
    assert_allclose(kl / dt, expected[i], rtol=2e-3, atol=1e-5)


@jax.jit
def uniform_integrand(logits, x0, xt, level):
  """Returns the integrand of each element, of logits without Bayes' rule."""
  process, schedule = PROCESSES['uniform'], dj.PolynomialMasking()
  denoised = dj.posterior_logits(logits, xt, process, level)
  nats = dj.jump_nats(denoised, x0, xt, process, level)
  return dj.uniform_weight(schedule)(level) * nats


def test_udlm_s_bound_of_the_exact_denoiser_is_the_entropy():
  """Every x_0 and x_t of two variables, in float64, at times w^2 of Gauss and Legendre."""
  p = np.random.default_rng(1).dirichlet(np.full(K**2, 0.5)).reshape(K, K)
  nodes, weights = np.polynomial.legendre.leggauss(24)
  total = 0.0
  for w, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
    alpha = 1 - w**2
    q = alpha * np.eye(K) + (1 - alpha) / K
    for joint in (p, p.T):  # An element, and the other one, which alone tells the network of it.
      theta = np.moveaxis(joint @ q, 0, 1)
      theta /= theta.sum(axis=1, keepdims=True)
      for (a, b), mass in np.ndenumerate(joint):
        for z, other in np.ndindex(K, K):
          nats = udlm_integrand(a, z, theta[other], alpha, -1.0)
          total += 2 * w * weight * mass * q[a, z] * q[b, other] * nats
  assert_allclose(total, -np.sum(p * np.log(p)), rtol=1e-5)


def test_the_integrand_with_a_masked_state_is_mdlm_s():
  """Rates into the masked state only: alpha / (1 - alpha) times the nll of masked elements."""
  x0, xt, logits = example('absorbing', 3)
  process, level = PROCESSES['absorbing'], level_at(dj.PolynomialMasking(), 0.55)
  denoised = jitted(dj.posterior_logits)(jnp.float32(logits), jnp.asarray(xt), process, level)
  found = jitted(dj.jump_nats)(denoised, x0, xt, process, level)
  x = substituted(logits, xt)[0]
  nll = [-np.log(x[i, x0[0, i]]) if xt[0, i] == K - 1 else 0.0 for i in range(D)]
  assert_allclose(found[0], np.array(nll) * 0.45 / 0.55, rtol=2e-5, atol=1e-6)


@transcribes('ReMDM (Wang et al. 2025)', 'reverse step with remasking', '`remasked`')
def test_remdm_one_step():
  """A step of ReMDM draws from q_sigma(z_s | z_t, x) with sigma = eta (1 - alpha_s)."""
  alpha_s, alpha_t, eta = 0.7, 0.45, 0.5
  sigma = eta * (1 - alpha_s)
  _, xt, logits = example('absorbing', 3)
  x, mask = substituted(logits, xt)[0], np.eye(K)[K - 1]
  stays = (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t)
  unmasked = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
  expected = np.where(
    (xt[0] == K - 1)[:, None], unmasked * x + stays * mask, (1 - sigma) * x + sigma * mask
  )
  process, n = PROCESSES['absorbing'], 40_000
  sampler = dj.remasked(dj.ancestral_states(process), process, eta)
  schedule = dj.PolynomialMasking()

  def denoise(xt, level):
    out = jnp.broadcast_to(jnp.float32(logits), (n, D, K))
    return dj.posterior_logits(out, xt, process, level)

  ends = [level_at(schedule, 1 - alpha) for alpha in (alpha_s, alpha_t)]
  levels = dict(zip(('level_s', 'level_t'), ends, strict=True))
  step = jax.jit(lambda key, x: sampler.step(key, x, (), denoise, **levels)[0])
  xs = step(jax.random.key(0), jnp.broadcast_to(xt, (n, D)))
  found = np.stack([np.mean(np.asarray(xs) == k, axis=0) for k in range(K)], 1)
  error = np.sqrt(expected * (1 - expected) / n)
  assert (np.abs(found - expected) <= 4.5 * error + 1e-7).all()
