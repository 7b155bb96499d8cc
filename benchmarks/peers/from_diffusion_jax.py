"""Samplers of diffusion_jax, on the grid of Karras et al. with rho = 7."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from benchmarks.peers.methods import Method, mixture

SCHEDULE = dj.KarrasSchedule()


def denoiser(problem) -> dj.Denoiser:
  """Returns the exact denoiser of a problem."""

  def denoise(x, level):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    call = jax.pure_callback(
      lambda x, sigma: np.float32(problem.denoise(np.asarray(x), np.asarray(sigma))),
      shape,
      x,
      level.sigma,
    )
    return dj.Prediction(call)

  return denoise


def sample(sampler: dj.Sampler) -> Callable:
  """Returns the method of a sampler."""

  def method(problem, noise, num_steps, rng):
    levels = dj.level_grid(SCHEDULE, num_steps, 'karras')
    key = jax.random.key(rng.integers(2**31))
    draw = jax.jit(lambda key, x: dj.sample(key, denoiser(problem), sampler, levels, x))
    return np.asarray(draw(key, jnp.asarray(noise, jnp.float32)))

  return method


METHODS = [
  Method('ddim()', sample(dj.ddim()), mixture(80.0), 1),
  Method('heun()', sample(dj.heun()), mixture(80.0), 2),
  Method('dpm_solver_pp(2)', sample(dj.dpm_solver_pp(2)), mixture(80.0), 2),
  Method('dpm_solver_pp_sde()', sample(dj.dpm_solver_pp_sde()), mixture(80.0), 1),
  Method('ddim(1.0)', sample(dj.ddim(1.0)), mixture(80.0), 1),
]
