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
  rate = optimizer.learning_rate_schedule(1.0, 10, 110)
  np.testing.assert_allclose(rate(10), 1.0, rtol=1e-6)
  np.testing.assert_allclose(rate(60), 0.5, rtol=1e-5)
  np.testing.assert_allclose(rate(110), 0.0, atol=1e-7)


def test_no_warmup_is_constant():
  assert optimizer.learning_rate_schedule(0.3)(0) == 0.3


def test_a_decay_before_the_end_of_warmup_is_refused():
  with pytest.raises(ValueError, match='ends at step 50, before the warm-up'):
    optimizer.learning_rate_schedule(1.0, 100, 50)


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


def test_ema_decays():
  constant = optimizer.ema_decay(0.9999)
  assert constant(jnp.array(0)) == 0.0  # the first update is taken whole
  assert constant(jnp.array(1)) == jnp.float32(0.9999)
  ramp = optimizer.ema_decay(0.999, warmup=True)
  np.testing.assert_allclose(ramp(jnp.array(0)), 0.1)
  np.testing.assert_allclose(ramp(jnp.array(90)), 0.91)
  np.testing.assert_allclose(ramp(jnp.array(10**6)), 0.999)
