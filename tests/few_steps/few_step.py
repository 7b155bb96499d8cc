"""Networks for the tests of few-step objectives.

One has derivatives by hand; linear ones can represent the exact maps of N(0,
C^2 I).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

import diffusion_jax as dj

C = 0.7  # deviation of the Gaussian data


def batch(n=12):
  rng = np.random.default_rng(1)
  return {'x': rng.normal(size=(n, 2)), 'label': rng.normal(size=n)}


def column(a):
  return np.asarray(a)[:, None]


class Arc(NamedTuple):
  """Is the path alpha = cos(pi t / 2), sigma = sin(pi t / 2)."""

  def __call__(self, t):
    angle = 0.5 * jnp.pi * jnp.asarray(t)
    return dj.NoiseLevel(jnp.asarray(t), jnp.cos(angle), jnp.sin(angle))


def network(params, x, noise, cond, *, key=None):
  """Computes w0 sin(x) + w1 x noise + w2 elapsed^2 + w3 label + w4 scale."""
  w, cond = params['w'], cond or {}
  zero = jnp.zeros_like(noise)
  elapsed = cond.get('elapsed', zero)
  label = jnp.where(cond.get('drop', False), 0.0, cond.get('label', zero))
  rest = w[2] * elapsed**2 + w[3] * label + w[4] * cond.get('scale', zero)
  rest += w[4] * cond.get('guidance_scale', zero)
  return w[0] * jnp.sin(x) + w[1] * x * noise[:, None] + rest[:, None]


class Literal:
  """Computes the network and its derivative along (dx, dnoise, delapsed)."""

  def __init__(self, w):
    self.w = np.asarray(w, np.float64)

  def __call__(self, x, noise, elapsed=0.0, label=0.0, scale=0.0):
    w = self.w
    rest = w[2] * elapsed**2 + w[3] * label + w[4] * scale
    return w[0] * np.sin(x) + ((w[1] * noise) * x.T + rest).T

  def slope(self, x, noise, elapsed, dx, dnoise, delapsed):
    w = self.w
    by_x = w[0] * np.cos(x) * dx + w[1] * (noise * dx.T).T
    return by_x + (w[1] * dnoise * x.T + 2 * w[2] * elapsed * delapsed).T


WEIGHTS = np.array([0.7, -0.4, 0.9, 0.3, -0.2])


def evaluate(objective, key, context):
  """Returns (loss, its gradient), the metrics and the draws of `batch()`.

  Eagerly: operations of one shape compile once for all objectives.
  """

  def run(params, key, batch, context):
    inputs, keys = objective.draw(key, batch, context)
    of = jax.value_and_grad(objective.loss, has_aux=True)
    (loss, (metrics, _)), grads = of(params, context, inputs, keys)
    return (loss, grads['network']['w']), metrics, inputs

  params = {'network': {'w': WEIGHTS}}
  return jax.device_get(run(params, key, batch(), context))


def check_literally(found, literal, rtol=1e-9):
  """Compares them with literal(net, fixed), where `fixed` has no gradient."""
  fixed, step = Literal(WEIGHTS), 1e-5
  loss, gradient = found
  assert_allclose(loss, literal(fixed, fixed), rtol=rtol)

  def slope(direction):
    ends = (WEIGHTS + sign * step * direction for sign in (1.0, -1.0))
    above, below = (literal(Literal(w), fixed) for w in ends)
    return (above - below) / (2.0 * step)

  slopes = [slope(direction) for direction in np.eye(len(WEIGHTS))]
  assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-8)


def exact_consistency(params, x, noise, cond, *, key=None):
  """Computes F, exactly sigma / (sqrt(..) + C) x for sigma_data = C.

  sigma_min is 0, and noise is log(sigma) / 4.
  """
  w, sigma = params['w'], jnp.exp(4.0 * noise)
  k = sigma / (jnp.sqrt(sigma**2 + C**2) + C)
  return (w[0] * k + w[1] + w[2] * noise)[:, None] * x


def exact_trigflow(params, x, noise, cond, *, key=None):
  """Computes F, exactly -tan(a / 2) x for the angle a = noise: f = x."""
  w = params['w']
  k = -jnp.tan(0.5 * noise)
  return (w[0] * k + w[1] + w[2] * noise)[:, None] * x


def check_exact(objective, context, draws=64, batch=512):
  """Checks that the gradient vanishes at the exact network, and only there.

  Its mean is within 5 standard errors for each parameter at w = (1, 0, 0, 0),
  and beyond 20 for a parameter at w = (1.25, 0, 0, 0).
  """

  @jax.jit
  def gradients(w):
    def gradient(key):
      data_key, key = jax.random.split(key)
      data = {'x': C * jax.random.normal(data_key, (batch, 2))}
      loss = lambda w: objective({'network': {'w': w}}, context, key, data)[0]
      return jax.grad(loss)(w)

    return jax.vmap(gradient)(jax.random.split(jax.random.key(0), draws))

  def scores(first):
    grads = np.asarray(gradients(np.float32([first, 0, 0, 0])), np.float64)
    error = grads.std(0, ddof=1) / np.sqrt(draws)
    return np.abs(grads.mean(0)) / np.maximum(error, 1e-6)

  assert (scores(1.0) < 5.0).all()
  assert scores(1.25).max() > 20.0
