"""What a diffusion model does with its network, in closed form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.app import devices, models
from diffusion_jax.app.drawing.generate import generate
from diffusion_jax.core.keys import fold_each, stream
from diffusion_jax.runtime.sharding import replicate
from tests.app.conftest import normal_params, smoke

X = np.float32(np.random.default_rng(0).uniform(-1.0, 1.0, (3, 8, 8, 1)))


def model_of(**changes) -> Any:
  return models.make(smoke(**changes), 'nowhere')


def test_at_levels_of_another_schedule_the_network_sees_its_own():
  """x at alpha = 1 is x at the trained level of equal SNR, over its alpha."""
  model = model_of(**{'sampling.schedule': 'karras', 'sampling.clip': False})
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
  np.testing.assert_allclose(same, own, atol=1e-4)
  assert np.abs(other - own).max() > 0.01


def test_the_likelihood_of_a_network_that_sees_no_noise():
  """eps = 0: dx / dt = x d log(alpha) / dt, from t_min to 1, without clipping.

  Then x is scaled by r = alpha(1) / alpha(t_min), and log p(x) is the prior's
  at r x plus D log r. The density of a bin of width 2 / 16 is uniform.
  """
  model = model_of(**{'sampling.clip': True})
  params = normal_params(model, deviation=0)
  keys = jax.random.split(jax.random.key(2), 3)
  metric = model.schema.metrics['ode'](tolerance=1e-4)
  measure = jax.jit(metric.measure(model.measured))
  bits = measure(params, keys, X, {'label': np.arange(3)})['total']
  schedule = model.noisy.schedule()
  first, last = (jax.tree.map(np.float64, schedule(t)) for t in (1e-3, 1))
  r = last.alpha / first.alpha
  assert r < 0.02  # r x is small compared with the prior's deviation
  normal = -0.5 * 64 * np.log(2 * np.pi * last.sigma**2)
  log_p = normal + 64 * np.log(r) + 64 * np.log(2 / 16)
  np.testing.assert_allclose(bits, -log_p / 64 / np.log(2), rtol=1e-3)


def test_more_levels_than_steps_are_noted_before_they_are_visited(capsys):
  model = model_of(**{'sampling.num_steps': 5000})
  generate(model, devices.make_mesh(model.config))
  said = capsys.readouterr().out
  assert 'note: sampling.num_steps=5000 is more than the 1,000 steps' in said
  assert ': 1,000 distinct steps are visited, and 4,000 levels between' in said
  model = model_of(**{'sampling.num_steps': 1000})
  generate(model, devices.make_mesh(model.config))
  assert not capsys.readouterr().out


def test_self_conditioning_hands_each_estimate_to_the_next_step():
  """Computes two steps of DDIM with the network called directly."""
  fields = {'conditioning.self_conditioning': True, 'sampling.num_steps': 2}
  model = model_of(**fields, **{'sampling.sampler.eta': 0.0})
  params = normal_params(model, 2, deviation=0.1)
  mesh = devices.make_mesh(model.config)
  index, labels = np.arange(2), np.array([3, 8])
  images, _ = generate(model, mesh)(replicate(mesh, params), index, {'label': labels})

  @jax.jit
  def literally(params, key):
    levels = dj.level_grid(model.noisy.schedule(), 2)
    keys = fold_each(key, index)
    prior_keys, _ = jax.vmap(jax.random.split, out_axes=1)(keys)
    x = dj.prior_sample(prior_keys, (2, 8, 8, 1), levels.take(0))
    x0, differences = jnp.zeros_like(x), []
    for i in range(2):
      t, s = levels.take(i), levels.take(i + 1)
      see = lambda x0, x=x, t=t: model.noisy.network.apply(
        {'params': params['network']},
        x,
        jnp.broadcast_to(model.noisy.process.noise_input(t), 2),
        {'label': labels, 'x0': x0},
      )
      eps = see(x0)
      differences.append(jnp.abs(eps - see(0.0 * x0)).max())
      x0 = jnp.clip((x - t.sigma * eps) / t.alpha, -1.0, 1.0)
      eps = (x - t.alpha * x0) / t.sigma
      x = s.alpha * x0 + s.sigma * eps
    return x, differences

  key = stream(model.config.sampling.seed, 'sampling')
  x, differences = literally(params, key)
  np.testing.assert_allclose(images, x, atol=2e-3)
  assert differences[0] == 0.0 and differences[1] > 0.05


def test_without_clipping_a_step_is_the_networks_own_estimate():
  largest = {'sampling.dynamic_threshold_max': 1.5}
  model = model_of(**{'sampling.dynamic_threshold': 0.9, **largest})
  params = normal_params(model)
  x, cond = np.full((1, 8, 8, 1), 9.0, np.float32), {'label': np.zeros(1, int)}

  @jax.jit
  def estimates(params, x):
    level = model.noisy.schedule()(0.9)
    step_function = model.plan(params).step_function
    plain = model.noisy.denoiser(params, cond), step_function(cond, clip=False)
    return [f(x, level).x0 for f in (*plain, step_function(cond))]

  expected, free, bounded = jax.device_get(estimates(params, x))
  np.testing.assert_array_equal(free, expected)
  assert np.abs(free).max() > 1.0 >= np.abs(bounded).max()
  s = np.clip(np.quantile(np.abs(free), 0.9), 1.0, 1.5)
  assert s == 1.5
  np.testing.assert_allclose(bounded, np.clip(free, -s, s) / s, rtol=1e-6)
