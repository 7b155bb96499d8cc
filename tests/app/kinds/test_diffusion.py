"""What a diffusion model does with its network, in closed form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import normal_params, smoke
from tests.app.fields import within

X = np.float32(np.random.default_rng(0).uniform(-1.0, 1.0, (3, 8, 8, 1)))


def model_of(**changes) -> Any:
  return make_model(smoke(**changes), RunFolder.at('nowhere'))


def test_at_levels_of_another_schedule_the_network_sees_its_own():
  """x at alpha = 1 is x at the trained level of equal SNR, over its alpha."""
  model = model_of(**{'sampling.schedule': 'karras', 'sampling.bound': None})
  params = normal_params(model, 1, deviation=0.3)
  label = np.arange(3)

  @jax.jit
  def both(params, x):
    trained = model.noisy.schedule()
    level = trained.at_step(400)
    cond = {'label': label}
    own = model.noisy.denoiser(params, cond)(x, level).x0
    there = dj.NoiseLevel(0.5, jnp.ones(()), level.sigma / level.alpha)
    denoise = model.plan(params).step_function(cond)
    return own, denoise(x / level.alpha, there).x0, denoise(x, there).x0

  own, same, other = both(params, X)
  assert_allclose(same, own, atol=1e-4)
  assert np.abs(other - own).max() > 0.01


def test_a_sampler_of_pairs_gets_both_predictions_clipped():
  changes = {'sampling.sampler': 'cfg_plus_plus', 'sampling.sampler.scale': 0.5}
  model = model_of(**changes, **{'sampling.bound': 'clip'})
  params, cond = normal_params(model), {'label': np.arange(3)}

  @jax.jit
  def both(params, x):
    level = model.noisy.schedule()(0.9)
    drop = cond | {'drop': np.ones(3, bool)}
    alone = [model.noisy.denoiser(params, given)(x, level).x0 for given in (cond, drop)]
    return alone, [p.x0 for p in model.plan(params).step_function(cond)(x, level)]

  alone, pair = both(params, 3.0 * X)
  assert np.abs(alone).max() > 1.0
  assert_allclose(pair, np.clip(alone, -1.0, 1.0), atol=1e-5)


def test_the_likelihood_of_a_network_that_sees_no_noise():
  """eps = 0: dx / dt = x d log(alpha) / dt, from t_min to 1, without clipping.

  Then x is scaled by r = alpha(1) / alpha(t_min), and log p(x) is the prior's
  at r x plus D log r. The density of a bin of width 2 / 16 is uniform.
  """
  model = model_of(**{'sampling.bound': 'clip'})
  params = normal_params(model, deviation=0)
  keys = jax.random.split(jax.random.key(2), 3)
  metric = model.schema.metrics['ode'](tolerance=1e-4)
  measure = jax.jit(metric.measure(model.measured))
  bits = measure(params, keys, X, {'label': np.arange(3)})['total']
  schedule = model.noisy.schedule()
  ends = jax.jit(lambda: (schedule(1e-3), schedule(1.0)))()
  first, last = jax.tree.map(np.float64, ends)
  r = last.alpha / first.alpha
  assert r < 0.02  # r x is small compared with the prior's deviation
  normal = -0.5 * 64 * np.log(2 * np.pi * last.sigma**2)
  log_p = normal + 64 * np.log(r) + 64 * np.log(2 / 16)
  assert_allclose(bits, -log_p / 64 / np.log(2), rtol=1e-3)


def test_without_clipping_a_step_is_the_networks_own_estimate():
  model = model_of(**within('sampling.bound', 'quantile', quantile=0.9, largest=1.5))
  params = normal_params(model)
  x = np.linspace(-9.0, 9.0, 64, dtype=np.float32).reshape(1, 8, 8, 1)
  cond = {'label': np.zeros(1, int)}

  @jax.jit
  def estimates(params, x):
    level = model.noisy.schedule()(0.3)
    step_function = model.plan(params).step_function
    plain = model.noisy.denoiser(params, cond), step_function(cond, clip=False)
    return [f(x, level).x0 for f in (*plain, step_function(cond))]

  expected, free, bounded = jax.device_get(estimates(params, x))
  assert_array_equal(free, expected)
  assert np.abs(free).max() > 1.0 >= np.abs(bounded).max()
  s = np.clip(np.quantile(np.abs(free), 0.9), 1.0, 1.5)
  assert s == 1.5
  assert_allclose(bounded, np.clip(free, -s, s) / s, rtol=1e-6)
