"""Other kinds of guidance, against float64 transcriptions of their papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.core.parametrization import KINDS, Parametrization
from tests.jitted import level_at, level_grid
from tests.rows import slow
from tests.transcribed import transcribes

FLOW = dj.RectifiedFlowSchedule()
X, COND, UNCOND = np.random.default_rng(0).standard_normal((3, 3, 4, 4, 2))


def pair_of(cond=COND, uncond=UNCOND, output='x0'):
  """Returns a pair with constant outputs of a kind, at any level."""
  kind = Parametrization(output)

  def of(y):
    y = jnp.asarray(y, jnp.float32)
    return lambda xt, level: dj.Prediction(dj.to_x0(output, y, xt, level), 0.3 * y)

  return dj.paired(of(cond), of(uncond), kind)


@transcribes('APG (Sadat et al. 2024)', 'Alg. 1, without momentum', '`adaptive_projected`')
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
  assert_allclose(found.x0, expected, rtol=1e-4, atol=1e-4)
  assert_allclose(found.var_frac, 0.3 * COND, rtol=1e-5)
  if parallel == 1.0:
    assert_allclose(expected, UNCOND + w * (COND - UNCOND))


@transcribes('CFG-Zero\\* (Fan et al. 2025)', 'the optimized scale, zero-init', '`cfg_zero_star`')
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

  assert_allclose(outputs(x), expected, rtol=1e-4, atol=1e-4)
  if output != 'flow':
    return
  levels = level_grid(FLOW, 4)
  idle = dj.cfg_zero_star(pair_of(output=output), w, zero_above=100.0)
  xs = jax.jit(lambda x: dj.trajectory(jax.random.key(0), idle, dj.ddim(), levels, x))(x)
  assert_allclose(xs[1], X, atol=1e-5)
  assert_allclose(xs[2] - xs[1], -0.25 * expected, atol=1e-4)


@transcribes('CFG++ (Chung et al. 2024)', 'Alg. 2', '`cfg_plus_plus`')
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
  assert_allclose(found, alpha_s * x0 + sigma_s * UNCOND, rtol=1e-4, atol=1e-5)
  same = scale / (1.0 - alpha_t * sigma_s / (sigma_t * alpha_s))
  guided = dj.classifier_free(pair, same)
  by_ddim = jax.jit(lambda x: dj.ddim().step(key, x, (), guided, **rest)[0])(x)
  assert_allclose(found, by_ddim, rtol=1e-4, atol=1e-4)


SMALL = (2, 4, 4, 2)
DRAWS = np.random.default_rng(1).standard_normal((3, *SMALL))
DRAWS[1] = DRAWS[0] + 3.0 * DRAWS[1]


def guided_in_all_ways(cond, uncond, x, level):
  """Returns the x_0 of every guider, and x_s of CFG++, [..., *x.shape]."""
  fixed = lambda x0: lambda xt, level: dj.Prediction(x0)
  pairs = [dj.paired(fixed(cond), fixed(uncond), Parametrization(kind)) for kind in KINDS]
  plain = lambda xt, level: (dj.Prediction(cond), dj.Prediction(uncond))
  guided = [dj.classifier_free(pair, 4.0, 0.7) for pair in pairs]
  guided += [dj.cfg_zero_star(pair, 4.0) for pair in pairs]
  guided += [dj.adaptive_projected(plain, 4.0, 0.5, norm) for norm in (None, 50.0)]
  guided += [dj.dynamic_threshold(fixed(cond), 0.9), dj.clip_denoised(fixed(cond), -1e9, 1e9)]
  square = lambda x, level: jnp.sum(jnp.square(x.astype(jnp.float32)), axis=(1, 2, 3))
  guided.append(dj.classifier_guided(fixed(cond), square))
  step = dj.cfg_plus_plus(0.5).step(
    None, x.astype(jnp.float32), (), pairs[0], level_s=level, level_t=level
  )[0]
  return jnp.stack([*(denoise(x, level).x0 for denoise in guided), step])


# Both ends, and levels near them and between them.
ENDS = dj.NoiseLevel(
  *np.array([[0, 0, 0.5, 1, 1], [1, 1, 0.6, 1e-3, 0], [0, 1e-6, 0.8, 1, 1]], np.float32)
)


of_all_levels = jax.jit(jax.vmap(guided_in_all_ways, (None, None, None, 0)))


@jax.jit
def at_all_levels(cond, uncond, x):
  """Returns `guided_in_all_ways` at ENDS, and gradients of its mean square."""

  def mean_square(cond, uncond, level):
    found = guided_in_all_ways(cond, uncond, x, level)
    most = jax.lax.stop_gradient(jnp.maximum(jnp.max(jnp.abs(found)), 1e-30))
    return jnp.mean(jnp.square(found / most)), found

  of_one = jax.value_and_grad(mean_square, argnums=(0, 1), has_aux=True)
  (_, found), gradients = jax.vmap(of_one, (None, None, 0))(cond, uncond, ENDS)
  return found, gradients


# Conditional and unconditional x_0, and x_t; the square of 3e3 overflows float16.
EDGES = {
  **{std: std * DRAWS for std in (0.0, 1e-7, 1.0, 3e3)},
  'equal': DRAWS[[0, 0, 2]],
  'flat': np.broadcast_to([[[[[0.7]]]], [[[[-0.2]]]], [[[[1.0]]]]], DRAWS.shape),
}


# A program takes 4 s, and float16 has the least range.
@pytest.mark.parametrize('dtype', ['float16', slow('float32'), slow('bfloat16')])
def test_every_guider_is_finite_at_both_ends(dtype):
  """In each precision it has what it computes of the rounded arrays in float32."""
  for name, arrays in EDGES.items():
    rounded = [jnp.asarray(a, dtype) for a in arrays]
    found, gradients = at_all_levels(*rounded)
    assert all(jnp.isfinite(a).all() for a in (found, *gradients)), name
    exact = of_all_levels(*(a.astype(jnp.float32) for a in rounded), ENDS)
    assert_allclose(found, exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())
    if name in ('equal', 0.0):  # nothing is guided, by any pair
      assert_allclose(found[:, :14], np.broadcast_to(rounded[0], (5, 14, *SMALL)), 1e-5)
    # At sigma = 0 it has the limit, but for the step of CFG++, which is over.
    size = np.abs(exact[1, :-1]).max()
    assert_allclose(found[0, :-1], exact[1, :-1], rtol=1e-3, atol=1e-3 * size)
