"""Other kinds of guidance, against float64 transcriptions of their papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.core.parametrization import KINDS, Parametrization
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


def of_size(std, dtype, shape=(64, 64, 3)):
  """Returns conditional and unconditional x_0 [2, ...] and x_t of a deviation."""
  cond, uncond, x = np.random.default_rng(1).standard_normal((3, 2, *shape)) * std
  return *(jnp.asarray(a, dtype) for a in (cond, 3.0 * uncond + cond)), jnp.asarray(x, dtype)


def guided_in_all_ways(cond, uncond, x, level):
  """Returns the x_0 of every guider, and x_s of CFG++, [..., *x.shape]."""
  fixed = lambda x0: lambda xt, level: dj.Prediction(x0)
  pairs = [dj.paired(fixed(cond), fixed(uncond), Parametrization(kind)) for kind in KINDS]
  guided = [dj.classifier_free(pair, 4.0, 0.7) for pair in pairs]
  guided += [dj.cfg_zero_star(pair, 4.0) for pair in pairs]
  guided += [dj.adaptive_projected(pairs[0], 4.0, 0.5, norm) for norm in (None, 50.0)]
  guided += [dj.dynamic_threshold(fixed(cond), 0.9), dj.clip_denoised(fixed(cond), -1e9, 1e9)]
  square = lambda x, level: jnp.sum(jnp.square(x.astype(jnp.float32)), axis=(1, 2, 3))
  guided.append(dj.classifier_guided(fixed(cond), square))
  ends = {'level_s': level, 'level_t': level}
  step = dj.cfg_plus_plus(0.5).step(None, x.astype(jnp.float32), (), pairs[0], **ends)[0]
  return jnp.stack([*(denoise(x, level).x0 for denoise in guided), step])


# Both ends, and levels near them and between them.
ENDS = dj.NoiseLevel(
  *np.float32([[0, 1e-3, 0.5, 1, 1], [1, 1, 0.6, 1e-3, 0], [0, 1e-3, 0.8, 1, 1]])
)


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


SMALL = (4, 4, 2)
EDGES = {
  'usual': of_size(1.0, np.float32, SMALL),
  'equal': (of_size(1.0, np.float32, SMALL)[0],) * 2 + of_size(1.0, np.float32, SMALL)[2:],
  'zero': of_size(0.0, np.float32, SMALL),
  'flat': (jnp.full((2, *SMALL), 0.7), jnp.full((2, *SMALL), -0.2), jnp.ones((2, *SMALL))),
  'large': of_size(3e3, np.float32, SMALL),
  'small': of_size(1e-7, np.float32, SMALL),
}


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16'])
def test_every_guider_is_finite_at_both_ends(dtype):
  """In each precision it has what it computes of the rounded arrays in float32."""
  for name, arrays in EDGES.items():
    rounded = [a.astype(dtype) for a in arrays]
    found, gradients = at_all_levels(*rounded)
    assert all(jnp.isfinite(a).all() for a in (found, *gradients)), name
    exact, _ = at_all_levels(*(a.astype(jnp.float32) for a in rounded))
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize('std', [1e-30, 1e-7, 1.0, 1e4, 1e30])
def test_guidance_does_not_depend_on_units(std):
  """Sums of squares neither overflow nor vanish: all guiders but one are linear."""
  arrays = of_size(1.0, jnp.float32, SMALL)
  guide = jax.jit(lambda *a: [f(*a) for f in LINEAR])
  one = guide(*arrays, 1.0)
  other = guide(*(jnp.float32(std) * a for a in arrays), std)
  for found, expected in zip(other, one, strict=True):
    np.testing.assert_allclose(found / np.float32(std), expected, rtol=1e-4, atol=1e-4)


def _by(guide):
  def apply(cond, uncond, x, std):
    fixed = lambda x0: lambda xt, level: dj.Prediction(x0)
    return guide(dj.paired(fixed(cond), fixed(uncond)), std)(x, level_at(FLOW, 0.5)).x0

  return apply


LINEAR = [
  _by(lambda pair, std: dj.classifier_free(pair, 4.0, 0.7)),
  _by(lambda pair, std: dj.cfg_zero_star(pair, 4.0)),
  _by(lambda pair, std: dj.adaptive_projected(pair, 4.0, 0.5)),
]


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_the_largest_norm_is_the_same_in_half_precision(dtype):
  """Sadat et al.'s Alg. 1 in float64 of 12,288 numbers, whose square is 110,000."""
  cond, uncond, x = of_size(1.0, dtype)
  pair = dj.paired(*(lambda xt, level, x0=x0: dj.Prediction(x0) for x0 in (cond, uncond)))
  found = jax.jit(dj.adaptive_projected(pair, 4.0, max_norm=50.0))(x, level_at(FLOW, 0.5)).x0
  cond, uncond = (np.asarray(a, np.float64) for a in (cond, uncond))
  for i in range(2):
    change = cond[i] - uncond[i]
    change *= 50.0 / np.linalg.norm(change)
    change -= np.sum(change * cond[i]) / np.sum(cond[i] ** 2) * cond[i]
    np.testing.assert_allclose(found[i], cond[i] + 3.0 * change, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('output', ['x0', 'eps', 'v', 'score', 'flow', 'edm'])
def test_guidance_at_the_clean_end_is_its_limit(output):
  """At sigma = 0 outputs are in proportion to x_t - alpha x_0, as they are near it."""
  cond, uncond, x = of_size(1.0, jnp.float32, SMALL)
  pair = dj.paired(
    *(lambda xt, level, x0=x0: dj.Prediction(x0) for x0 in (cond, uncond)), Parametrization(output)
  )

  @jax.jit
  @jax.vmap
  def guide(sigma):
    level = dj.NoiseLevel(sigma, jnp.float32(1.0), sigma)
    return dj.classifier_free(pair, 4.0, 0.7)(x, level).x0, dj.cfg_zero_star(pair, 4.0)(x, level).x0

  for found in guide(np.float32([0.0, 1e-6])):
    at_end, near = found
    np.testing.assert_allclose(at_end, near, atol=1e-4)
