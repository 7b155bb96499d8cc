"""Losses of all parametrizations agree, and random times have the distributions that they name."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.core import losses
from diffusion_jax.core.parametrization import KINDS
from tests.jitted import jitted, level_at
from tests.transcribed import transcribes

SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
at_step = jax.jit(SCHEDULE.at_step)
WEIGHTS = [
  dj.snr_weight,
  dj.truncated_snr_weight,
  dj.min_snr_weight(5.0),
  dj.edm_weight(0.5),
  dj.flow_weight,
  dj.v_weight,
]
JIT = dj.min_flow_weight(), dj.min_flow_weight(9.0)


def test_every_parametrization_has_the_same_loss(rng):
  """The loss is weight |x_0 - x0_hat|^2 in the output space of any network."""
  x0, eps, wrong = rng.standard_normal((3, 4, 6), np.float32)
  x0_hat = x0 + 0.3 * wrong
  cases = list(itertools.product(KINDS, WEIGHTS))

  @jax.jit
  def losses_and_weights(x0, eps, x0_hat, level):
    eps_hat = dj.eps_from_x0(x0_hat, dj.q_sample(x0, eps, level), level)

    def loss(kind, weight):
      y = dj.target(kind, x0_hat, eps_hat, level)
      return dj.denoising_loss(kind, y, x0, eps, level, weight)

    return [(loss(*case), case[1](level)) for case in cases]

  level = at_step(np.array([100, 300, 500, 700]))
  for found, weight in losses_and_weights(x0, eps, x0_hat, level):
    expected = weight * np.sum((x0 - x0_hat) ** 2, axis=1)
    assert_allclose(found, expected, rtol=1e-3)


@transcribes(
  'JiT (Li & He 2025)', 'weight 1 / max(t, 0.05)² of an estimate of x_0', '`min_flow_weight`'
)
@transcribes(
  'Progressive distillation (Salimans & Ho 2022)',
  'v; SNR, truncated SNR, SNR + 1',
  "`'v'`; `snr_weight`, `truncated_snr_weight`, `v_weight`",
)
@transcribes('min-SNR (Hang et al. 2023)', 'min(SNR, γ)', '`min_snr_weight`')
def test_weights():
  sigma = np.float32([0.01, 0.3, 5.0])
  level = dj.NoiseLevel(0.0, np.ones(2), np.float32([0.1, 2.0]))
  wide = [dj.NoiseLevel(0.0, np.ones(3), s) for s in (sigma, 2 * sigma)]

  @jax.jit
  def weights():
    straight = dj.RectifiedFlowSchedule()(jnp.array([0.01, 0.05, 0.3, 1.0]))
    found = [weight(level) for weight in WEIGHTS]
    found += [weight(straight) for weight in JIT]
    return found, dj.edm_weight(0.5)(wide[0]), dj.edm_weight(1.0)(wide[1])

  found, once, twice = weights()
  for weight, expected in zip(found, (
    [100, 0.25], [100, 1], [5, 0.25], [104, 4.25], [121, 2.25], [102.01, 6.25],
    [400, 400, 1 / 0.3**2, 1], [9, 9, 9, 1],  # 1 / max(t, 0.05)^2, and 9
  ), strict=True):  # fmt: skip
    assert_allclose(weight, expected, rtol=1e-5)
  # At twice the noise of data twice as wide, 1 / c_out^2 is a quarter.
  assert_allclose(twice, once / 4.0, rtol=1e-5)


def test_the_loss_of_weight_v_is_the_squared_error_of_v(rng):
  """v = alpha eps - sigma x_0; the weight is SNR + 1 (Salimans & Ho 2022, section 4)."""
  x0, eps, output = rng.standard_normal((3, 4, 6), np.float32)
  level = at_step(np.array([1, 300, 700, 1000]))
  found = jitted(dj.denoising_loss)('v', output, x0, eps, level, dj.v_weight)
  v = np.reshape(level.alpha, (-1, 1)) * eps - np.reshape(level.sigma, (-1, 1)) * x0
  assert_allclose(found, np.sum((output - v) ** 2, axis=1), rtol=1e-4)
  assert_allclose(dj.v_weight(level), level.snr + 1.0, rtol=1e-4)


@transcribes(
  'Rectified flow (Liu et al. 2022; Lipman et al. 2022)',
  "Liu's 1: squared error of the velocity",
  "`'flow'` of `target`; `flow_weight`",
)
def test_flow_loss_is_the_squared_error_of_the_velocity(rng):
  """The flow loss is |eps - x_0 - v_hat|^2 on the straight path, also without signal."""
  x0, eps, output = rng.standard_normal((3, 4, 6), np.float32)
  t = np.float32([1e-4, 0.3, 0.9, 1.0])

  @jax.jit
  def loss(output, x0, eps):
    level = dj.RectifiedFlowSchedule()(t)
    losses = dj.denoising_loss('flow', output, x0, eps, level, dj.flow_weight)
    return losses, dj.flow_weight(level)

  found, weight = loss(output, x0, eps)
  expected = np.sum((eps - x0 - output) ** 2, axis=1)
  assert_allclose(found, expected, rtol=1e-5)
  assert_allclose(weight, 1.0 / t**2, rtol=1e-6)


@pytest.mark.parametrize('kind', ['eps', 'x0', 'v'])
def test_loss_and_gradient_are_finite_at_zero_snr(kind, rng):
  """The limits are |eps - y|^2, 0 and 0."""
  x0, eps, y = rng.standard_normal((3, 2, 3), np.float32)
  level = dj.NoiseLevel(*(jnp.asarray(v) for v in (1.0, 0.0, 1.0)))
  loss = lambda y: jitted(dj.denoising_loss)(kind, y, x0, eps, level, dj.snr_weight).sum()
  value, grad = jax.jit(jax.value_and_grad(loss))(y)
  assert np.isfinite(value) and np.isfinite(grad).all()
  expected = np.sum((y - eps) ** 2) if kind == 'eps' else 0.0
  assert_allclose(value, expected, rtol=1e-5, atol=1e-20)


def drawn(times, *args, **options):
  """Compiles key -> level, weight of `times`."""
  return jax.jit(lambda key: times(key, *args, **options))


VP, FLOW = dj.LinearVPSchedule(), dj.RectifiedFlowSchedule()
UNIFORM = scipy.stats.uniform()
time = lambda level: level.t
TIMES = {  # times, schedule, variable of a level, its distribution
  'uniform': (dj.uniform_times, VP, time, UNIFORM),
  'antithetic': (dj.antithetic_times, VP, time, UNIFORM),
  'from 0.5': (
    functools.partial(dj.uniform_times, t_min=0.5),
    VP,
    time,
    scipy.stats.uniform(0.5, 0.5),
  ),
  'log-normal': (
    dj.log_normal_times(-1.2, 1.2),
    dj.CosineSchedule(),
    lambda level: np.log(level.sigma / level.alpha),
    scipy.stats.norm(-1.2, 1.2),
  ),
  'logit-normal': (  # Esser et al. 2024, section 3.1
    dj.logit_normal_times(-0.5, 1.5),
    FLOW,
    lambda level: scipy.special.logit(level.t),
    scipy.stats.norm(-0.5, 1.5),
  ),
}


@transcribes('EDM (Karras et al. 2022)', 'Table 1: log-normal σ', '`log_normal_times`')
@transcribes('Esser et al. 2024', 'section 3.1: logit-normal t', '`logit_normal_times`')
@pytest.mark.parametrize('name', TIMES)
def test_times_have_their_distribution_and_are_never_zero(name, key):
  times, schedule, variable, law = TIMES[name]
  level, weight = jax.device_get(drawn(times, 4096, schedule)(key))
  assert (level.t > 0.0).all() and (level.t <= 1.0).all()
  assert (weight == 1.0).all()
  assert scipy.stats.kstest(variable(level), law.cdf).pvalue > 1e-5


@pytest.mark.parametrize('u', [0.0, 1.0 - 2.0**-24])  # the ends of uniform
@pytest.mark.parametrize('times', [dj.uniform_times, dj.antithetic_times])
def test_the_ends_of_times_are_noisy(times, u, key, monkeypatch):
  draw = lambda key, shape=(): jnp.full(shape, u)
  monkeypatch.setattr(jax.random, 'uniform', draw)
  level, _ = drawn(times, 4, VP)(key)
  assert (level.t > 0.0).all() and (level.t <= 1.0).all()


def test_antithetic_times_are_evenly_spread(key):
  level, _ = drawn(dj.antithetic_times, 16, VP)(key)
  t = np.sort(np.asarray(level.t))
  assert_allclose(np.diff(t), 1 / 16, atol=1e-6)


def test_step_times_are_all_the_steps(key):
  schedule = dj.DiscreteSchedule.from_betas(dj.linear_betas(5))
  level, weight = drawn(dj.step_times(5), 1000, schedule)(key)
  steps, counts = np.unique(np.asarray(level.t) * 5, return_counts=True)
  assert_allclose(steps, [1, 2, 3, 4, 5], rtol=1e-6)
  assert np.abs(counts - 200).max() < 5 * (1000 * 0.2 * 0.8) ** 0.5
  assert (weight == 1.0).all()


def test_a_part_of_times_is_at_the_start(key):
  """t = 1 has the probability and weight 1; other draws keep their weight."""

  def halves(key, batch_size, schedule):
    level, _ = dj.uniform_times(key, batch_size, schedule)
    return schedule(0.5 * level.t), jnp.full(batch_size, 3.0)

  times = drawn(losses.with_start(halves, 0.25), 4096, VP)
  level, weight = jax.device_get(times(key))
  first = level.t == 1.0
  assert_array_equal(weight, np.where(first, 1.0, 3.0))
  assert abs(first.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4096)
  assert_allclose(level.sigma, level_at(VP, level.t).sigma, rtol=1e-5)
  uniform = scipy.stats.uniform(0.0, 0.5)
  assert scipy.stats.kstest(level.t[~first], uniform.cdf).pvalue > 1e-5


@transcribes(
  'Diffusion Forcing (Chen et al. 2024)',
  'Alg. 1: independent noise levels of the tokens',
  '`independent_levels`',
)
@pytest.mark.parametrize('name', ['uniform', 'antithetic', 'log-normal'])
def test_levels_of_elements_are_independent_and_have_their_distribution(name, key):
  """Also by draws that are evenly spread over a batch: neighbours would be nearly equal."""
  times, schedule, variable, law = TIMES[name]
  levels = drawn(dj.independent_levels(clean=0.25), (4096, 3), times, schedule)
  level, weight = jax.device_get(levels(key))
  clean = level.sigma == 0.0
  assert_array_equal(level.alpha[clean], 1.0)
  assert_array_equal(weight, np.where(clean, 0.0, 1.0))
  assert abs(clean.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / clean.size)
  for i in range(3):
    noisy = ~clean[:, i]
    found = variable(jax.tree.map(lambda a, i=i, noisy=noisy: a[noisy, i], level))
    assert scipy.stats.kstest(found, law.cdf).pvalue > 1e-3
  both = ~clean[:, 0] & ~clean[:, 1]
  of_both = [variable(jax.tree.map(lambda a, i=i: a[both, i], level)) for i in (0, 1)]
  for pair in (of_both, (clean[:, 0], clean[:, 1])):
    test: Any = scipy.stats.spearmanr(*pair)
    assert test.pvalue > 1e-3


@transcribes(
  'Block diffusion (Arriola et al. 2025)',
  'training: a noisy block after clean ones',
  '`levels_in_turn`',
)
def test_one_block_is_noisy_in_turn(key):
  """Its level and weight are of the times; the weight stands for all three blocks."""
  times, schedule, variable, law = TIMES['log-normal']
  level, weight = jax.device_get(drawn(dj.levels_in_turn(2), (3000, 6), times, schedule)(key))
  turn = np.argmax(weight > 0.0, axis=1) // 2
  assert_array_equal(np.bincount(turn), [1000] * 3)
  place = np.arange(6) // 2 - turn[:, None]
  assert_array_equal(weight, np.where(place == 0, 3.0, 0.0))
  assert_array_equal(level.sigma[place < 0], 0.0)
  assert_allclose(level.sigma[place > 0], schedule(1.0).sigma, rtol=1e-6)
  of_block = jax.tree.map(lambda a: a[place == 0].reshape(-1, 2), level)
  assert_array_equal(of_block.t[:, 0], of_block.t[:, 1])
  found = variable(jax.tree.map(lambda a: a[:, 0], of_block))
  assert scipy.stats.kstest(found, law.cdf).pvalue > 1e-3
  with pytest.raises(ValueError, match='size=4 do not divide 6 elements'):
    dj.levels_in_turn(4)(key, (2, 6), dj.uniform_times, VP)


def test_blocks_of_elements_share_a_level(key):
  level, weight = jax.device_get(
    drawn(dj.independent_levels(size=2), (64, 6), dj.uniform_times, VP)(key)
  )
  for array in (*level, weight):
    pairs = array.reshape(64, 3, 2)
    assert_array_equal(pairs[..., 0], pairs[..., 1])
  assert len(np.unique(level.t[level.sigma > 0.0])) > 150
  with pytest.raises(ValueError, match='size=4 do not divide 6 elements'):
    dj.independent_levels(size=4)(key, (2, 6), dj.uniform_times, VP)


def test_some_element_of_a_batch_is_noisy():
  """A batch of clean elements would have the loss 0 / 0."""
  draw = jax.jit(lambda key: dj.independent_levels(clean=0.95)(key, (1, 2), dj.uniform_times, VP))
  weights = np.array([draw(jax.random.key(i))[1] for i in range(50)])
  assert (weights.sum(axis=(1, 2)) > 0.0).all()
  assert (weights == 0.0).any()


@transcribes(
  'Simformer (Gloeckler et al. 2024)',
  'the masks of a training: which numbers are given, with their probabilities',
  '`subset_levels`',
)
@pytest.mark.parametrize('parameters', [3, 0])
def test_clean_subsets_have_their_probabilities(parameters, key):
  """Three of four numbers are parameters, or none; within four standard errors."""
  n, rules = 20_000, 5 if parameters else 3
  levels = drawn(dj.subset_levels(parameters), (n, 4), dj.uniform_times, VP)
  clean = np.asarray(levels(key)[0].sigma) == 0.0

  def by_each(count):  # the probability of a mask with `count` known numbers
    return sum(p**count * (1 - p) ** (4 - count) for p in (0.3, 0.7)) / rules

  for mask, exact in (
    ([0, 0, 0, 0], 1 / rules + by_each(0) + by_each(4)),
    ([0, 0, 0, 1], (parameters > 0) / rules + by_each(1)),
    ([1, 1, 1, 0], (parameters > 0) / rules + by_each(3)),
    ([0, 1, 0, 1], by_each(2)),
    ([1, 1, 1, 1], 0.0),
  ):
    share = (clean == np.array(mask, bool)[None]).all(axis=1).mean()
    assert abs(share - exact) <= 4 * (exact * (1 - exact) / n) ** 0.5


@pytest.mark.parametrize('name', ['uniform', 'antithetic', 'log-normal'])
def test_what_is_noisy_shares_a_level_of_the_distribution(name, key):
  """Whatever is clean: levels and subsets of an example are independent."""
  times, schedule, variable, law = TIMES[name]
  levels = drawn(dj.subset_levels(1), (8192, 3), times, schedule)
  level, weight = jax.device_get(levels(key))
  clean = level.sigma == 0.0
  assert_array_equal(level.alpha[clean], 1.0)
  assert_array_equal(weight, np.where(clean, 0.0, 1.0))
  assert (~clean).any(axis=1).all()
  first = (~clean).argmax(axis=1)
  one = jax.tree.map(lambda a: a[np.arange(8192), first], level)
  for each, of_all in zip(level, one, strict=True):
    assert_array_equal(np.where(clean, of_all[:, None], each), of_all[:, None].repeat(3, axis=1))
  assert scipy.stats.kstest(variable(one), law.cdf).pvalue > 1e-3
  for mask in ([0, 0, 0], [1, 0, 0], [0, 1, 1]):
    of_mask = (clean == np.array(mask, bool)[None]).all(axis=1)
    found = variable(jax.tree.map(lambda a, of=of_mask: a[of], one))
    assert len(found) > 500 and scipy.stats.kstest(found, law.cdf).pvalue > 1e-3


def test_all_elements_are_no_parameters(key):
  with pytest.raises(ValueError, match='parameters=4 must be less than the 4 elements'):
    dj.subset_levels(4)(key, (2, 4), dj.uniform_times, VP)
