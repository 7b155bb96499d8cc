"""Denoising with augmentation and with self-conditioning."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.training import objectives
from diffusion_jax.training.objectives import Context, Network
from tests.transcribed import transcribes

SCHEDULE, TIMES = dj.GeometricVESchedule(0.002, 80.0), dj.log_normal_times()
RNG = np.random.default_rng(5)
BATCH = {'x': RNG.standard_normal((32, 6, 6, 1), np.float32)}
PARAMS = {'network': {'w': np.float32(0.4), 'v': np.float32([0.1, 0.2])}}


def network(params, x, noise, cond, *, key=None):
  """Computes an output that is linear in all inputs."""
  out = params['w'] * x + 0.1 * noise[:, None, None, None]
  if 'augment' in cond:
    total = cond['augment'].sum(axis=1)[:, None, None, None]
    out = out + params['v'][0] * total
  if 'x0' in cond:
    out = out + params['v'][1] * cond['x0']
  return out


def objective(network_fn=network, uncertainty=None, times=TIMES, **options):
  return objectives.denoising(
    Network(network_fn, dj.edm_input, parametrization='edm', **options),
    SCHEDULE,
    times=times,
    weight=dj.edm_weight(0.5),
    uncertainty=uncertainty,
  )


SELF_CONDITIONED = {'self_conditioning': True}


def test_the_network_sees_the_changed_image_and_its_labels(key):
  """Almost without noise, x_t is the image itself."""
  seen = {}

  def spy(params, x, noise, cond, *, key=None):
    seen.update(cond, x=x)
    return network(params, x, noise, cond)

  def augment(keys, x0):
    labels = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
    return x0 * labels[:, :1, None, None], labels

  loss = objectives.denoising(
    Network(spy, dj.edm_input, parametrization='x0', augment=augment),
    dj.GeometricVESchedule(1e-6, 2e-6),
    times=dj.uniform_times,
  )

  @jax.jit
  def run(key):
    loss(PARAMS, Context(), key, BATCH)
    return dict(seen)

  seen = jax.device_get(run(key))
  labels = seen['augment']
  assert labels.shape == (32, 2) and len(np.unique(labels)) == 64
  changed = BATCH['x'] * labels[:, :1, None, None]
  assert_allclose(seen['x'], changed, atol=1e-4)


@transcribes(
  'Analog Bits (Chen et al. 2022)',
  'Alg. 1: training with self-conditioning',
  '`Network`',
)
def test_half_of_the_images_are_seen_with_a_first_estimate(key):
  """Analog Bits, Alg. 1, is computed by hand from the inputs of both calls."""
  calls = []

  def spy(params, x, noise, cond, *, key=None):
    calls.append((x, cond.get('x0'), jax.random.key_data(key)))
    out = network(params, x, noise, cond)
    return jnp.concatenate([out, out + 7.0], -1)

  loss = objective(spy, learned_variance=True, **SELF_CONDITIONED)

  @jax.jit
  def run(key):
    loss(PARAMS, Context(), key, BATCH)
    time_key = jax.random.split(key, 6)[0]
    return calls, dj.log_normal_times()(time_key, 32, SCHEDULE)[0]

  calls, level = jax.device_get(run(key))
  (x, without, first_key), (again, x0, second_key) = calls
  assert without is None
  assert (first_key != second_key).any()
  assert_array_equal(x, again)
  estimated = (x0 != 0.0).any(axis=(1, 2, 3))
  assert 6 < estimated.sum() < 26
  assert np.abs(x0).max() <= 1.0
  # inside the range the estimate is c_skip x_t + c_out F
  s, sd = np.asarray(level.sigma, np.float64)[:, None, None, None], 0.5
  norm = np.sqrt(s**2 + sd**2)
  output = 0.4 * np.asarray(x, np.float64) + 0.1 * np.log(s) / 4
  estimate = sd**2 / norm**2 * (norm * np.asarray(x)) + s * sd / norm * output
  expected = np.clip(estimate, -1, 1)[estimated]
  assert_allclose(np.asarray(x0)[estimated], expected, atol=2e-5)


def test_no_gradient_flows_through_the_first_estimate(key):
  """The gradient is the same with a constant estimate."""
  held = {}

  def spy(params, x, noise, cond, *, key=None):
    if 'x0' in cond:
      held['x0'] = cond['x0']
    return network(params, x, noise, cond)

  def fixed(params, x, noise, cond, *, key=None):
    return network(params, x, noise, {'x0': held['x0']})

  @jax.jit
  def gradients(params):
    objective(spy, **SELF_CONDITIONED)(params, Context(), key, BATCH)
    grad = lambda loss: jax.grad(lambda p: loss(p, Context(), key, BATCH)[0])(params)
    return grad(objective(**SELF_CONDITIONED)), grad(objective(fixed))

  jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-5), *gradients(PARAMS))


@transcribes(
  'EDM2 (Karras et al. 2024)',
  '14 to 16: learned weights of levels',
  '`training.objectives.denoising`',
)
def test_the_uncertainty_weighs_each_level_by_its_own_error(key):
  """The loss is 2 (l / e^u + u), where all times have the weight 2."""

  def times(*args):
    level, weight = TIMES(*args)
    return level, 2 * weight

  uncertain = objective(uncertainty=lambda params, level: params['u'] + 0 * level.t, times=times)
  run = jax.jit(jax.value_and_grad(uncertain.__call__, has_aux=True))
  loss_at = lambda u: run(PARAMS | {'u': jnp.array(u)}, Context(), key, BATCH)
  error = float(jax.jit(objective().__call__)(PARAMS, Context(), key, BATCH)[0])
  (loss, (metrics, _)), grads = loss_at(0.3)
  assert_allclose(loss, 2 * (error / np.exp(0.3) + 0.3), rtol=1e-5)
  assert_allclose(metrics['error'].total, 2 * error, rtol=1e-5)
  assert metrics['loss'].total == loss
  slope = 2 * (1 - error / np.exp(0.3))
  assert_allclose(grads['u'], slope, rtol=1e-5)
  (loss, _), grads = loss_at(float(np.log(error)))
  assert_allclose(loss, 2 * (1 + np.log(error)), rtol=1e-5)
  assert_allclose(grads['u'], 0.0, atol=1e-5)
