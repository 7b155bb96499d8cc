"""Every parametrization of a network is the same denoiser, at trained levels and beyond."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.core.parametrization import KINDS
from diffusion_jax.testing import oracles
from tests.jitted import at_step, jitted, level_at
from tests.transcribed import transcribes

SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
GAUSSIAN = oracles.gaussian([0.5, -1.0], [[0.3, 0.1], [0.1, 0.2]])


def network_of(kind):
  """Returns the network that predicts `kind` from params = (E[x_0 | x_t], x_t)."""

  def network_fn(params, x, noise, cond, *, key=None):
    level = at_step(SCHEDULE, noise.astype(int) + 1)
    if kind == 'edm':  # Its input is c_in x.
      x *= jnp.sqrt(level.sigma**2 + 0.25 * level.alpha**2)[:, None]
    truth, xt = params
    x0 = truth + (x - xt)  # An error of the input is seen.
    return dj.target(kind, x0, dj.eps_from_x0(x0, x, level), level)

  return network_fn


def test_every_parametrization_is_the_same_denoiser(key):
  """The level is [] or [B]."""
  at = dj.step_input(1000)
  networks = [dj.Network(network_of(kind), at, parametrization=kind) for kind in KINDS]

  @jax.jit
  def estimates(*params, level):
    return [network.denoiser(params)(params[1], level).x0 for network in networks]

  truth, x = np.random.default_rng(0).normal(size=(2, 4, 2)).astype(np.float32)
  for step in (300, np.array([50, 300, 600, 900])):
    level = at_step(SCHEDULE, step)
    for x0 in estimates(truth, x, level=level):
      alpha = np.asarray(level.alpha).reshape(-1, 1)
      assert_allclose(alpha * (np.asarray(x0) - truth), 0.0, atol=5e-6)


@pytest.mark.parametrize('num_steps', [1, 1000, 4000])
def test_step_input_gives_the_published_integers(num_steps):
  schedule = dj.DiscreteSchedule.from_betas(dj.linear_betas(num_steps))
  steps = np.arange(num_steps + 1)
  scale = 1000 / num_steps

  @jax.jit
  def inputs(steps):
    level = at_step(schedule, steps)
    rescaled = dj.step_input(num_steps, scale=scale)
    return dj.step_input(num_steps)(level), rescaled(level)

  found, rescaled = inputs(steps)
  assert_array_equal(found, np.maximum(steps - 1, 0))
  expected = np.maximum(steps - 1, 0) * scale
  assert_allclose(rescaled, expected, rtol=1e-6)


def test_noise_inputs():
  level = dj.NoiseLevel(*(jnp.asarray(v) for v in (0.5, 1.0, 2.0)))
  assert_allclose(dj.logsnr_input(level), -2 * np.log(2), rtol=1e-6)
  assert_allclose(dj.edm_input(level), np.log(2) / 4, rtol=1e-6)
  assert_allclose(dj.log_sigma_input(level), np.log(2), rtol=1e-6)
  assert dj.time_input()(level) == 500.0
  assert dj.time_input(999.0)(level) == 499.5


def test_params_cond_and_key_reach_the_network():
  calls = {}

  def network_fn(params, x, noise, cond, *, key=None):
    calls.update(params=params, cond=cond, key=key, noise=noise.shape)
    return x.astype(jnp.bfloat16)

  cond = {'label': jnp.arange(2)}
  denoise = dj.Network(network_fn, dj.logsnr_input).denoiser('weights', cond)
  run = lambda x: denoise(x, at_step(SCHEDULE, 10))
  prediction = jax.eval_shape(run, jnp.ones((2, 3)))
  expected = {'params': 'weights', 'cond': cond, 'key': None, 'noise': (2,)}
  assert calls == expected
  assert prediction.x0.dtype == jnp.float32
  assert prediction.var_frac is None


FLOW, KARRAS = dj.RectifiedFlowSchedule(), dj.KarrasSchedule()
ZERO_SNR = dj.DiscreteSchedule.from_betas(dj.zero_terminal_snr(dj.linear_betas(1000)))


def asked(trained, x, level):
  """Returns the sum of x0; x0 and the arguments (x, level) of the exact denoiser."""
  calls = []

  def denoise(x, level):
    calls.append((x, level))
    return GAUSSIAN.denoise(x, level)

  x0 = dj.at_training_levels(denoise, trained)(x, level).x0
  return jnp.sum(x0), (x0, calls[0])


at_training_levels = jax.jit(lambda *args: asked(*args)[1])
with_slopes = jax.jit(jax.grad(asked, (1, 2), has_aux=True))


@pytest.mark.parametrize('schedule, trained', [
  (KARRAS, SCHEDULE), (FLOW, dj.CosineSchedule()), (dj.SubVPSchedule(), SCHEDULE),
])  # fmt: skip
def test_at_training_levels_asks_at_equal_snr(schedule, trained, rng):
  """A denoiser for VP levels is exact at levels that are not VP."""
  level = level_at(schedule, np.linspace(0.35, 0.95, 7, dtype=np.float32))
  x0, eps = rng.normal(size=(2, 7, 2)).astype(np.float32)
  x = jitted(dj.q_sample)(x0, eps, level)
  expected = jitted(GAUSSIAN.denoise)(x, level).x0
  found, (_, level_used) = at_training_levels(trained, x, level)
  assert_allclose(found, expected, atol=1e-5)
  assert_allclose(level_used.sigma, level_at(trained, level_used.t).sigma, atol=1e-5)


def test_at_training_levels_beyond_the_trained_range():
  """The last level is used, with the larger part of x_t in its scale."""
  level = dj.NoiseLevel(jnp.zeros(2), jnp.ones(2), jnp.array([1e4, 1e-6]))
  _, (x, level_used) = at_training_levels(SCHEDULE, jnp.ones((2, 2)), level)
  last = at_step(SCHEDULE, 1000)
  assert_allclose(level_used.t, [1.0, 0.0], atol=1e-6)
  assert_allclose(level_used.sigma[0], last.sigma, rtol=1e-6)
  assert_allclose(x[:, 0], [float(last.sigma) / 1e4, 1.0], rtol=1e-6)


@pytest.mark.parametrize('trained', [SCHEDULE, ZERO_SNR, KARRAS, FLOW])
def test_at_training_levels_without_signal(trained, rng):
  """The noisiest level of training is used, with x_t in its scale."""
  x = rng.standard_normal((3, 2), np.float32)
  last_sigma = np.asarray(level_at(trained, 1.0).sigma)
  for sigma in (1.0, 3.0):
    level = dj.NoiseLevel(*map(jnp.asarray, (1.0, 0.0, sigma)))
    slopes, (x0, (seen, level_used)) = with_slopes(trained, sigma * x, level)
    assert np.isfinite(x0).all()
    assert_allclose(seen, last_sigma * x, rtol=1e-5)
    assert level_used.t == 1.0
    for slope in jax.tree.leaves(slopes):
      assert np.isfinite(slope).all()


def test_at_training_levels_of_clean_data(rng):
  x = rng.standard_normal((3, 2), np.float32)
  level = dj.clean_level()._replace(alpha=jnp.asarray(2.0))
  found, _ = at_training_levels(KARRAS, 2.0 * x, level)
  expected = jitted(GAUSSIAN.denoise)(x, KARRAS(0.0)).x0
  assert_allclose(found, expected, rtol=1e-5)


def test_clip_denoised_clips_x0_and_nothing_else():
  def denoise(xt, level):
    return dj.Prediction(2.0 * xt, xt)

  level = level_at(SCHEDULE, 0.5)
  x = jnp.array([[-2.0, -0.3, 0.4, 3.0]])
  found = dj.clip_denoised(denoise)(x, level)
  assert_allclose(found.x0, [[-1.0, -0.6, 0.8, 1.0]])
  assert_array_equal(found.var_frac, x)
  narrow = dj.clip_denoised(denoise, 0.0, 0.5)(x, level)
  assert_allclose(narrow.x0, [[0.0, 0.0, 0.5, 0.5]])


@transcribes(
  'Imagen (Saharia et al. 2022)',
  'section 2.3: dynamic thresholding',
  '`dynamic_threshold`',
)
def test_dynamic_threshold_literally(rng):
  """The threshold is Imagen's formula; the second image is within [-1, 1]."""
  x0 = 2.0 * rng.standard_normal((3, 4, 4, 2))
  x0[1] = np.clip(x0[1], -0.9, 0.9)
  truth = jnp.asarray(x0, jnp.float32)
  for quantile, largest in ((0.995, None), (0.8, None), (0.9, 1.5), (0.9, 0.5)):
    expected = np.empty_like(x0)
    for i in range(3):
      s = max(np.quantile(np.abs(x0[i]), quantile), 1.0)
      s = s if largest is None else min(s, largest)
      expected[i] = np.clip(x0[i], -s, s) / s
    denoise = dj.dynamic_threshold(lambda xt, level: dj.Prediction(truth), quantile, largest)
    found = jax.jit(denoise)(jnp.zeros((3, 4, 4, 2)), level_at(SCHEDULE, 0.5)).x0
    assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    if largest is None or largest >= 1.0:
      assert_allclose(found[1], x0[1], rtol=1e-6)
