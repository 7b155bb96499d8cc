"""The parts of the section `sampling`, short names of fields, and what a plan draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import diffusion_jax as dj
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.sampling import ALIASES, FILM, Plan
from diffusion_jax.testing import oracles
from tests.app.conftest import read, refused


def test_a_file_may_use_a_short_name_too():
  tree = {'sampling': {'num_steps': 7}, 'training': {'mesh': (2, 1)}}
  config = store.completed(tree)
  assert config.sampling.grid.number == 7 and config.training.machine.mesh == (2, 1)
  assert {'sampling.num_steps', 'training.mesh'} == {*ALIASES}


def test_a_short_name_chooses_its_section_and_does_not_change_another_choice():
  digits = read('digits')
  respaced = store.with_flags(digits, [('sampling.grid', 'respaced'), ('sampling.grid.steps', '9')])
  again = store.with_flags(respaced, [('sampling.num_steps', '5')])
  assert again.sampling.grid.to_dict() == {'name': 'steps', 'number': 5, 'spacing': 'uniform'}
  karras = store.with_flags(digits, [('sampling.grid.spacing', 'karras')])
  kept = store.with_flags(karras, [('sampling.num_steps', '5')])
  assert kept.sampling.grid.to_dict() == {'name': 'steps', 'number': 5, 'spacing': 'karras'}
  both = [('sampling.num_steps', '5'), ('sampling.grid', 'respaced')]
  for flags in (both, both[::-1]):
    refused('give config.sampling.grid two values', store.with_flags, digits, flags)
  tree = {'sampling': {'num_steps': 7, 'grid': {'name': 'respaced', 'steps': '9'}}}
  refused('give config.sampling.grid two values', store.completed, tree)


@pytest.mark.parametrize('bound, lowest', [('None', -3.0), ('clip', -1.0)])
def test_a_bound_of_none_is_none(bound, lowest):
  """`sampling.bound=None` means no bound, although the default of the field is another value."""
  c = store.with_flags(read('digits'), [('sampling.bound', bound)]).sampling.make()
  denoise = (c.bound or (lambda f: f))(lambda xt, level: dj.Prediction(xt))
  level = dj.CosineSchedule()(0.5)
  assert denoise(np.full((1, 2), -3.0, np.float32), level).x0.min() == lowest


def test_a_film_ends_with_the_samples():
  schedule = dj.RectifiedFlowSchedule()
  data = oracles.gaussian(np.zeros(2), np.eye(2))
  plan = Plan(
    schedule,
    dj.level_grid(schedule, 40),
    dj.ddim(),
    lambda cond, after_guidance=None: data.denoise,
    lambda keys, level: dj.prior_sample(keys, (*keys.shape, 2), level),
  )

  @jax.jit
  def both(keys):
    return plan.from_noise(keys, {}), plan.film(keys, {})

  samples, (x, frames, others) = both(jax.random.split(jax.random.key(0), 3))
  assert_array_equal(x, samples)
  assert others == {}
  assert frames.shape[0] == 3 and frames.shape[1] <= FILM[0] + 1
  assert_array_equal(frames[:, -1], x)
  assert jnp.isfinite(frames).all()


@pytest.mark.parametrize('alpha, sigma', [(0.5**0.5, 0.5**0.5), (1.0, 1.0)])
def test_samples_that_start_at_noised_examples_have_their_law(alpha, sigma):
  """Of an ODE that starts at an SNR of 1, where noise alone is far from x_t of N(2, 1/16).

  Its solution is m + s (x_t - alpha m) / sqrt(alpha^2 s^2 + sigma^2). Noise has the variance
  alpha^2 + sigma^2.
  """
  schedule, m, s = dj.CosineSchedule(), 2.0, 0.25
  t = np.linspace(1.0, 0.0, 101, dtype=np.float32)
  of_noise = np.sin(0.5 * np.pi * t / 2) * 2**0.5 * sigma
  of_data = np.cos(0.5 * np.pi * t / 2) if alpha < 1.0 else np.ones_like(t)
  levels = dj.NoiseLevel(t, of_data.astype(np.float32), of_noise.astype(np.float32))
  data = oracles.gaussian(np.full(1, m), np.full((1, 1), s**2))
  plan = Plan(
    schedule,
    levels,
    dj.ddim(),
    lambda cond, after_guidance=None: data.denoise,
    lambda keys, level: dj.prior_sample(keys, (*keys.shape, 1), level),
  )
  keys = jax.random.split(jax.random.key(0), 4000)
  start = m + s * jax.random.normal(jax.random.key(1), (4000, 1))
  draw = jax.jit(plan.from_noise)
  slope = s / np.hypot(alpha * s, sigma)
  of_prior = m - slope * alpha * m, slope * np.hypot(alpha, sigma)
  for cond, (mean, std) in (({}, of_prior), ({'start': start}, (m, s))):
    x = draw(keys, cond)
    assert np.mean(x) == pytest.approx(mean, abs=5 * std / 4000**0.5)
    assert np.std(x) == pytest.approx(std, rel=5 / 8000**0.5)
