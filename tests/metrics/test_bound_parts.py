"""The parts of a bound on four laws, which add up to it, and their closed forms."""

import functools
import types
from typing import Any

import jax
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.metrics import bound_parts
from diffusion_jax.metrics.estimates import mean
from diffusion_jax.testing import oracles

SCHEDULE = dj.CosineSchedule(-8.0, 8.0)
STEPS, N, BIAS = 100, 2048, 0.3
SPREAD = np.array([[4.0, 0.5], [0.5, 0.25]])


def of_three(weights, means, covs):
  """Returns a law of three Gaussians, so that all laws have one program."""
  return oracles.mixture(weights, means, covs)


LAWS = {
  'a Gaussian': of_three(np.ones(3) / 3, [[1.0, -0.5]] * 3, [SPREAD] * 3),
  'two scales': of_three(np.ones(3) / 3, [[0.0, 0.0]] * 3, [np.diag([1.0, 1e-3])] * 3),
  'a mixture': of_three(
    [0.2, 0.5, 0.3],
    [[-2.0, 0.0], [0.0, 1.0], [1.5, -1.0]],
    [np.eye(2) * 0.05, np.eye(2) * 0.01, np.diag([0.3, 0.02])],
  ),
  'near points': of_three(
    [0.5, 0.25, 0.25], [[-1.0, -1.0], [-1.0, 1.0], [1.0, 0.5]], [np.eye(2) * 2e-3] * 3
  ),
}


@jax.jit
def measured(arrays, key, x0, bias):
  """Returns the arrays of the metric, and the bound of Eq. 5 of other draws."""
  law = oracles.Mixture(**arrays)

  def denoise(xt, level):
    return dj.Prediction(law.denoise(xt, level).x0 + bias * level.expand_to(xt).sigma)

  model = types.SimpleNamespace(
    facts=Facts(ArraySpec((2,), 0, mean=(0.0, 0.0), std=(2.0, 0.5))),
    schedule=lambda params: SCHEDULE,
    denoiser=lambda params, cond: denoise,
    law=law,
    reads=(),
    clips=False,
    starts_noisy=True,
    reverse_variance='fixed_small',
  )
  keys = jax.random.split(key, len(x0) + 1)
  metric = bound_parts.bound_parts(num_times=4, num_steps=STEPS)
  bound = dj.variational_bound(
    keys[0],
    denoise,
    SCHEDULE,
    x0,
    num_steps=STEPS,
    decoder=lambda x0, last: -bound_parts.log_flat(x0, last.z, last.level),
  )
  return metric.measure(model)({}, keys[1:], x0, {}), bound['total'] / 2


@functools.cache
def found(name, is_biased):
  law = LAWS[name]
  x0 = law.sample(jax.random.key(0), N)
  return jax.device_get(measured(vars(law), jax.random.key(1), x0, BIAS * is_biased))


def part(name, of, is_biased=False):
  return mean(found(name, is_biased)[0][of])


@pytest.mark.parametrize('is_biased', [False, True])
@pytest.mark.parametrize('name', LAWS)
def test_the_parts_add_up_to_the_bound(name, is_biased):
  """To 2 %, or what the errors allow, for a bound of other draws."""
  arrays, bound = found(name, is_biased)
  bound = mean(bound)  # in the units that the network sees
  scores = bound_parts.parts_of(arrays)
  quarters = 't 3/4 to 1', 't 1/2 to 3/4', 't 1/4 to 1/2', 't 0 to 1/4'
  assert [x.name for x in scores] == ['entropy', 'prior', *quarters, 'steps', 'decoder']
  together = sum(x.estimate.value for x in scores)
  total = bound_parts.compute(arrays)[0]
  assert total.note == 'nats/dim' and total.name == 'bound_parts'
  rest = mean(sum(arrays[x.name] for x in scores) - arrays['nats/dim'])  # of equal draws
  assert abs(rest.value) < 4.5 * rest.error < 0.2
  noise = np.hypot(bound.error, total.estimate.error)
  expected = bound.value + 0.5 * np.log(2.0 * 0.5)  # log_det of ArraySpec
  assert abs(together - expected) < max(0.02 * abs(expected), 4.5 * noise)
  assert 4.5 * noise < 0.6 + is_biased


def snr(t):
  return np.exp(np.asarray(SCHEDULE(np.asarray(t)).logsnr, np.float64))


@pytest.mark.parametrize('name', LAWS)
def test_what_the_network_has_above_the_exact_denoiser(name):
  """Its errors are BIAS^2 sigma^2 larger, half of whose integral is in closed form."""
  rates = np.log1p(snr(np.linspace(1.0, 0.0, 5)))
  for quarter, expected in zip(bound_parts.QUARTERS, 0.5 * BIAS**2 * np.diff(rates), strict=True):
    value, error = part(name, quarter, True)
    assert abs(value - expected) < 4.5 * error < 0.7 * expected, quarter
    assert part(name, quarter).value == 0.0


@pytest.mark.parametrize('name', ['a Gaussian', 'two scales'])
def test_the_other_parts_of_a_gaussian(name):
  law = LAWS[name].component(0)
  variances = np.asarray(law.eigenvalues[0], np.float64)
  mean_square = np.sum(np.square(np.asarray(law.means[0])))
  times = np.arange(STEPS, -1, -1) / STEPS
  ratio, last = snr(times), SCHEDULE(0.0)
  # E |x_0 - x0_hat|^2 is the sum of v / (1 + snr v).
  errors = np.sum(variances / (1.0 + ratio[:, None] * variances), axis=1)
  in_steps = 0.5 * np.sum(np.diff(ratio) * errors[:-1])
  integral = 0.5 * np.sum(np.log1p(ratio[-1] * variances) - np.log1p(ratio[0] * variances))
  noise = SCHEDULE(1.0)
  wide = np.asarray(noise.alpha, np.float64) ** 2 * variances + float(noise.sigma) ** 2
  whole = float(noise.alpha) ** 2 + float(noise.sigma) ** 2
  shift = float(noise.alpha) ** 2 * mean_square
  expected = {
    'entropy': 0.5 * np.sum(np.log(2.0 * np.pi * np.e * variances)),
    'prior': 0.5 * np.sum(wide / whole - 1.0 - np.log(wide / whole)) + 0.5 * shift / whole,
    'steps': in_steps - integral,
    'decoder': 0.5 * np.sum(np.log1p(1.0 / (variances * float(last.snr)))),
  }
  for of, nats in expected.items():
    value, error = part(name, of)
    assert abs(value - nats / 2) < 4.5 * error + 1e-5 and error < 0.02 + 0.02 * abs(nats), of


def test_what_is_not_known_is_one_part():
  arrays = {k: x for k, x in found('a mixture', True)[0].items() if k != 'entropy'}
  arrays |= {f'{bound_parts.OF_LINEAR}{q}': np.zeros(N) for q in bound_parts.QUARTERS}
  unknown, *others = bound_parts.parts_of(arrays)
  assert unknown.name == 'unknown' and [x.name for x in others] == ['prior', 'steps']
  named = sum(part('a mixture', of, True).value for of in ('decoder', *bound_parts.QUARTERS))
  assert unknown.estimate.value == pytest.approx(named)
  above = bound_parts.above_linear(arrays)
  assert above[-1].estimate == part('a mixture', 't 0 to 1/4', True)


def test_few_steps_have_no_quarters():
  model: Any = types.SimpleNamespace(schedule_steps=1000)
  with pytest.raises(ValueError, match='num_steps is 4: the bound has parts with 5 steps or more'):
    bound_parts.bound_parts(num_steps=4).measure(model)
  assert bound_parts.bound_parts(num_times=2, draws=3).calls(model, None) == 14
