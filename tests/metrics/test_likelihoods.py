"""Likelihoods of exact denoisers, in closed form."""

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm

import diffusion_jax as dj
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.metrics import likelihoods
from diffusion_jax.testing import oracles
from tests.rows import slow

MEAN, STD = np.array([1e3, -2.0]), np.array([1e-3, 50.0])


def exact(law, spec) -> Any:
  """Returns a model with the exact denoiser of a distribution."""
  return types.SimpleNamespace(
    facts=Facts(spec),
    schedule=lambda params: dj.KarrasSchedule(2e-3, 40.0),
    denoiser=lambda params, cond: law.denoise,
  )


BOX = MEAN[0] - 0.5 * STD[0], MEAN[0] + 1.0 * STD[0]
VALUES = ArraySpec((2,), 0, tuple(MEAN), tuple(STD), *((end,) for end in BOX))
ODE, KEYS = likelihoods.ode(box_draws=200), jax.random.split(jax.random.key(1), 50)


@jax.jit
def measured(arrays, x):
  law = oracles.Mixture(**arrays)
  return ODE.measure(exact(law, VALUES))({}, KEYS, x, {}), law.log_prob(x, dj.clean_level())


def test_ode_of_vectors_is_their_density_in_their_units(rng):
  """The exact denoiser of a mixture leaves no noise of an estimate."""
  means, spread = np.array([[-1, 0.5], [0.8, -0.4]]), [[0.3, 0.2], [0.2, 0.25]]
  law = oracles.mixture([0.3, 0.7], means, [spread] * 2)
  x = means[rng.choice(2, 50, p=[0.3, 0.7])] + rng.multivariate_normal([0, 0], spread, 50)
  arrays, log_prob = jax.device_get(measured(vars(law), np.float32(x)))
  expected = (np.log(STD).sum() - log_prob) / 2
  assert_allclose(arrays['nats'], expected, atol=0.02)  # sigma ends at 40
  assert abs(np.mean(arrays['nats'] - expected)) < 3e-3


def test_ode_within_the_box_is_the_truncated_density():
  """The share of N(0.2, 0.6^2) within [-0.5, 1] is Phi's, given x_2 too."""
  law = oracles.mixture([1, 1], [[0.2, -0.3]] * 2, [np.diag([0.36, 0.5])] * 2)
  x = np.stack([np.linspace(-0.4, 0.9, 50), np.zeros(50)], axis=1)
  arrays = jax.device_get(measured(vars(law), np.float32(x))[0])
  whole, truncated = ODE.compute(arrays)
  share = np.diff(norm.cdf([-0.5, 1.0], 0.2, 0.6))[0]
  gain = whole.estimate.value - truncated.estimate.value
  error = np.sqrt((1 / share - 1) / 10_000) / 2
  assert abs(gain + np.log(share) / 2) < 4.5 * error < 0.02
  measure = likelihoods.ode(box_draws=0).measure(exact(law, VALUES))
  assert 'truncated' not in jax.eval_shape(measure, {}, KEYS, x, {})


def test_random_steps_have_a_sum_and_no_curves(tmp_path):
  arrays = {name: np.ones(1) for name in ('total', 'prior', 'reconstruction')}
  arrays['diffusion'] = arrays['squared_error'] = np.ones((1, 4))
  report = likelihoods.elbo(random_steps=2).report
  assert report is not None
  found = report(arrays, tmp_path)
  assert found == {
    'prior': 1.0,
    'diffusion': 4.0,
    'reconstruction': 1.0,
    'random_steps': 2,
  }
  assert not list(tmp_path.iterdir())


STEPS, CONTINUOUS = dj.DiscreteSchedule.from_betas(dj.linear_betas(8)), dj.GeometricVESchedule()


@pytest.mark.parametrize(
  'options, schedule',
  [
    *(({}, schedule) for schedule in (STEPS, CONTINUOUS)),
    ({'random_steps': 3}, STEPS),
    slow({'num_steps': 6}, STEPS),
    *(slow(options, CONTINUOUS) for options in ({'random_steps': 3}, {'num_steps': 6})),
  ],
)
def test_the_calls_of_the_bound_are_counted(options, schedule):
  """Also the decoder's, and the transition to schedule(0) if that has noise."""
  calls = []

  def denoise(x, level):
    jax.debug.callback(lambda: calls.append(1))
    return dj.Prediction(x)

  model: Any = types.SimpleNamespace(
    facts=Facts(ArraySpec((2, 2, 1), 256)),
    schedule=lambda params: schedule,
    starts_noisy=bool(schedule(0.0).sigma > 0.0),
    denoiser=lambda params, cond: denoise,
    schedule_steps=8,
    reverse_variance='fixed_small',
    clips=False,
  )
  metric = likelihoods.elbo(**options)
  jax.jit(metric.measure(model))({}, KEYS[:1], jnp.zeros((1, 2, 2, 1)), {})
  jax.effects_barrier()
  assert len(calls) == metric.calls(model, None)
