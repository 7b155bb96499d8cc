from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.training import optimizer


def test_warmup_then_constant_is_ho_et_als():
  """lr * min(step / 5000, 1)."""
  rate = optimizer.learning_rate_schedule(2e-4, 5000)
  for step in (0, 1, 2500, 5000, 100_000):
    np.testing.assert_allclose(
      rate(step), 2e-4 * min(step / 5000, 1), rtol=1e-3
    )


def test_cosine_reaches_zero_at_its_end():
  rate = optimizer.learning_rate_schedule(1.0, 10, 'cosine', 110)
  np.testing.assert_allclose(rate(10), 1.0, rtol=1e-6)
  np.testing.assert_allclose(rate(60), 0.5, rtol=1e-5)
  np.testing.assert_allclose(rate(110), 0.0, atol=1e-7)


def test_no_warmup_is_constant():
  assert optimizer.learning_rate_schedule(0.3)(0) == 0.3


def test_a_decay_before_the_end_of_warmup_is_refused():
  with pytest.raises(ValueError, match='ends at step 50, before the warm-up'):
    optimizer.learning_rate_schedule(1.0, 100, 'cosine', 50)


def test_a_line_reaches_zero_at_its_end():
  rate = optimizer.learning_rate_schedule(2.0, 0, 'linear', 100)
  found = np.array([rate(i) for i in (0, 25, 100, 150)])
  np.testing.assert_allclose(found, [2.0, 1.5, 0.0, 0.0], atol=1e-6)


def test_inverse_square_root_is_edm2s():
  """ref * min(t / warmup, 1) / sqrt(max(t / t_ref, 1))."""
  rate = optimizer.learning_rate_schedule(0.01, 50, 'inverse_sqrt', 200)
  for t in (0, 10, 50, 200, 800, 20_000):
    expected = 0.01 * min(t / 50, 1) / np.sqrt(max(t / 200, 1))
    np.testing.assert_allclose(rate(t), expected, rtol=1e-5)
  # the peak may already be past when the warm-up ends
  early = optimizer.learning_rate_schedule(0.01, 400, 'inverse_sqrt', 100)
  np.testing.assert_allclose(early(1600), 0.01 / 4, rtol=1e-5)


def test_unknown_and_incomplete_decays_are_refused():
  with pytest.raises(ValueError, match="'cos' is not one of constant, linear"):
    optimizer.learning_rate_schedule(1.0, 0, 'cos', 10)
  with pytest.raises(ValueError, match="'cosine' needs its number of steps"):
    optimizer.learning_rate_schedule(1.0, 0, 'cosine')


def test_weight_decay_shrinks_kernels_only():
  """AdamW (Loshchilov & Hutter 2019, Alg. 2) without a gradient."""
  layer = {'kernel': jnp.ones((2, 3)), 'bias': jnp.ones(3)}
  norm = {'scale': jnp.ones(3), 'bias': jnp.ones(3)}
  params = {'network': {'conv': layer, 'norm': norm, 'e': {'embedding': layer}}}
  adam = optimizer.make_optimizer(0.1, clip_norm=1.0, weight_decay=0.5)
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, _ = adam.update(zero, adam.init(params), params)
  for path, update in jax.tree_util.tree_leaves_with_path(updates):
    expected = -0.1 * 0.5 if path[-1].key == 'kernel' else 0.0
    np.testing.assert_allclose(update, expected)


@pytest.mark.parametrize(
  'mask, still',
  [
    (optimizer.not_biases, {'bias', 'frequencies'}),
    (optimizer.all_parameters, {'frequencies'}),
  ],
)
def test_what_other_masks_leave_alone(mask, still):
  """Fixed random frequencies, which no gradient reaches, stay as drawn."""
  names = 'kernel', 'bias', 'scale', 'embedding', 'places', 'frequencies'
  params = {'network': {'layer': {name: jnp.ones(2) for name in names}}}
  adam = optimizer.make_optimizer(0.1, weight_decay=0.5, weight_decay_mask=mask)
  zero = jax.tree.map(jnp.zeros_like, params)
  updates: Any = adam.update(zero, adam.init(params), params)[0]
  for name, update in updates['network']['layer'].items():
    np.testing.assert_allclose(update, 0.0 if name in still else -0.1 * 0.5)


@pytest.mark.parametrize('clip_norm', [0.0, 0.1])
def test_adam_with_clipping_literally(clip_norm):
  """Kingma & Ba 2015, Alg. 1, in float64, gradients clipped by global norm."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal(4)
  adam = optimizer.make_optimizer(0.01, clip_norm=clip_norm)
  params = {
    'a': jnp.asarray(x[:2], jnp.float32),
    'b': jnp.asarray(x[2:], jnp.float32),
  }
  state = adam.init(params)
  m, v = np.zeros(4), np.zeros(4)
  for t in range(1, 5):
    g = rng.standard_normal(4)
    grads = {
      'a': jnp.asarray(g[:2], jnp.float32),
      'b': jnp.asarray(g[2:], jnp.float32),
    }
    updates, state = adam.update(grads, state, params)
    params = jax.tree.map(jnp.add, params, updates)
    if clip_norm:
      g = g * min(1.0, clip_norm / np.sqrt(g @ g))
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    x = x - 0.01 * step
  found = np.concatenate([params['a'], params['b']])
  np.testing.assert_allclose(found, x, rtol=1e-5)


def test_edm_repairs_gradients_before_all_else():
  """NaN -> 0, inf -> 1e5; then clipping and Adam, as if they had been so."""
  broken = {'a': jnp.array([1.0, jnp.nan]), 'b': jnp.array([jnp.inf, -jnp.inf])}
  repaired = {'a': jnp.array([1.0, 0.0]), 'b': jnp.array([1e5, -1e5])}
  jax.tree.map(
    np.testing.assert_array_equal, optimizer.repair(broken), repaired
  )
  for clip_norm in (0.0, 0.5):
    safe = optimizer.make_optimizer(
      0.01, clip_norm=clip_norm, repair_gradients=True
    )
    plain = optimizer.make_optimizer(0.01, clip_norm=clip_norm)
    found, _ = safe.update(broken, safe.init(broken))
    expected, _ = plain.update(repaired, plain.init(repaired))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    unsafe: Any = plain.update(broken, plain.init(broken))[0]
    assert not np.isfinite(unsafe['a']).all()


def test_the_half_life_of_edm():
  """1 - 0.5^(batch / min(half-life, 0.05 images seen)), in float64."""
  half_life, batch = 500_000, 512
  rate = optimizer.ema_half_life(half_life, batch, rampup=0.05)
  for step in (0, 1, 10, 5000, 19_531, 19_532, 390_625):
    seen = step * batch  # before the update
    beta = 0.5 ** (batch / max(min(half_life, 0.05 * seen), 1e-8))
    np.testing.assert_allclose(rate(jnp.array(step)), 1 - beta, rtol=1e-6)
  constant = optimizer.ema_half_life(half_life, batch)
  expected = 1 - 0.5 ** (512 / 500_000)
  np.testing.assert_allclose(constant(jnp.array(5)), expected, rtol=1e-6)
  assert constant(jnp.array(0)) == 1.0  # as `ema_decay`
  # after as many images half of what the average was is left
  steps = np.arange(1, 1 + 500_000 // 500)
  kept = np.prod([1 - optimizer.ema_half_life(5e5, 500)(i) for i in steps[:4]])
  np.testing.assert_allclose(kept ** (len(steps) / 4), 0.5, rtol=1e-4)
  with pytest.raises(ValueError, match='half-life of -1 images'):
    optimizer.ema_half_life(-1, batch)


def test_edms_ramp_of_the_learning_rate():
  """lr * min(images / 10M, 1), images counted before the update."""
  rate = optimizer.learning_rate_schedule(1e-3, 19_531)
  for step in (0, 1, 1000, 19_531, 300_000):
    expected = 1e-3 * min(step * 512 / 10e6, 1)
    np.testing.assert_allclose(rate(step), expected, rtol=5e-5, atol=1e-10)


def test_ema_decays():
  constant = optimizer.ema_decay(0.9999)
  assert constant(jnp.array(0)) == 1.0  # the first update is taken whole
  assert constant(jnp.array(1)) == jnp.float32(1e-4)
  ramp = optimizer.ema_decay(0.999, warmup=True)
  np.testing.assert_allclose(ramp(jnp.array(0)), 0.9)
  np.testing.assert_allclose(ramp(jnp.array(90)), 0.09)
  np.testing.assert_allclose(ramp(jnp.array(10**6)), 0.001)


def run(make, x, grads, name='a'):
  params = {name: jnp.asarray(x, jnp.float32)}
  state = make.init(params)
  for g in grads:
    g = {name: jnp.asarray(g, jnp.float32)}
    updates, state = make.update(g, state, params)
    params = jax.tree.map(jnp.add, params, updates)
  return params[name]


@pytest.mark.parametrize('weight_decay', [0.0, 0.1])
def test_radam_literally(weight_decay):
  """Liu et al. 2020, Alg. 2, in float64, whose threshold is 5 in code."""
  rng = np.random.default_rng(0)
  x, grads = rng.standard_normal(4), rng.standard_normal((9, 4))
  radam = optimizer.make_optimizer(
    0.01, kind='radam', b2=0.9, weight_decay=weight_decay
  )
  found = run(radam, x, grads, 'kernel')
  m, v, longest = np.zeros(4), np.zeros(4), 2 / (1 - 0.9) - 1
  for t, g in enumerate(grads, 1):
    m, v = 0.9 * m + 0.1 * g, 0.9 * v + 0.1 * g**2
    step = m / (1 - 0.9**t)
    rho = longest - 2 * t * 0.9**t / (1 - 0.9**t)
    if rho >= 5:
      r = (rho - 4) * (rho - 2) * longest
      r /= (longest - 4) * (longest - 2) * rho
      step = np.sqrt(r) * step / (np.sqrt(v / (1 - 0.9**t)) + 1e-8)
    x = x - 0.01 * (step + weight_decay * x)
  assert rho >= 5  # both branches were taken
  np.testing.assert_allclose(found, x, rtol=2e-5, atol=1e-6)


def test_muon_makes_every_matrix_orthogonal():
  """The blocks of a scanned kernel one by one; convolutions as matrices."""
  rng = np.random.default_rng(0)
  shapes = {'one': (6, 4), 'stack': (3, 6, 4), 'conv': (3, 3, 2, 5)}
  params: Any = {
    name: {'kernel': np.zeros(shape), 'bias': np.zeros(4)}
    for name, shape in shapes.items()
  }
  grads: Any = jax.tree.map(
    lambda p: np.float32(rng.normal(size=p.shape)), params
  )
  muon = optimizer.make_optimizer(0.1, kind='muon')
  update = jax.jit(lambda g, p: muon.update(g, muon.init(p), p)[0])
  updates: Any = jax.device_get(update(grads, params))
  matrices = {
    'one': updates['one']['kernel'][None],
    'stack': updates['stack']['kernel'],
    'conv': updates['conv']['kernel'].reshape(1, 18, 5),
  }
  for name, stack in matrices.items():
    gradients = np.reshape(grads[name]['kernel'], stack.shape)
    for update, g in zip(stack, gradients, strict=True):
      u, s, v = np.linalg.svd(np.float64(g), full_matrices=False)
      expected = -0.1 * 0.2 * np.sqrt(max(g.shape)) * (u @ v)
      cosine = np.sum(update * expected)
      cosine /= np.linalg.norm(update) * np.linalg.norm(expected)
      assert cosine > 0.95  # Newton-Schulz leaves singular values of 0.7 to 1.2
      ratio = np.linalg.norm(update) / np.linalg.norm(expected)
      assert 0.7 < ratio < 1.25
  # what is no kernel is Adam's: steps of the learning rate at first
  bias = np.abs(updates['one']['bias'])
  assert (0.05 < bias).all() and (bias < 0.25).all()


def test_a_kind_has_what_it_can():
  with pytest.raises(ValueError, match="'adam' has no weight decay, and weig"):
    optimizer.make_optimizer(0.1, kind='adam', weight_decay=0.1)
  with pytest.raises(ValueError, match="'muon' decays kernels alone"):
    optimizer.make_optimizer(
      0.1,
      kind='muon',
      weight_decay=0.1,
      weight_decay_mask=optimizer.all_parameters,
    )
  with pytest.raises(ValueError, match="'lion' is not one of adam, adamw, rad"):
    optimizer.make_optimizer(0.1, kind='lion')
  layer = {'kernel': jnp.ones((2, 3)), 'bias': jnp.ones(3)}
  muon = optimizer.make_optimizer(0.1, kind='muon', weight_decay=0.5)
  zero = jax.tree.map(jnp.zeros_like, layer)
  update = jax.jit(lambda g, p: muon.update(g, muon.init(p), p)[0])
  found: Any = update(zero, layer)
  np.testing.assert_allclose(found['kernel'], -0.05, rtol=1e-5)
  np.testing.assert_allclose(found['bias'], 0.0)
