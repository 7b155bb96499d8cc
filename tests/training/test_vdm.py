"""The objective `vdm`: the bound of an exact model is the entropy of the data.

Each pixel is +1 with probability P and else -1, alone: E[x | z] is a tanh. In
continuous time, with ends wide enough, no part of the bound is lost.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.training import objectives
from diffusion_jax.training.conditions import tell

P = 0.8
ENTROPY = -(P * np.log2(P) + (1 - P) * np.log2(1 - P))  # bits
PARAMS = {
  'network': {'bias': jnp.zeros(())},
  'schedule': {'low': jnp.array(-7.0), 'span': jnp.array(14.0)},
}


def line(params, t):
  return params['low'] + params['span'] * t


def learned(params):
  return dj.LearnedSchedule(params['schedule'], line)


def exact(params, z, logsnr, cond, *, key=None):
  """eps_hat of the exact denoiser."""
  logsnr = logsnr.reshape(-1, *[1] * (z.ndim - 1))
  alpha = jnp.sqrt(jax.nn.sigmoid(logsnr))
  sigma = jnp.sqrt(jax.nn.sigmoid(-logsnr))
  log_odds = 0.5 * jnp.log(P / (1.0 - P)) + params['bias']
  x = jnp.tanh(alpha * z / sigma**2 + log_odds)
  return (z - alpha * x) / sigma


def objective(make_schedule=learned, network_fn=exact, **kw):
  options = dict(num_levels=2, noise_input=dj.logsnr_input)
  return objectives.vdm(network_fn, make_schedule, **options | kw)


def batch(n, seed=0):
  key = jax.random.key(seed)
  image = jax.random.bernoulli(key, P, (n, 4, 4, 1)).astype(float)
  return {'image': 2.0 * image - 1.0, 'label': jnp.arange(n) % 3}


def bent(t):
  gamma = lambda _, t: -7.0 + 14.0 * t**2
  return dj.LearnedSchedule((), gamma)(t)


@pytest.mark.parametrize(
  'make_schedule',
  [learned, lambda _: bent, lambda _: dj.CosineSchedule(-7.0, 7.0)],
  ids=['line', 'bent', 'cosine'],
)
def test_the_bound_of_the_exact_model_is_the_entropy(make_schedule, key):
  """Whatever the schedule between its ends (VDM, section 5.1)."""
  loss, (metrics, state) = jax.jit(objective(make_schedule))(
    PARAMS, (), key, batch(20_000)
  )
  assert state == ()
  np.testing.assert_allclose(loss, ENTROPY, rtol=0.015)
  parts = ('prior', 'diffusion', 'reconstruction')
  total = sum(float(metrics[name].total) for name in parts)
  np.testing.assert_allclose(metrics['loss'].total, total, rtol=1e-5)
  np.testing.assert_allclose(metrics['logsnr_0'].total, 7.0, rtol=1e-5)
  np.testing.assert_allclose(metrics['logsnr_1'].total, -7.0, rtol=1e-5)
  quarters = [metrics[f'loss_quarter_{q}'] for q in range(1, 5)]
  total = sum(float(q.total) for q in quarters) / 20_000
  np.testing.assert_allclose(total, metrics['diffusion'].total, rtol=1e-4)


def test_the_prior_and_the_reconstruction_are_closed_forms(key):
  """x^2 = 1: the prior loss is -log(sigma_1^2) / 2 whatever x is; a z_0 of
  sigma_0 = 0.6 lets -log sigmoid(2 x z alpha / sigma^2) be integrated."""
  params = PARAMS | {'schedule': {'low': jnp.array(0.5), 'span': jnp.ones(())}}
  _, (metrics, _) = jax.jit(objective())(params, (), key, batch(20_000))
  sigmoid = lambda x: 1.0 / (1.0 + np.exp(-x))
  expected = -0.5 * np.log2(sigmoid(1.5))
  np.testing.assert_allclose(metrics['prior'].total, expected, rtol=1e-4)
  nodes, weights = np.polynomial.hermite_e.hermegauss(60)
  alpha, variance = np.sqrt(sigmoid(-0.5)), sigmoid(0.5)
  z = alpha + np.sqrt(variance) * nodes
  nats = np.log1p(np.exp(-2.0 * z * alpha / variance))
  expected = weights @ nats / np.sqrt(2 * np.pi) / np.log(2.0)
  found = metrics['reconstruction'].total
  np.testing.assert_allclose(found, expected, rtol=0.01)


def test_in_finite_time_the_bound_is_looser(key):
  """And its times are the steps 1 / T..1."""
  few, many = (
    jax.jit(objective(num_steps=T))(PARAMS, (), key, batch(20_000))
    for T in (8, 64)
  )
  assert ENTROPY < many[0] - 0.01 < few[0] - 0.1
  counts = [few[1][0][f'loss_quarter_{q}'].count for q in range(1, 5)]
  assert counts == [5000] * 4


@pytest.mark.parametrize('kind', ['x0', 'v'])
def test_the_network_may_predict_anything(kind, key):
  """The same network, its output turned into x0 or v: the same loss."""

  def turned(params, z, logsnr, cond, *, key=None):
    level = dj.NoiseLevel(
      logsnr,
      jnp.sqrt(jax.nn.sigmoid(logsnr)),
      jnp.sqrt(jax.nn.sigmoid(-logsnr)),
    )
    eps = exact(params, z, logsnr, cond)
    return dj.target(kind, dj.to_x0('eps', eps, z, level), eps, level)

  expected = jax.jit(objective())(PARAMS, (), key, batch(64))[0]
  turned = objective(network_fn=turned, parametrization=kind)
  found = jax.jit(turned)(PARAMS, (), key, batch(64))[0]
  np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_gradients_reach_both_branches(key):
  """No network is better than the exact one; every gradient is the difference
  of two losses with the same noise."""
  loss = jax.jit(lambda p: objective()(p, (), key, batch(20_000))[0])
  grad = jax.jit(jax.grad(loss))
  assert abs(grad(PARAMS)['network']['bias']) < 0.01
  narrow = {'low': jnp.array(-1.0), 'span': jnp.array(2.0)}
  params = {'network': {'bias': jnp.array(0.5)}, 'schedule': narrow}
  leaves, tree = jax.tree.flatten(params)
  h = 0.03
  for i, found in enumerate(jax.tree.leaves(grad(params))):
    ends = []
    for by in (h, -h):
      moved = leaves[:i] + [leaves[i] + by] + leaves[i + 1 :]
      ends.append(loss(tree.unflatten(moved)))
    difference = (ends[0] - ends[1]) / (2 * h)
    np.testing.assert_allclose(found, difference, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize('num_steps', [None, 10])
def test_parts_of_a_batch_have_the_noise_of_the_whole(num_steps, key):
  loss = jax.jit(objective(num_steps=num_steps), static_argnames='part')
  whole, (metrics, _) = loss(PARAMS, (), key, batch(64))
  parts = [loss(PARAMS, (), key, batch(64), part=(i, 4)) for i in range(4)]
  np.testing.assert_allclose(np.mean([p[0] for p in parts]), whole, rtol=1e-5)
  for name, mean in metrics.items():
    total, count = (
      sum(float(getattr(p[1][0][name], field)) for p in parts)
      for field in ('total', 'count')
    )
    expected = mean.total / mean.count
    np.testing.assert_allclose(total / count, expected, rtol=1e-4, atol=1e-7)


def test_labels_and_dropout_reach_the_network(key):
  seen = {}

  def network_fn(params, x, noise, cond, *, key=None):
    seen.update(cond, key=key)
    return exact(params, x, noise, cond)

  make = functools.partial(objective, network_fn=network_fn)
  make()(PARAMS, (), key, batch(8))
  assert 'label' not in seen and seen['key'] is not None
  make(told=tell(dropout=0.5))(PARAMS, (), key, batch(64))
  np.testing.assert_array_equal(seen['label'], batch(64)['label'])
  assert 16 < seen['drop'].sum() < 48
