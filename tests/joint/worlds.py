"""The exact denoiser of numbers, a label and an angle, at any levels of the three.

Component k has a label, an angle and a Gaussian; together they are every pair of label and
angle. Given x_t, c_t and a_t, noised independently, the weight of a component is
w_k N(x_t; alpha m_k, alpha^2 C_k + sigma^2 I) q(c_t | c_k) q(a_t | a_k).
"""

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax import joint
from diffusion_jax.core.levels import clean_level
from diffusion_jax.core.products import einsum
from diffusion_jax.discrete.equations import NEVER
from diffusion_jax.testing import oracles

WEIGHTS = np.array([0.22, 0.08, 0.25, 0.12, 0.1, 0.23])
LABELS = np.array([0, 0, 1, 1, 2, 2])
AT = np.array([0, 1, 0, 1, 0, 1])
ANGLES = np.array([-2.5, 1.2])  # of a circle of 2 pi: the shorter way is across its cut
MEANS = np.array([[-1.0, -0.5], [1.0, 0.4], [0.3, 1.5], [-0.2, 0.8], [1.2, -1.0], [0.0, 0.0]])
COVS = np.array(
  [
    [[0.3, 0.1], [0.1, 0.2]],
    [[0.1, -0.05], [-0.05, 0.4]],
    [[0.2, 0.0], [0.0, 0.05]],
    [[0.4, 0.2], [0.2, 0.3]],
    [[0.1, 0.0], [0.0, 0.1]],
    [[0.5, -0.3], [-0.3, 0.5]],
  ]
)
K, CLASSES = len(WEIGHTS), 3
NUMBERS = oracles.mixture(WEIGHTS, MEANS, COVS)
CIRCLE = joint.circle()


def sample(seed, count):
  """Draws x [n, 2], labels c [n] and angles a [n] in NumPy."""
  rng = np.random.default_rng(seed)
  k = rng.choice(K, count, p=WEIGHTS)
  root = np.linalg.cholesky(COVS)
  x = MEANS[k] + np.einsum('nij,nj->ni', root[k], rng.standard_normal((count, 2)))
  return {'x': np.float32(x), 'c': LABELS[k].astype(np.int32), 'a': np.float32(ANGLES[AT[k]])}


def log_posterior(xt, level, process, labels=LABELS):
  """Computes log p(component | what is given), [B, K]; names that are not given are left out."""
  log_p = jnp.log(jnp.asarray(WEIGHTS, jnp.float32))[None]
  if 'x' in xt:
    # `class_log_prob` has the weights.
    log_p = NUMBERS.class_log_prob(xt['x'], level['x'])
  if 'c' in xt:
    hot = jax.nn.one_hot(xt['c'], len(process.prior))
    q = process.multiply(hot, clean_level(), level['c'], True)[:, labels]
    log_p += jnp.where(q > 0.0, jnp.log(jnp.where(q > 0.0, q, 1.0)), NEVER)
  if 'a' in xt:
    sigma = jnp.maximum(jnp.broadcast_to(level['a'].sigma, xt['a'].shape), 1e-3)[:, None]
    atoms = jnp.asarray(ANGLES[AT], jnp.float32)[None]
    log_q = CIRCLE.log_density(atoms, xt['a'][:, None], sigma)
    # An Euler step may leave all arcs: the nearest one counts.
    away = -1e3 * (1.0 + CIRCLE.dist(atoms, xt['a'][:, None]) / sigma)
    log_p += jnp.where(jnp.isfinite(log_q), log_q, away)
  return jax.nn.log_softmax(log_p)


def class_logits(log_p, process, labels=LABELS):
  """Returns log p(label | ...) from components [B, K], with the process's states."""
  classes = labels.max() + 1
  p = einsum('bk,kc->bc', jnp.exp(log_p), np.eye(classes, dtype=np.float32)[labels])
  logits = jnp.where(p > 0.0, jnp.log(jnp.where(p > 0.0, p, 1.0)), NEVER)
  return jnp.pad(logits, ((0, 0), (0, len(process.prior) - classes)), constant_values=NEVER)


def denoiser(process, labels=LABELS):
  """Returns the exact denoiser of the variables that it is given."""

  def denoise(xt, level):
    log_p = log_posterior(xt, level, process, labels)
    p, result = jnp.exp(log_p), {}
    if 'x' in xt:
      each = [NUMBERS.component(k).denoise(xt['x'], level['x']).x0 for k in range(K)]
      result['x'] = dj.Prediction(einsum('bk,kbd->bd', p, jnp.stack(each)))
    if 'c' in xt:
      result['c'] = class_logits(log_p, process, labels)
    if 'a' in xt:
      sigma = jnp.broadcast_to(level['a'].sigma, xt['a'].shape)
      towards = CIRCLE.log(xt['a'][:, None], jnp.asarray(ANGLES[AT], jnp.float32)[None])
      mean = einsum('bk,bk->b', p, towards)
      result['a'] = mean / jnp.where(sigma > 0.0, sigma, 1.0)
    return result

  return denoise


def features(x, names):
  """Returns numbers whose means say the law of some variables, [n, F]: cells, and x in each."""
  count = len(x['x'])
  cells = np.ones((count, 1))
  if 'c' in names:
    cells = cells[:, :, None] * np.eye(CLASSES)[np.clip(x['c'], 0, CLASSES - 1)][:, None]
    cells = cells.reshape(count, -1) * (np.asarray(x['c']) < CLASSES)[:, None]
  if 'a' in names:
    near = np.abs(np.angle(np.exp(1j * (np.asarray(x['a'], np.float64)[:, None] - ANGLES)))) < 1e-3
    cells = (cells[:, :, None] * near[:, None]).reshape(count, -1)
  if 'x' not in names:
    return cells
  one, two = np.asarray(x['x'], np.float64).T
  powers = np.stack([np.ones(count), one, two, one * one, two * two, one * two], 1)
  return (cells[:, :, None] * powers[:, None]).reshape(count, -1)


def exact_features(names):
  """Returns the expectations of `features` in closed form, [F]."""
  second = COVS + MEANS[:, :, None] * MEANS[:, None]
  of_x = [np.ones(K), *MEANS.T, second[:, 0, 0], second[:, 1, 1], second[:, 0, 1]]
  cells = np.ones((K, 1))
  if 'c' in names:
    cells = (cells[:, :, None] * np.eye(CLASSES)[LABELS][:, None]).reshape(K, -1)
  if 'a' in names:
    cells = (cells[:, :, None] * np.eye(len(ANGLES))[AT][:, None]).reshape(K, -1)
  if 'x' in names:
    cells = (cells[:, :, None] * np.stack(of_x, 1)[:, None]).reshape(K, -1)
  return WEIGHTS @ cells


def entropy():
  """Returns H(k) + h(x | k) of the component k and x, in nats."""
  h = 0.5 * np.linalg.slogdet(2.0 * np.pi * np.e * COVS)[1]
  return float(-np.sum(WEIGHTS * np.log(WEIGHTS)) + np.sum(WEIGHTS * h))
