"""Data with known moments, every sampler, and checks of keys and calls."""

import functools
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.testing import oracles

DDPM = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
SCHEDULES = {
  'linear': DDPM,
  'cosine': dj.DiscreteSchedule.from_betas(dj.cosine_betas(1000)),
  'linear_vp': dj.LinearVPSchedule(),
  'sub_vp': dj.SubVPSchedule(),
  'geometric_ve': dj.GeometricVESchedule(),
  'karras': dj.KarrasSchedule(),
  'flow': dj.RectifiedFlowSchedule(),
}
GAUSSIAN = oracles.gaussian([0.5, -0.3], [[1.0, 0.8], [0.8, 1.5]])
MIXTURE = oracles.mixture(
  [0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], [[[0.05, 0.0], [0.0, 0.05]], [[0.1, 0.05], [0.05, 0.2]]]
)
# Weights, means and covariances of two wide clusters: orders are measured on their
# smooth ODE, since steps commute for a Gaussian and do not for a mixture.
CLUSTERS = (
  [0.4, 0.6], [[0.7, -0.3], [-0.5, 0.4]], [[[1.0, 0.6], [0.6, 1.5]], [[0.8, -0.2], [-0.2, 0.7]]]
)  # fmt: skip

# A sampler, or a function that makes it for a schedule.
DETERMINISTIC = {
  'ddim': dj.ddim(),
  'heun': dj.heun(),
  'velocity_heun': dj.velocity_heun,
  'dpm_solver_pp_2m': dj.dpm_solver_pp(2),
  'dpm_solver_pp_3m': dj.dpm_solver_pp(3),
  'dpm_solver_pp_2s': dj.dpm_solver_pp_2s,
  'dpm_solver_2': dj.dpm_solver_2,
  'lms_4': dj.lms(4),
  'adaptive_ode': lambda schedule: dj.adaptive_ode(schedule, 1e-6, 1e-6, 256),
  'unipc_2': dj.unipc(2),
  'unipc_3': dj.unipc(3),
}
STOCHASTIC = {
  'ancestral_small': dj.ancestral('fixed_small'),
  'ancestral_large': dj.ancestral('fixed_large'),
  'ddim_half': dj.ddim(0.5),
  'ddim_1': dj.ddim(1.0),
  'euler_maruyama': dj.euler_maruyama,
  'velocity_sde': lambda schedule: dj.velocity_sde(schedule, 'sigma', 2.0),
  'reverse_diffusion': dj.reverse_diffusion(),
  'dpm_solver_pp_sde': dj.dpm_solver_pp_sde(),
  'dpm_solver_pp_3m_sde': dj.dpm_solver_pp_sde(1.0, 3),
  'brownian_sde': dj.dpm_solver_pp_sde(1.0, 2, brownian=True),
  'dpm_solver_pp_2s_sde': dj.dpm_solver_pp_2s_sde,
  'ancestral_2s': lambda schedule: dj.with_ancestral_noise(dj.dpm_solver_pp_2s(schedule), schedule),
  'annealed_langevin': dj.annealed_langevin(40),
  'churned_heun': lambda schedule: dj.churn(dj.heun(), schedule, 0.1),
  'corrected_ddim': dj.with_corrector(dj.ddim(1.0), dj.langevin(0.08)),
}
SAMPLERS = DETERMINISTIC | STOCHASTIC

# Tests use XLA's lowest level (tests/conftest.py). Programs that run longer
# than they compile use the next one, which saves a third of the run.
AT_LOWEST = 'optimization_level=0' in os.environ.get('XLA_FLAGS', '')
LEVEL = {'xla_backend_optimization_level': 1} if AT_LOWEST else None
jit_long = functools.partial(jax.jit, compiler_options=LEVEL)


class OneOf(NamedTuple):
  """Is one of several schedules, which thus share a compilation."""

  number: int
  schedules: tuple

  def __call__(self, t):
    each = [lambda t, one=one: one(t) for one in self.schedules]
    return jax.lax.switch(self.number, each, t)

  def from_logsnr(self, logsnr):
    each = [lambda x, one=one: one.from_logsnr(x) for one in self.schedules]
    return jax.lax.switch(self.number, each, logsnr)


def one_of(name, schedules):
  return OneOf([*schedules].index(name), (*schedules.values(),))


def needs_schedule(name):
  return not isinstance(SAMPLERS[name], dj.Sampler)


def build(name, schedule=None):
  sampler = SAMPLERS[name]
  return sampler(schedule) if needs_schedule(name) else sampler


_WRAPPED = jax.jit(jax.random.wrap_key_data)


def assert_own_keys(run, keys, *arrays, **tolerance):
  """Asserts that example i of run(keys, ...) depends on its own key only."""
  keys = np.asarray(jax.random.key_data(keys))
  arrays = [np.asarray(x) for x in arrays]
  whole = run(_WRAPPED(keys), *arrays)
  for rows in (np.arange(len(keys))[::-1], np.full(len(keys), 2)):
    some = run(_WRAPPED(keys[rows]), *(x[rows] for x in arrays))
    for a, b in zip(*map(jax.tree.leaves, (whole, some)), strict=True):
      assert_allclose(np.asarray(a)[rows], b, **tolerance)


def counted_calls(denoise, sampler, levels, shape=(2, 2)):
  """Returns how often a sampler calls its denoiser."""
  calls = []

  def counted(x, level):
    jax.debug.callback(lambda: calls.append(1))
    return denoise(x, level)

  run = jax.jit(lambda x: dj.sample(jax.random.key(0), counted, sampler, levels, x))
  jax.block_until_ready(run(jnp.ones(shape)))
  jax.effects_barrier()
  return len(calls)
