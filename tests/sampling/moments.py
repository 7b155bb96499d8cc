"""Data with known moments, every sampler, and checks of keys and calls."""

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.kinds import choices
from diffusion_jax.declared import declared_by
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

# Samplers of a denoiser, as configs name them; those of pairs have tests of their own.
TABLE = {n: make for n, make in choices.SAMPLERS.items() if not declared_by(make).takes_pairs}
# Parameters other than the defaults, with which tests can see errors.
PARAMETERS: dict[str, dict[str, Any]] = {
  'adaptive_ode': {'rtol': 1e-6, 'atol': 1e-6, 'max_steps': 256},
  'annealed_langevin': {'num_steps': 40},
  'velocity_sde': {'diffusion_scale': 2.0},
}


def of_table():
  """Yields the samplers of the table, name -> constructor, with each of their orders."""
  for name, make in TABLE.items():
    order = declared_by(make).order
    orders = order if isinstance(order, Mapping) else ()
    for n in orders:
      yield f'{name}_{n}', functools.partial(make, order=n)
    if not orders:
      yield name, functools.partial(make, **PARAMETERS.get(name, {}))


# Constructors of samplers and of functions of them: () -> sampler, or schedule -> sampler.
EVERY_ORDER = dict(of_table())
OTHERS: dict[str, Callable[..., dj.Sampler]] = {
  'ancestral_large': lambda: dj.ancestral('fixed_large'),
  'ddim_half': lambda: dj.ddim(0.5),
  'ddim_1': lambda: dj.ddim(1.0),
  'dpm_solver_pp_3m_sde': lambda: dj.dpm_solver_pp_sde(1.0, 3),
  'brownian_sde': lambda: dj.dpm_solver_pp_sde(1.0, 2, brownian=True),
  'ancestral_2s': lambda schedule: dj.with_ancestral_noise(dj.dpm_solver_pp_2s(schedule), schedule),
  'churned_heun': lambda schedule: dj.churn(dj.heun(), schedule, 0.1),
  'corrected_ddim': lambda: dj.with_corrector(dj.ddim(1.0), dj.langevin(0.08)),
}
# Lower orders than the default are tested only for their order.
LOWER = [
  name
  for name, make in EVERY_ORDER.items()
  if make.keywords.get('order', 9) < getattr(parameters(make.func).get('order'), 'default', 0)
]
SAMPLERS = {n: make for n, make in EVERY_ORDER.items() if n not in LOWER} | OTHERS

# Tests use XLA's lowest level (tests/environment.py). Programs that run longer
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


def draws_noise(name):
  return name in OTHERS or declared_by(EVERY_ORDER[name]).draws_noise


def solves_the_ode(name):
  return name in EVERY_ORDER and declared_by(EVERY_ORDER[name]).order is not None


def needs_schedule(name):
  return 'schedule' in inspect.signature((EVERY_ORDER | OTHERS)[name]).parameters


def build(name, schedule=None):
  make = (EVERY_ORDER | OTHERS)[name]
  return make(schedule=schedule) if needs_schedule(name) else make()


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
