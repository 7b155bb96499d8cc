"""Other kinds of guidance, against float64 transcriptions of their papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.core.parametrization import Parametrization
from tests.jitted import level_at, level_grid

FLOW = dj.RectifiedFlowSchedule()
X, COND, UNCOND = np.random.default_rng(0).standard_normal((3, 3, 4, 4, 2))


def pair_of(cond=COND, uncond=UNCOND, output='x0'):
  """Returns a pair with constant outputs of a kind, at any level."""
  kind = Parametrization(output)

  def of(y):
    y = jnp.asarray(y, jnp.float32)
    return lambda xt, level: dj.Prediction(dj.to_x0(output, y, xt, level), 0.3 * y)

  return dj.paired(of(cond), of(uncond), kind)


@pytest.mark.parametrize('parallel, max_norm', [(0.0, None), (0.3, 2.5), (1.0, None), (0.0, 6.0)])
def test_adaptive_projected_guidance_literally(parallel, max_norm):
  """Sadat et al. 2024, Alg. 1 without momentum, image by image."""
  w, expected = 4.0, np.empty_like(COND)
  for i, (cond, uncond) in enumerate(zip(COND, UNCOND, strict=True)):
    change = cond - uncond
    if max_norm is not None:
      change = change * min(1.0, max_norm / np.linalg.norm(change))
    unit = cond / np.linalg.norm(cond)
    along = np.sum(change * unit) * unit
    expected[i] = cond + (w - 1.0) * (change - along + parallel * along)
  guided = dj.adaptive_projected(pair_of(), w, parallel, max_norm)
  found = jax.jit(guided)(np.float32(X), level_at(FLOW, 0.5))
  np.testing.assert_allclose(found.x0, expected, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(found.var_frac, 0.3 * COND, rtol=1e-5)
  if parallel == 1.0:
    np.testing.assert_allclose(expected, UNCOND + w * (COND - UNCOND))


def test_projected_guidance_of_equal_or_zero_predictions_is_finite():
  zero = np.zeros_like(COND)
  for cond, uncond in ((COND, COND), (zero, zero)):
    guided = dj.adaptive_projected(pair_of(cond, uncond), 4.0, max_norm=1.0)
    found = jax.jit(guided)(np.float32(X), level_at(FLOW, 0.5))
    np.testing.assert_allclose(found.x0, cond, rtol=1e-6)


@pytest.mark.parametrize('output', ['flow', 'eps', 'x0'])
def test_cfg_zero_star_literally(output):
  """Fan et al. 2025: steps of Euler along the velocity, the first one idle."""
  w, expected = 3.0, np.empty_like(COND)
  for i, (cond, uncond) in enumerate(zip(COND, UNCOND, strict=True)):
    s = np.sum(cond * uncond) / np.sum(uncond**2)
    expected[i] = (1.0 - w) * s * uncond + w * cond
  level, x = level_at(FLOW, 0.5), np.float32(X)
  guided = dj.cfg_zero_star(pair_of(output=output), w)

  @jax.jit
  def outputs(x):
    x0 = guided(x, level).x0
    return dj.target(output, x0, dj.eps_from_x0(x0, x, level), level)

  np.testing.assert_allclose(outputs(x), expected, rtol=1e-4, atol=1e-4)
  if output != 'flow':
    return
  levels = level_grid(FLOW, 4)
  idle = dj.cfg_zero_star(pair_of(output=output), w, zero_above=100.0)
  xs = jax.jit(lambda x: dj.trajectory(jax.random.key(0), idle, dj.ddim(), levels, x))(x)
  np.testing.assert_allclose(xs[1], X, atol=1e-5)
  np.testing.assert_allclose(xs[2] - xs[1], -0.25 * expected, atol=1e-4)


def test_cfg_plus_plus_literally():
  """Chung et al. 2024, Alg. 2; it is DDIM with a scale for each step."""
  schedule, scale = dj.LinearVPSchedule(), 0.6
  t, s = (level_at(schedule, time) for time in (0.5, 0.3))
  pair = pair_of(output='eps')
  sampler, x = dj.cfg_plus_plus(scale), np.float32(X)
  key, rest = jax.random.key(0), {'level_t': t, 'level_s': s}
  found = jax.jit(lambda x: sampler.step(key, x, (), pair, **rest)[0])(x)
  (_, alpha_t, sigma_t), (_, alpha_s, sigma_s) = (map(float, level) for level in (t, s))
  eps = UNCOND + scale * (COND - UNCOND)
  x0 = (X - sigma_t * eps) / alpha_t
  np.testing.assert_allclose(found, alpha_s * x0 + sigma_s * UNCOND, rtol=1e-4, atol=1e-5)
  same = scale / (1.0 - alpha_t * sigma_s / (sigma_t * alpha_s))
  guided = dj.classifier_free(pair, same)
  by_ddim = jax.jit(lambda x: dj.ddim().step(key, x, (), guided, **rest)[0])(x)
  np.testing.assert_allclose(found, by_ddim, rtol=1e-4, atol=1e-4)
