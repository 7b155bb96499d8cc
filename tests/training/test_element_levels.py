"""Denoising with a level for each element, against the loss written out element by element."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from diffusion_jax.training import objectives, vdm
from diffusion_jax.training.objectives import Context, Network
from tests.transcribed import transcribes

SCHEDULE = dj.CosineSchedule()
B, T, C = 8, 5, 2
X0 = np.random.default_rng(0).standard_normal((B, T, C), np.float32)
PARAMS = {'network': np.float32(0.7)}


def objective(kind='v', weight=dj.v_weight, clean=0.3, network_fn=None, **options):
  def apply(params, x, noise, cond, *, key=None):
    return params * x + 0.1 * noise[..., None]

  network = Network(network_fn or apply, dj.logsnr_input, parametrization=kind, level_axes=2)
  levels = dj.independent_levels(clean=clean)
  return objectives.denoising(
    network, SCHEDULE, times=dj.uniform_times, weight=weight, levels=levels, **options
  )


def drawn(loss, key):
  return jax.device_get(jax.jit(lambda key: loss.draw(key, {'x': X0}, Context())[0])(key))


@transcribes(
  'Diffusion Forcing (Chen et al. 2024)',
  'Alg. 1: the loss, over tokens of independent levels',
  '`training.objectives.denoising`',
)
@pytest.mark.parametrize('kind, weight', [('v', dj.v_weight), ('eps', dj.snr_weight)])
def test_the_loss_is_a_mean_over_noisy_elements(kind, weight, key):
  """|output - target|^2 of each noisy element; a clean one counts nowhere."""
  loss = objective(kind, weight)
  inputs = drawn(loss, key)
  value, (metrics, _) = jax.jit(loss.loss)(PARAMS, Context(), inputs, (key, key))
  alpha, sigma = (np.asarray(a, np.float64)[..., None] for a in inputs.level[1:])
  eps, x0 = np.float64(inputs.eps), np.float64(X0)
  noisy = sigma[..., 0] > 0.0
  assert 0.5 < noisy.mean() < 0.9
  with np.errstate(divide='ignore'):
    logsnr = np.where(noisy[..., None], 2.0 * np.log(alpha / sigma), 2.0 * np.log(1e4))
  output = np.float64(np.float32(0.7)) * (alpha * x0 + sigma * eps) + 0.1 * logsnr
  target = alpha * eps - sigma * x0 if kind == 'v' else eps
  each = np.where(noisy, np.mean((output - target) ** 2, axis=-1), 0.0)
  assert_allclose(value, each.mean(), rtol=1e-5)
  found = {name: float(m.total / m.count) for name, m in metrics.items()}
  assert_allclose(found['loss'], each.sum() / noisy.sum(), rtol=1e-5)
  quarter = np.ceil(4.0 * inputs.level.t)
  for q in range(1, 5):
    of = noisy & (quarter == q)
    assert_allclose(found[f'loss_quarter_{q}'], each[of].mean(), rtol=1e-5)


def test_what_is_not_known_is_noise_and_has_no_loss(key):
  """The loss is the mean over the known elements; the other number of one counts for nothing."""
  gaps = np.random.default_rng(1).random((B, T)) < 0.3
  some, other = X0.copy(), X0.copy()
  some[gaps, 1] = other[gaps, 1] = np.nan
  other[gaps, 0] = 7.0
  loss = objective(clean=0.0)

  @jax.jit
  def both(x):
    inputs, keys = loss.draw(key, {'x': x}, Context())
    of = lambda p: loss.loss({'network': p}, Context(), inputs, keys)[0]
    return inputs, jax.value_and_grad(of)(PARAMS['network'])

  inputs, (value, slope) = jax.device_get(both(some))
  assert jax.device_get(both(other)[1]) == (value, slope) and np.isfinite(slope)
  assert_allclose(inputs.level.t[gaps], 1.0)
  assert_allclose(inputs.xt[gaps], inputs.level.sigma[gaps][:, None] * inputs.eps[gaps], rtol=1e-6)
  whole = drawn(loss, key)
  assert_allclose(inputs.level.t[~gaps], whole.level.t[~gaps])
  alpha, sigma = (np.asarray(a, np.float64)[..., None] for a in inputs.level[1:])
  eps, x0 = np.float64(inputs.eps), np.float64(X0)
  output = 0.7 * (alpha * x0 + sigma * eps) + 0.1 * (2.0 * np.log(alpha / sigma))
  each = np.mean((output - (alpha * eps - sigma * x0)) ** 2, axis=-1)
  assert_allclose(value, each[~gaps].mean(), rtol=1e-5)


def test_the_exact_denoiser_has_the_least_loss_of_data_with_gaps(key):
  """The loss of an AR(1) is the variance of what is known given x_t, and its slope there is 0.

  The oracle's level at a gap is noise, so that the gap is integrated out.
  """
  rng, size, count = np.random.default_rng(2), 4, 4096
  cov = 0.8 ** abs(np.subtract.outer(np.arange(size), np.arange(size)))
  x = rng.multivariate_normal(np.zeros(size), cov, count).astype(np.float32)
  gaps = rng.random(x.shape) < 0.3
  exact = oracles.gaussian(np.zeros(size), cov)

  def network(params, x, noise, cond, *, key=None):
    alpha, sigma = (jnp.sqrt(jax.nn.sigmoid(a)) for a in (noise, -noise))
    level = dj.NoiseLevel(jnp.zeros_like(alpha), alpha, sigma)
    return params * exact.denoise(x[..., 0], level).x0[..., None]

  loss = objective('x0', lambda level: jnp.ones_like(level.t), clean=0.0, network_fn=network)

  @jax.jit
  def run(x):
    inputs, keys = loss.draw(key, {'x': x}, Context())
    of = lambda p: loss.loss({'network': p}, Context(), inputs, keys)[0]
    return inputs.level, jax.value_and_grad(of)(1.0)

  level, (value, slope) = jax.device_get(run(np.where(gaps, np.nan, x)[..., None]))
  snr = np.exp(2.0 * np.log(np.float64(level.alpha) / level.sigma))
  left = np.linalg.inv(np.linalg.inv(cov)[None] + snr[..., None] * np.eye(size)[None])
  variance = np.diagonal(left, axis1=1, axis2=2)[~gaps]
  error = 4.5 * np.sqrt(2.0) * np.sqrt(np.mean(variance**2) / variance.size)
  assert abs(value - variance.mean()) < error < 0.1 * variance.mean()
  assert abs(slope) < 2.0 * error


def test_gradients_are_finite_where_elements_are_clean(key):
  loss = objective(clean=0.5, uncertainty=lambda params, level: 0.1 * dj.edm_input(level))
  value, gradient = jax.jit(
    jax.value_and_grad(lambda p: loss({'network': p}, Context(), key, {'x': X0})[0])
  )(PARAMS['network'])
  assert np.isfinite(value) and np.isfinite(gradient) and gradient != 0.0


def test_the_network_gets_the_noise_of_each_element(key):
  seen = []

  def apply(params, x, noise, cond, *, key=None):
    seen.append((x, noise))
    return x

  loss = objective(network_fn=apply)
  inputs = drawn(loss, key)
  jax.eval_shape(loss.loss, PARAMS, Context(), inputs, (key, key))
  loss.loss(PARAMS, Context(), jax.tree.map(jnp.asarray, inputs), (key, key))
  x, noise = seen[-1]
  assert noise.shape == (B, T)
  clean = inputs.level.sigma == 0.0
  assert_allclose(x[clean], X0[clean])
  assert np.isfinite(noise).all()
  assert_allclose(noise[clean], 2.0 * np.log(1e4), rtol=1e-5)


def test_what_levels_do_not_go_with_is_said(key):
  one = Network(lambda *_, key=None: None, dj.logsnr_input)
  levels = dj.independent_levels()
  with pytest.raises(ValueError, match='need a network with level_axes=2'):
    objectives.denoising(one, SCHEDULE, times=dj.uniform_times, levels=levels)
  two = Network(lambda *_, key=None: None, dj.logsnr_input, level_axes=2)
  flow = dj.RectifiedFlowSchedule()
  with pytest.raises(ValueError, match='leave it or levels out'):
    objectives.denoising(two, flow, times=dj.uniform_times, levels=levels, coupling=lambda *_: None)


def test_the_loss_is_of_what_is_unknown(key):
  """|x_0 - c|^2 of a constant c, summed where a subset of the numbers is noisy."""
  x = X0[..., 0]
  loss = objectives.denoising(
    Network(
      lambda params, x, noise, cond, *, key=None: 0.0 * x + 0.4,
      dj.edm_input,
      parametrization='x0',
      level_axes=2,
    ),
    SCHEDULE,
    times=dj.uniform_times,
    weight=lambda level: jnp.ones_like(level.sigma),
    levels=dj.subset_levels(2),
  )
  draws, _ = jax.jit(lambda key: loss.draw(key, {'x': x}, Context()))(key)
  value, (metrics, _) = jax.jit(loss)({'network': {}}, Context(), key, {'x': x})
  noisy = np.asarray(draws.level.sigma) > 0.0
  assert 0.2 < noisy.mean() < 0.9
  error = np.where(noisy, (0.4 - x) ** 2, 0.0)
  assert_allclose(value, error.mean(), rtol=1e-5)
  mean = metrics['loss'].total / metrics['loss'].count
  assert_allclose(mean, error.sum() / noisy.sum(), rtol=1e-5)


VALID = np.arange(T)[None] < np.array([5, 3, 1, 4, 5, 2, 5, 5])[:, None]


@pytest.mark.parametrize('has_levels', [True, False])
def test_what_pads_an_example_has_no_loss(has_levels, key):
  """It may be anything, and there may be one level for an example."""

  def apply(params, x, noise, cond, *, key=None):
    return params * x

  network = Network(
    apply,
    dj.logsnr_input,
    parametrization='v',
    level_axes=1 + has_levels,
    condition=objectives.make_condition(labels=False, valid=True),
  )
  loss = objectives.denoising(
    network,
    SCHEDULE,
    times=dj.uniform_times,
    weight=dj.v_weight,
    levels=dj.independent_levels(clean=0.2) if has_levels else None,
  )
  filled = np.where(VALID[..., None], X0, 1e6).astype(np.float32)
  run = jax.jit(lambda x: loss(PARAMS, Context(), key, {'x': x, 'valid': VALID}))
  value, (metrics, _) = jax.device_get(run(filled))
  inputs = jax.jit(lambda key: loss.draw(key, {'x': X0, 'valid': VALID}, Context())[0])(key)
  level = jax.tree.map(lambda a: np.float64(a).reshape(B, -1, 1), inputs.level)
  alpha, sigma = (np.broadcast_to(a, (B, T, 1)) for a in level[1:])
  eps, x0 = np.float64(inputs.eps), np.float64(X0)
  output = np.float64(np.float32(0.7)) * (alpha * x0 + sigma * eps)
  each = np.mean((output - (alpha * eps - sigma * x0)) ** 2, axis=-1)
  counted = VALID & (sigma[..., 0] > 0.0)
  assert 0 < counted.sum() < VALID.size
  assert_allclose(value, (each * counted).sum() / VALID.sum(), rtol=1e-5)
  mean = metrics['loss'].total / metrics['loss'].count
  assert_allclose(mean, each[counted].mean(), rtol=1e-5)


def test_what_leaves_no_padding_out_refuses_it(key):
  network = Network(
    lambda params, x, noise, cond, *, key=None: x,
    dj.logsnr_input,
    condition=objectives.make_condition(labels=False, valid=True),
  )
  paired = objectives.denoising(
    network,
    dj.RectifiedFlowSchedule(),
    times=dj.uniform_times,
    coupling=lambda *_: pytest.fail('compared'),
  )
  other = vdm.vdm(network, lambda params: SCHEDULE, num_levels=256)
  for loss, words in (
    (paired, 'a coupling compares whole examples'),
    (other, 'which only `denoising` leaves out'),
  ):
    with pytest.raises(ValueError, match=words):
      loss.draw(key, {'x': X0, 'valid': VALID}, Context())
