"""Guidance on Gaussian classes, where everything has a closed form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.core.parametrization import Parametrization
from diffusion_jax.testing import oracles
from tests.jitted import level_at
from tests.rows import normal
from tests.transcribed import transcribes

LEVEL = level_at(dj.LinearVPSchedule(), 0.5)
SCHEDULE = dj.LinearVPSchedule()
CLASSES = oracles.mixture(
  [0.3, 0.5, 0.2],
  [[-1.0, 0.5], [1.0, 0.0], [0.2, -0.8]],
  [[[0.2, 0.05], [0.05, 0.1]], [[0.1, 0.0], [0.0, 0.3]], [[0.15, -0.05], [-0.05, 0.1]]],
)
LEVELS = [
  level_at(SCHEDULE, 0.05),
  level_at(SCHEDULE, np.float32([0.2, 0.5, 0.8, 1.0])),
  level_at(dj.KarrasSchedule(), 0.6),
]
X = jnp.array([[-1.2, 0.3], [0.4, 0.1], [2.0, -1.0], [0.0, 0.7]])


def of_class(k):
  return CLASSES.component(k).denoise


def log_prob_of(k):
  return lambda x, level: CLASSES.class_log_prob(x, level)[:, k]


@jax.jit
def scores_and_truth(level, scale):
  pair = dj.paired(of_class(1), CLASSES.denoise)
  free = dj.classifier_free(pair, scale)(X, level)
  guided = dj.classifier_guided(CLASSES.denoise, log_prob_of(1), scale)
  by_classifier = guided(X, level)

  def log_tilted(x):
    one = CLASSES.component(1).log_prob(x, level)
    return jnp.sum(scale * one + (1.0 - scale) * CLASSES.log_prob(x, level))

  found = [dj.score_from_x0(estimate.x0, X, level) for estimate in (free, by_classifier)]
  return found, jax.grad(log_tilted)(X)


@transcribes(
  'Classifier guidance (Dhariwal & Nichol 2021)',
  'both kinds have the score of the tilted density',
  '`classifier_guided`, `classifier_free`',
)
@pytest.mark.parametrize('scale', [0.0, 1.0, 2.5, [0.0, 1.0, 2.0, 4.0]])
@pytest.mark.parametrize('level', LEVELS)
def test_guidance_has_the_score_of_the_tilted_density(level, scale):
  """Guidance gives grad log [p(x_t) p(y | x_t)^w], with and without a classifier."""
  found, truth = scores_and_truth(level, np.resize(np.float32(scale), 4))
  for score in found:
    assert_allclose(score, truth, rtol=1e-4, atol=1e-4)


def images(seed, scale=1.0):
  rng = np.random.default_rng(seed)
  return scale * rng.standard_normal((3, 4, 4, 2))


def fixed(x0, var_frac=None):
  x0 = jnp.asarray(x0, jnp.float32)
  return lambda xt, level: dj.Prediction(x0, var_frac)


@transcribes('Lin et al. 2023', 'section 3.4: guidance rescaled', '`classifier_free(…, rescale=…)`')
@pytest.mark.parametrize('output', ['x0', 'eps', 'v', 'flow', 'edm'])
def test_rescale_literally(output):
  """The rescaling is Lin et al. 2023, section 3.4, in float64, image by image."""
  pos, neg, w, phi = images(0), images(1) + 0.3, 7.5, 0.7
  cfg = neg + w * (pos - neg)
  expected = np.empty_like(cfg)
  for i in range(3):
    rescaled = cfg[i] * np.std(pos[i]) / np.std(cfg[i])
    expected[i] = phi * rescaled + (1 - phi) * cfg[i]
  assert np.abs(expected - cfg).max() > 1.0
  x = np.float32(images(2))

  network = dj.Network(
    lambda params, x, noise, cond, *, key=None: cond['y'] * params,
    dj.logsnr_input,
    parametrization=output,
  )

  @jax.jit
  def guide(pos, neg):
    own = Parametrization(output)
    cond, uncond = (network.denoiser(1.0, {'y': y}) for y in (pos, neg))
    pair = dj.paired(cond, uncond, own)
    x0 = dj.classifier_free(pair, w, phi)(x, LEVEL).x0
    eps = dj.eps_from_x0(x0, x, LEVEL)
    made: Any = dj.make_paired_denoiser(network, 1.0, {'y': pos})
    return dj.target(output, x0, eps, LEVEL), made.output == own

  found, same = guide(np.float32(pos), np.float32(neg))
  assert same
  assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('shape', [(3, 4, 4, 2), (3, 1)])
@pytest.mark.parametrize('value', [0.0, 0.8, -1.0, 1e3])
def test_a_flat_output_is_not_rescaled(shape, value):
  """The deviation of a flat output is rounding, and 0 for arrays of one number."""
  pos, neg = np.full((2, *shape), value)
  neg = 0.75 * neg
  denoise = dj.classifier_free(dj.paired(fixed(pos), fixed(neg)), 2.0, 0.7)
  found = jax.jit(denoise)(jnp.zeros(shape), LEVEL)
  assert_allclose(found.x0, 2.0 * pos - neg, rtol=1e-6)


@transcribes(
  'Kynkäänniemi et al. 2024',
  'guidance in an interval of σ/α',
  '`classifier_free(…, interval=…)`',
)
def test_guidance_in_an_interval_only():
  """The levels have sigma / alpha = 0.1, 0.5, 2, and inf without signal."""
  alpha = jnp.array([1.0, 2.0, 0.5, 0.0])
  level = dj.NoiseLevel(alpha, alpha, jnp.array([0.1, 1.0, 1.0, 1.0]))
  pos, neg = jnp.ones((4, 2)), jnp.zeros((4, 2))
  pair = dj.paired(fixed(pos, 0.3 * pos), fixed(neg, 0.9 * pos))
  for interval, expected in [
    ((0.0, float('inf')), [3, 3, 3, 3]),
    ((0.5, 2.0), [1, 3, 3, 1]),
    ((0.2, float('inf')), [1, 3, 3, 3]),
    ((0.0, 0.4), [3, 1, 1, 1]),
  ]:
    guided = dj.classifier_free(pair, 3.0, interval=interval)
    found: Any = jax.jit(guided)(pos, level)
    assert_array_equal(found.x0[:, 0], expected)
    assert_array_equal(found.var_frac, 0.3 * pos)  # conditional


def test_guidance_of_the_first_channels_only():
  """DiT's release guides three of four channels, and not the variance."""
  pos, neg = images(0), images(1)
  pair = dj.paired(fixed(pos, 0.3 * pos), fixed(neg, 0.9 * pos))
  guided = dj.classifier_free(pair, 4.0, channels=1)
  found: Any = jax.jit(guided)(jnp.zeros(pos.shape), LEVEL)
  expected = np.copy(pos)
  expected[..., 0] = neg[..., 0] + 4.0 * (pos - neg)[..., 0]
  assert_allclose(found.x0, expected, rtol=1e-5, atol=1e-5)
  assert_allclose(found.var_frac, 0.3 * pos, rtol=1e-6)


def network_fn(params, x, noise, cond, *, key=None):
  """A network that depends on label, image and level; 3 channels twice."""
  of_cond = jnp.where(cond['drop'], -0.5, jnp.sin(1.0 + cond['label']))
  h = params * x + of_cond[:, None] + 0.1 * noise[:, None]
  h += cond['image'].mean(axis=1, keepdims=True)
  return jnp.concatenate([jnp.tanh(h), jnp.cos(h)], axis=-1)


@transcribes(
  'Classifier-free guidance (Ho & Salimans 2022)',
  'both predictions in one call',
  '`make_paired_denoiser`',
)
@pytest.mark.parametrize('t', [0.3, [0.1, 0.3, 0.5, 0.9]])
def test_one_call_for_two_is_two_calls(t):
  x = normal(4, 3)
  cond = {'label': jnp.array([0, 3, 1, 2]), 'image': 0.1 * images(3)[0, :4, :2]}
  cond['image'] = jnp.asarray(cond['image'].reshape(4, -1), jnp.float32)
  level = level_at(SCHEDULE, np.float32(t))
  network = dj.Network(network_fn, dj.logsnr_input, parametrization='v', learned_variance=True)
  pair = dj.make_paired_denoiser(network, 0.7, cond)
  found = jax.jit(pair)(x, level)
  for prediction, drop in zip(found, (False, True), strict=True):
    with_drop = cond | {'drop': jnp.full(4, drop)}
    denoise = network.denoiser(0.7, with_drop)
    expected: Any = jax.jit(denoise)(x, level)
    assert_allclose(prediction.x0, expected.x0, atol=1e-6)
    assert_allclose(prediction.var_frac, expected.var_frac, atol=1e-6)
  assert np.abs(found[0].x0 - found[1].x0).max() > 0.1


def test_without_noise_a_classifier_adds_nothing():
  """Without noise a classifier's gradient may be infinite, and it adds nothing."""
  log_prob = lambda x, level: -0.5 * jnp.sum(x**2, axis=1) / level.sigma**2
  guided = dj.classifier_guided(lambda x, level: dj.Prediction(x), log_prob, 5.0)
  with jax.debug_nans(False):
    assert_array_equal(jax.jit(lambda x: guided(x, dj.clean_level()).x0)(X), X)


def test_without_signal_a_classifier_adds_nothing():
  level = dj.NoiseLevel(jnp.array(1.0), jnp.array(0.0), jnp.array(1.0))
  guided = dj.classifier_guided(CLASSES.denoise, log_prob_of(0), 5.0)
  found, plain = jax.jit(lambda x: (guided(x, level).x0, CLASSES.denoise(x, level).x0))(X)
  assert_array_equal(found, plain)
