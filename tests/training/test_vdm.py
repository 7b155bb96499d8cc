"""The objective `vdm` against a transcription at its own noise and levels.

Each pixel is independently +1 with probability P, else -1: E[x | z] is a tanh.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit as sigmoid

import diffusion_jax as dj
from diffusion_jax.training import vdm
from diffusion_jax.training.objectives import Context, Network
from tests.transcribed import transcribes

P = 0.8
PARAMS = {
  'network': {'bias': np.zeros(())},
  'schedule': {'low': np.array(-7.0), 'span': np.array(14.0)},
}


def line(params, t):
  return params['low'] + params['span'] * t


def learned(params):
  return dj.LearnedSchedule(params['schedule'], line)


def exact(params, z, logsnr, cond, *, key=None):
  """Computes eps_hat of the exact denoiser."""
  logsnr = logsnr.reshape(-1, *[1] * (z.ndim - 1))
  alpha = jnp.sqrt(jax.nn.sigmoid(logsnr))
  sigma = jnp.sqrt(jax.nn.sigmoid(-logsnr))
  log_odds = 0.5 * jnp.log(P / (1.0 - P)) + params['bias']
  x = jnp.tanh(alpha * z / sigma**2 + log_odds)
  return (z - alpha * x) / sigma


def objective(make_schedule=learned, network_fn=exact, num_steps=None, **kw):
  network = Network(network_fn, dj.logsnr_input, **kw)
  return vdm.vdm(network, make_schedule, num_levels=2, num_steps=num_steps)


def batch(n, seed=0):
  white = np.random.default_rng(seed).random((n, 4, 4, 1)) < P
  return {'x': np.where(white, 1.0, -1.0), 'label': np.arange(n) % 3}


# name: (make_schedule, t of gamma = -log SNR, d gamma / dt)
FIRST = np.arctan(np.exp(-3.5))  # the cosine's angle at t = 0
SPAN = np.pi / 2 - 2 * FIRST
PATHS = {
  'line': (learned, lambda g: (g + 7) / 14, lambda t: np.full_like(t, 14.0)),
  'cosine': (
    lambda _: dj.CosineSchedule(-7.0, 7.0),
    lambda g: (np.arctan(np.exp(g / 2)) - FIRST) / SPAN,
    lambda t: 4.0 * SPAN / np.sin(2 * (FIRST + SPAN * t)),
  ),
}


def eps_error(x, eps, gamma):
  """Computes (eps - eps_hat)^2 of the exact model in float64."""
  alpha, sigma = np.sqrt(sigmoid(-gamma)), np.sqrt(sigmoid(gamma))
  z = alpha * x + sigma * eps
  x_hat = np.tanh(alpha * z / sigma**2 + 0.5 * np.log(P / (1 - P)))
  return (alpha / sigma * (x - x_hat)) ** 2


@functools.cache
def program(**kw):
  """Returns a function (key, data) -> the loss, what the network sees, and both noises."""

  @jax.jit
  def run(key, data):
    seen = []

    def network_fn(params, z, logsnr, cond, *, key=None):
      seen.extend((z, logsnr))
      return exact(params, z, logsnr, cond)

    made = objective(network_fn=network_fn, **kw)
    drawn, keys = made.draw(key, data, Context())
    return made.loss(PARAMS, Context(), drawn, keys), seen, drawn

  return run


def drawn(key, n=64, **kw):
  """Returns the metrics of a batch, and per image x, eps and gamma."""
  (loss, (metrics, state)), seen, _ = jax.device_get(program(**kw)(key, batch(n)))
  assert state == () and loss == metrics['loss'].total
  z, gamma = np.asarray(seen[0], float), -np.asarray(seen[1], float)
  x = np.asarray(batch(n)['x'], np.float64)
  level = gamma[:, None, None, None]
  eps = (z - np.sqrt(sigmoid(-level)) * x) / np.sqrt(sigmoid(level))
  return metrics, x, eps, gamma


def in_bits(nats):
  return np.sum(nats, axis=(1, 2, 3)) / 16 / np.log(2.0)


@transcribes(
  'VDM (Kingma et al. 2021)',
  '11: the bound in bits per dimension',
  '`training.vdm.vdm`',
)
@pytest.mark.parametrize('name', PATHS)
def test_the_loss_of_its_draws_literally(name, key):
  """The loss is prior + gamma' / 2 |eps - eps_hat|^2 + 0 (VDM Eq. 11 and 17)."""
  make_schedule, time, slope = PATHS[name]
  metrics, x, eps, gamma = drawn(key, make_schedule=make_schedule)
  t = time(gamma)
  each = 0.5 * slope(t) * in_bits(eps_error(x, eps, gamma[:, None, None, None]))
  assert_allclose(metrics['diffusion'].total, each.mean(), rtol=2e-3)
  prior = -0.5 * np.log2(sigmoid(7.0))
  assert_allclose(metrics['prior'].total, prior, rtol=1e-2)
  assert abs(metrics['reconstruction'].total) < 1e-6
  parts = ('prior', 'diffusion', 'reconstruction')
  total = sum(float(metrics[part].total) for part in parts)
  assert_allclose(metrics['loss'].total, total, rtol=1e-5)
  assert_allclose(metrics['logsnr_0'].total, 7.0, rtol=1e-5)
  assert_allclose(metrics['logsnr_1'].total, -7.0, rtol=1e-5)
  quarters = [metrics[f'loss_quarter_{q}'] for q in range(1, 5)]
  total = sum(float(q.total) for q in quarters) / 64
  assert_allclose(total, metrics['loss'].total, rtol=1e-4)
  # the times are evenly spaced, the noise is standard normal: five errors
  spacing: Any = np.diff(np.sort(t))
  assert_allclose(spacing, 1 / 64, atol=1e-4)
  assert abs(eps.mean()) < 5 / 32
  assert abs(eps.var() - 1.0) < 5 * 2**0.5 / 32


def test_the_two_noises_of_an_image_are_unrelated(key):
  *_, (inputs, eps_0) = program(make_schedule=learned)(key, batch(64))
  r = np.corrcoef(inputs.eps.ravel(), eps_0.ravel())[0, 1]
  assert abs(r) < 5 / np.sqrt(eps_0.size)


@jax.jit
def both(params, key, data):
  """Returns the loss with its metrics, and gradients."""
  loss = lambda params: objective()(params, Context(), key, data)
  return jax.value_and_grad(loss, has_aux=True)(params)


def test_the_prior_and_the_reconstruction_are_closed_forms(key):
  """The prior loss is -log(sigma_1^2) / 2; -log sigmoid can be integrated."""
  params = PARAMS | {'schedule': {'low': np.array(0.5), 'span': np.ones(())}}
  (_, (metrics, _)), _ = jax.device_get(both(params, key, batch(8000)))
  expected = -0.5 * np.log2(sigmoid(1.5))
  assert_allclose(metrics['prior'].total, expected, rtol=1e-4)
  nodes, weights = np.polynomial.hermite_e.hermegauss(60)
  weights = weights / np.sqrt(2 * np.pi)
  alpha, variance = np.sqrt(sigmoid(-0.5)), sigmoid(0.5)
  z = alpha + np.sqrt(variance) * nodes
  bits = np.log2(1.0 + np.exp(-2.0 * z * alpha / variance))
  expected = weights @ bits
  error = np.sqrt((weights @ bits**2 - expected**2) / (8000 * 16))
  found = metrics['reconstruction'].total
  assert abs(found - expected) < 4.5 * error < 0.02 * expected


def test_the_times_and_weights_of_finite_time(key):
  """The steps are 1 / T..1, and the weights follow VDM Eq. 14."""
  T = 8
  metrics, x, eps, gamma = drawn(key, num_steps=T)
  step = (gamma + 7.0) / 14.0 * T
  assert_allclose(step, np.rint(step), atol=1e-4)
  assert (np.bincount(np.rint(step).astype(int))[1:] == 64 // T).all()
  weight = 0.5 * T * np.expm1(14.0 / T)
  each = weight * in_bits(eps_error(x, eps, gamma[:, None, None, None]))
  assert_allclose(metrics['diffusion'].total, each.mean(), rtol=2e-3)
  counts = [metrics[f'loss_quarter_{q}'].count for q in range(1, 5)]
  assert counts == [16] * 4


def test_gradients_reach_both_branches(key):
  """Every gradient is the difference of two losses with the same noise."""
  data = batch(8000)
  narrow = {'low': np.array(-1.0), 'span': np.array(2.0)}
  params = {'network': {'bias': np.array(0.5)}, 'schedule': narrow}
  leaves, tree = jax.tree.flatten(params)
  h = 0.03
  for i, found in enumerate(jax.tree.leaves(both(params, key, data)[1])):
    ends = []
    for by in (h, -h):
      moved = leaves[:i] + [leaves[i] + by] + leaves[i + 1 :]
      ends.append(np.asarray(both(tree.unflatten(moved), key, data)[0][0]))
    difference = (ends[0] - ends[1]) / (2 * h)
    assert_allclose(found, difference, rtol=0.02, atol=1e-4)
