"""One step of MD4, MDLM and ReMDM, transcribed in float64.

MD4: Shi et al. 2024. MDLM: Sahoo et al. 2024. ReMDM: Wang et al. 2025.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from tests.jitted import jitted, level_at

K, D = 4, 6
PROCESS = dj.masking_process(K - 1)


def example():
  """Returns x_0 and a partly masked x_t, [1, D], and logits [1, D, K]."""
  rng = np.random.default_rng(0)
  x0 = rng.integers(0, K - 1, (1, D))
  xt = np.where(np.arange(D) % 2, K - 1, x0)
  return x0, xt, rng.normal(size=(1, D, K))


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
  x0, xt, logits = example()
  x = substituted(logits, xt)
  level_s, level_t = level_at(schedule, s), level_at(schedule, t)
  denoised = jitted(dj.posterior_logits)(jnp.float32(logits), jnp.asarray(xt), PROCESS, level_t)
  p = jitted(dj.p_reverse_states)(denoised, jnp.asarray(xt), PROCESS, level_s, level_t)
  for i in range(D):
    expected = mdlm_reverse(x[0, i], xt[0, i], alpha(s), alpha(t))
    np.testing.assert_allclose(p[0, i], expected, rtol=1e-5, atol=1e-7)
  loss = 0.0
  for i in range(D):
    if xt[0, i] == K - 1:
      loss += slope(t) / (1 - alpha(t)) * np.log(x[0, i, x0[0, i]])
  nll = jitted(dj.state_nll)(denoised, x0, xt == K - 1)
  result = jax.jit(dj.masked_weight(schedule))(level_t) * nll[0]
  np.testing.assert_allclose(result, loss, rtol=1e-5)


def test_remdm_one_step():
  """It draws from q_sigma(z_s | z_t, x) with sigma = eta (1 - alpha_s)."""
  alpha_s, alpha_t, eta = 0.7, 0.45, 0.5
  sigma = eta * (1 - alpha_s)
  _, xt, logits = example()
  x, mask = substituted(logits, xt)[0], np.eye(K)[K - 1]
  stays = (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t)
  unmasked = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
  expected = np.where(
    (xt[0] == K - 1)[:, None], unmasked * x + stays * mask, (1 - sigma) * x + sigma * mask
  )
  n = 40_000
  sampler = dj.remasked(dj.ancestral_states(PROCESS), PROCESS, eta)
  schedule = dj.PolynomialMasking()

  def denoise(xt, level):
    out = jnp.broadcast_to(jnp.float32(logits), (n, D, K))
    return dj.posterior_logits(out, xt, PROCESS, level)

  ends = [level_at(schedule, 1 - alpha) for alpha in (alpha_s, alpha_t)]
  levels = dict(zip(('level_s', 'level_t'), ends, strict=True))
  step = jax.jit(lambda key, x: sampler.step(key, x, (), denoise, **levels)[0])
  xs = step(jax.random.key(0), jnp.broadcast_to(xt, (n, D)))
  found = np.stack([np.mean(np.asarray(xs) == k, axis=0) for k in range(K)], 1)
  error = np.sqrt(expected * (1 - expected) / n)
  assert (np.abs(found - expected) <= 4.5 * error + 1e-7).all()
