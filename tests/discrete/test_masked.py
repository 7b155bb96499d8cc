"""The bounds of masked diffusion against exact values and D3PM's bound."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.discrete import level_paths, oracles as discrete_oracles
from tests.states import LINEAR, NUM_STEPS, TABLE, data, matrices_of, prior_of
from tests.transcribed import transcribes

PROCESS = dj.masking_process(3)
SCHEDULES = {'linear': LINEAR, 'cosine': dj.CosineMasking(), 'cubic': dj.PolynomialMasking(3.0)}
X0 = data(20_000)
denoise = TABLE.denoiser(PROCESS)


class Chosen(NamedTuple):
  """A schedule by its name's number, so that all need one program."""

  number: int

  def __call__(self, t):
    levels = [schedule(t) for schedule in SCHEDULES.values()]
    return jax.tree.map(lambda *x: jnp.stack(jnp.broadcast_arrays(*x))[self.number], *levels)


def chosen(name):
  return Chosen([*SCHEDULES].index(name))


@functools.partial(jax.jit, static_argnums=(1, 2))
def bound(schedule, num_times, num_steps=None):
  """Computes the bound of 20,000 draws of x_0, [N]."""
  return dj.masked_bound(
    jax.random.key(1), denoise, PROCESS, schedule, X0, num_times=num_times, num_steps=num_steps
  )


@transcribes(
  'MD4 (Shi et al. 2024)',
  'continuous-time bound −α′/(1 − α)',
  '`masked_bound`, `masked_weight`',
)
@pytest.mark.parametrize('name', SCHEDULES)
def test_in_continuous_time_the_bound_is_the_entropy(name):
  """The bound in continuous time is the entropy for the exact denoiser and every schedule."""
  nats = np.asarray(bound(chosen(name), 4), np.float64)
  error = nats.std() / len(nats) ** 0.5
  assert error < 0.02
  assert abs(nats.mean() - TABLE.entropy()) < 4.5 * error


@transcribes('MD4 (Shi et al. 2024)', 'discrete-time bound', '`masked_bound(…, num_steps=T)`')
def test_the_bound_in_steps_is_the_oracles():
  """At T = 6 the mean over drawn steps is KL + entropy."""
  nats = np.asarray(bound(LINEAR, 2, NUM_STEPS), np.float64)
  expected = discrete_oracles.expected_bound(TABLE, matrices_of('masking'), prior_of('masking'))[
    'total'
  ]
  error = nats.std() / len(nats) ** 0.5
  assert abs(nats.mean() - expected) < 4.5 * error
  assert expected - TABLE.entropy() > 5 * error


@jax.jit
def weights(schedule, t):
  level = schedule(t)
  return [dj.masked_weight(schedule, n)(level) for n in (None, 1000)]


@transcribes('MD4 (Shi et al. 2024)', 'continuous-time bound −α′/(1 − α)')
@pytest.mark.parametrize('name', SCHEDULES)
def test_weights(name):
  """Weights are MD4's formulas, and T steps approach continuous time."""
  t = np.arange(1, 1001) / 1000
  alpha = {
    'linear': lambda t: 1 - t,
    'cosine': lambda t: 1 - np.cos(np.pi / 2 * (1 - t)),
    'cubic': lambda t: 1 - t**3,
  }[name]
  slope = {
    'linear': -np.ones(1000),
    'cosine': -np.pi / 2 * np.sin(np.pi / 2 * (1 - t)),
    'cubic': -3 * t**2,
  }[name]
  continuous, weight = jax.device_get(weights(chosen(name), t))
  expected = -slope / (1 - alpha(t))
  assert_allclose(continuous, expected, rtol=1e-5, atol=1e-6)
  steps = alpha(t - 1e-3) - alpha(t)
  assert_allclose(weight, 1000 * steps / (1 - alpha(t)), rtol=1e-3, atol=1e-4)
  late = slice(249, None)
  assert_allclose(weight[late], expected[late], rtol=0.01, atol=2e-3)


def test_times_are_antithetic_and_their_masks_independent(monkeypatch):
  """An element is masked at times s and t with the probability s t."""
  draw = level_paths.draw_uniform  # The least u is 0; t must not be 0.
  with_0 = lambda *args: draw(*args).at[0].set(0.0)
  monkeypatch.setattr(level_paths, 'draw_uniform', with_0)
  seen = []

  def watched(xt, level):
    see = lambda *arrays: seen.append([*map(np.array, arrays)])
    jax.debug.callback(see, level.t, xt == 3)
    return jnp.zeros((*xt.shape, 4))

  run = jax.jit(lambda key, x0: dj.masked_bound(key, watched, PROCESS, LINEAR, x0, num_times=4))
  run(jax.random.key(0), jnp.zeros((3, 2000), int))
  jax.effects_barrier()
  t, hidden = map(np.array, zip(*seen, strict=True))
  assert t.shape == (4, 3) and (t > 0).all() and (t <= 1).all()
  assert_allclose(np.diff(np.sort(t, 0), axis=0), 0.25, atol=1e-6)
  assert len(np.unique(t.min(axis=0))) == 3  # Each example has its own u.
  both = np.mean(hidden[:, None] & hidden, axis=-1)  # [4, 4, 3]
  expected = np.where(np.eye(4)[..., None], t, t[:, None] * t)
  error = np.sqrt(expected * (1 - expected) / 2000)
  assert (np.abs(both - expected) <= 5 * error).all()
