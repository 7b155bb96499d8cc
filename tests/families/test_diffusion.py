"""What a run of a diffusion model does beside its denoiser, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax import build, families
from diffusion_jax.families import diffusion
from tests.programs.conftest import smoke

X = np.float32(np.random.default_rng(0).uniform(-1.0, 1.0, (3, 8, 8, 1)))


def test_at_levels_of_another_schedule_the_network_sees_its_own():
  """x at alpha = 1 is that of the trained level of equal SNR over its alpha."""
  config = smoke(**{'sampling.schedule': 'karras', 'sampling.clip': False})
  shapes = families.abstract_params(config)
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: np.float32(0.3 * rng.standard_normal(x.shape)), shapes
  )
  label = np.arange(3)

  @jax.jit
  def both(params, x):
    trained = build.build_schedule(config)
    level = trained.at_step(400)
    cond = {'label': label}
    own = build.build_denoiser(config, params, cond)(x, level).x0
    there = dj.NoiseLevel(0.5, jnp.ones(()), level.sigma / level.alpha)
    denoise = diffusion.build_denoise(config, params, cond, trained)
    return own, denoise(x / level.alpha, there).x0, denoise(x, there).x0

  own, found, other = both(params, X)
  np.testing.assert_allclose(found, own, atol=1e-4)
  assert np.abs(other - own).max() > 0.01


def test_the_likelihood_of_a_network_that_sees_no_noise():
  """eps = 0: dx / dt = x d log(alpha) / dt, from t_min to 1, without clipping.

  Then x is scaled by r = alpha(1) / alpha(t_min), and log p(x) is that of the
  prior at r x plus D log r.
  """
  config = smoke(**{'sampling.clip': True, 'evaluation.tolerance': 1e-4})
  params = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype), families.abstract_params(config)
  )
  schedule = build.build_schedule(config)
  keys = jax.random.split(jax.random.key(2), 3)
  measure = jax.jit(diffusion.ode(config))
  found = measure(params, keys, X, {'label': np.arange(3)})['log_p']
  first, last = (
    jax.tree.map(np.float64, schedule(t)) for t in (config.evaluation.t_min, 1)
  )
  r = last.alpha / first.alpha
  assert r < 0.02  # r x is nothing beside the prior's deviation
  normal = -0.5 * 64 * np.log(2 * np.pi * last.sigma**2)
  np.testing.assert_allclose(found, normal + 64 * np.log(r), rtol=1e-3)


def test_more_levels_than_steps_are_noted_before_they_are_visited(capsys):
  config = smoke(**{'sampling.num_steps': 5000})
  diffusion.generate(config, build.build_mesh(config))
  assert capsys.readouterr().out == f'{build.describe_steps(config)}\n'
  config.sampling.num_steps = 1000
  diffusion.generate(config, build.build_mesh(config))
  assert not capsys.readouterr().out
