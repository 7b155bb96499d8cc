"""The variational bound of Ho et al. 2020, literally, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.core import elbo
from diffusion_jax.core.keys import split_key
from diffusion_jax.testing import oracles
from tests.jitted import level_at
from tests.papers.paper import bound_terms, ddpm, f32, network_fn
from tests.rows import slow
from tests.transcribed import transcribes

T = 20
SHAPE = (4, 3, 2)
GRID = np.linspace(-1.0, 1.0, 256)
X0 = np.random.default_rng(0).choice(GRID, SHAPE)
X0[0, 0], X0[1, 0] = -1.0, 1.0  # the two open bins
MANY = np.resize(X0, (2000, *SHAPE[1:]))  # one shape for all programs
FEW = 200  # with a comparison of each term


def denoiser(clip):
  denoise = dj.Network(network_fn, dj.step_input(T), learned_variance=True).denoiser((1.0, 1.0))
  return dj.clip_denoised(denoise) if clip else denoise


@functools.partial(jax.jit, static_argnames=('variance', 'clip', 'steps'))
def bound(key, schedule, x0, variance, clip, steps=None):
  denoise = denoiser(clip)
  return dj.variational_bound(
    key, denoise, schedule, x0, num_steps=T, variance=variance, steps=steps
  )


def draws(keys, shape=SHAPE[1:]):
  """Returns the library's eps of every step 0..T, [T + 1, B, ...]."""
  return np.asarray(every_draw(keys, shape), np.float64)


@functools.partial(jax.jit, static_argnums=1)
def every_draw(keys, shape):
  keys = split_key(keys, 2)[1]
  draw = lambda k, t: jax.random.normal(jax.random.fold_in(k, t), shape)
  every = jax.vmap(jax.vmap(draw, (0, None)), (None, 0))
  return every(keys, jnp.arange(T + 1))


SEQUENCES = {'linear': dj.linear_betas(T), 'cosine': dj.cosine_betas(T)}


@transcribes(
  'DDPM (Ho et al. 2020)',
  '3, 5: the bound, L_T + Σ L_{t−1} + L_0',
  '`variational_bound`, `prior_kl`, `diffusion_kl`',
)
@transcribes('DDPM (Ho et al. 2020)', '13: discretised decoder')
@pytest.mark.parametrize('name', SEQUENCES)
# 'learned' is between the other two, and the bound of the exact model is of fixed_large.
@pytest.mark.parametrize(
  'variance, clip',
  [
    ('fixed_small', False),
    slow('fixed_large', True),
    ('learned', True),
  ],
)
def test_eq_5_every_term_of_the_bound(variance, clip, name, key):
  p = ddpm(SEQUENCES[name])
  keys = jax.random.split(key, len(MANY))
  found = bound(keys, p.schedule, *f32(MANY), variance, clip)
  found = {name: value[:FEW] for name, value in jax.device_get(found).items()}
  eps = draws(keys)[:, :FEW]
  L_T, L, L_0 = bound_terms(p, MANY[:FEW], eps, variance, clip)
  assert_allclose(found['prior'], L_T, rtol=1e-5)
  assert_array_equal(found['diffusion'][:, 0], 0.0)
  assert_allclose(found['diffusion'][:, 1:], L, rtol=1e-4)
  assert_allclose(found['reconstruction'], L_0, rtol=1e-4)
  total = L_T + L.sum(axis=1) + L_0
  assert_allclose(found['total'], total, rtol=1e-4)


def test_some_of_the_steps_are_terms_of_the_whole(key):
  """Drawn steps give a bound with a tenth of the variance of equal probabilities.

  An example draws its own: in another order of the batch it has the same.
  """
  p, n = ddpm(SEQUENCES['linear']), len(MANY)
  keys = jax.random.split(key, n)

  def of_steps(steps, order=slice(None)):
    x0 = f32(MANY[order])
    return jax.device_get(bound(keys[order], p.schedule, *x0, 'learned', True, steps=steps))

  whole, some, turned = of_steps(None), of_steps(5), of_steps(5, slice(None, None, -1))
  assert_allclose(turned['total'][::-1], some['total'], rtol=1e-5)
  draw = jax.jit(elbo.draw_steps, static_argnums=2)
  _, expected = draw(keys, p.at_step(p.steps), 5)
  draws = some['diffusion'][:, 1:] / whole['diffusion'][:, 1:]
  draws *= np.asarray(expected)
  assert_allclose(draws, np.rint(draws), atol=1e-4)
  assert (np.rint(draws).sum(axis=1) == 5).all()
  assert_array_equal(some['reconstruction'], whole['reconstruction'])
  difference = some['total'].astype(np.float64) - whole['total']
  assert abs(difference.mean()) < 4.5 * difference.std() / n**0.5
  equal = 19**2 / 5 * (1 - 5 / 19) * whole['diffusion'][:, 1:].var(1, ddof=1)
  assert difference.var() < 0.1 * equal.mean()


# In the exact model of x_0 ~ N(0, I), E[x_0 | x_t] = alpha x_t and fixed_large
# is the exact variance of every transition (section 3.2 of the paper). The
# bound is then tight: its mean over the noise is -log N(x_0; 0, I).
ORACLE = oracles.gaussian(np.zeros(2), np.eye(2))
POINTS = np.array([[0.0, 0.0], [1.0, -2.0], [0.3, 0.7]])


def decoder_of_level(x0, step):
  variance = jnp.full_like(x0, step.level.sigma**2)
  return -jnp.sum(dj.log_prob(dj.Normal(step.mean, variance), x0), axis=1)


@pytest.mark.parametrize(
  'schedule, steps',
  [
    # Each of its terms is compared, above.
    slow(ddpm(SEQUENCES['linear']).schedule, None, id='clean start'),
    pytest.param(dj.CosineSchedule(-6.0, 6.0), 3, id='noisy start'),
  ],
)
def test_the_bound_of_the_exact_model_is_the_likelihood(schedule, steps, key):
  run = lambda x0: dj.variational_bound(
    key,
    ORACLE.denoise,
    schedule,
    x0,
    num_steps=T,
    steps=steps,
    variance='fixed_large',
    decoder=decoder_of_level,
  )
  x0 = np.repeat(POINTS, 4000, axis=0)
  found = jax.device_get(jax.jit(run)(*f32(x0)))
  total = np.asarray(found['total'], np.float64).reshape(len(POINTS), -1)
  expected = 0.5 * (POINTS**2 + np.log(2 * np.pi)).sum(axis=1)
  error = total.std(axis=1) / total.shape[1] ** 0.5
  assert (np.abs(total.mean(axis=1) - expected) < 4 * error + 1e-5).all()
  assert found['diffusion'].shape == (len(x0), T)
  clean_start = bool(level_at(schedule, 0.0).sigma == 0.0)
  assert (found['diffusion'][:, 0] == 0.0).all() == clean_start
