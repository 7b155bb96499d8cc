"""Properties of all objectives: draws, weights of times, and parts."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.autoencoders import objectives as vae
from diffusion_jax.core.arguments import expand_to
from diffusion_jax.discrete import objectives as discrete_states
from diffusion_jax.few_steps import (
  average_velocity as flow_maps,
  consistency,
  distillation,
  level_pairs,
)
from diffusion_jax.training import (
  classifier,
  objectives,
  vdm,
)
from diffusion_jax.training.objectives import Context, Network, make_condition
from diffusion_jax.training.step import accumulated

SCHEDULE = dj.CosineSchedule()


def zeros(params, x, noise, cond, *, key=None):
  return jnp.zeros_like(x)


def test_conditions_are_dropped_with_the_probability(key):
  batch = {'x': np.zeros((4096, 1)), 'label': np.zeros(4096)}
  drop = jax.jit(make_condition(True, 0.2))(key, batch)['drop']
  assert abs(drop.mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 4096)


def test_times_with_weights_are_importance_sampling(key):
  """The prediction 0 has the loss weight x_0^2, also in each quarter of t."""
  weight = np.array([0.5, 2.0, 3.0, 7.0])
  t = np.array([0.1, 0.2, 0.6, 0.9])
  x0 = np.random.default_rng(0).normal(size=(4, 2, 2, 1))

  def times(key, batch_size, schedule):
    return schedule(jnp.asarray(t)), jnp.asarray(weight, jnp.float32)

  objective = objectives.denoising(
    Network(zeros, dj.logsnr_input, parametrization='x0'),
    SCHEDULE,
    times=times,
    weight=lambda level: jnp.ones_like(level.t),
  )
  run = jax.jit(objective.__call__)
  batch = {'x': np.float32(x0)}
  loss, (metrics, _) = run({'network': ()}, Context(), key, batch)
  each = weight * np.mean(x0**2, axis=(1, 2, 3))
  assert_allclose(loss, each.mean(), rtol=1e-5)
  assert_allclose(metrics['loss'].total, each.mean(), rtol=1e-5)
  assert_allclose(metrics['loss'].count, weight.mean())
  quarters = [metrics[f'loss_quarter_{q}'] for q in range(1, 5)]
  of = lambda values: [values[0] + values[1], 0.0, values[2], values[3]]
  assert_allclose([q.total for q in quarters], of(each), rtol=1e-5)
  assert_allclose([q.count for q in quarters], of(weight))


def test_no_two_draws_of_an_objective_are_related(key):
  """Equal keys would give equal uniform numbers."""
  n, calls = 4096, []

  def network_fn(params, x, t, cond, *, key=None):
    level = SCHEDULE(t)
    draws = {'time': t, 'eps': x[:, 0, 0, 0] / level.sigma, 'drop': cond['drop']}  # x_0 is 0
    draws |= {'condition': cond['image'][:, 0, 0, 0], 'augmentation': cond['augment'][:, 0]}
    coin = cond['x0'][:, 0, 0, 0] if 'x0' in cond else None
    calls.append(draws | {'dropout': jax.random.uniform(key, (n,)), 'coin': coin})
    return jnp.ones_like(x)

  network = Network(
    network_fn,
    dj.time_input(1.0),
    parametrization='x0',
    condition=make_condition(False, 0.5, lambda key, x0: jax.random.uniform(key, x0.shape)),
    augment=lambda keys, x0: (x0, uniform_each(keys)[:, None]),
    self_conditioning=True,
  )
  objective = objectives.denoising(network, SCHEDULE, times=dj.uniform_times)

  @jax.jit
  def run(key):
    batch = {'x': jnp.zeros((n, 1, 1, 1))}
    objective({'network': ()}, Context(), key, batch)
    return calls

  first, second = jax.device_get(run(key))
  draws = second | {'first dropout': first['dropout']}
  assert set(np.unique(draws['coin'])) == {0.0, 1.0}
  z = np.sqrt(n) * np.corrcoef(np.stack(list(draws.values())).astype(float))
  for (i, a), (j, b) in itertools.combinations(enumerate(draws), 2):
    assert abs(z[i, j]) < 4.5, (a, b)


def denoising(note_key):
  def network_fn(params, x, noise, cond, *, key=None):
    note_key(key)
    return x

  network = Network(network_fn, dj.logsnr_input)
  return objectives.denoising(network, SCHEDULE, times=dj.uniform_times)


def encoding(note_key):
  def encode(params, t, x, *, key=None):
    note_key(key)
    return dj.Normal(x, jnp.ones_like(x))

  def decode(params, t, z, *, key=None):
    note_key(key)
    return z

  return vae.vae(encode, decode, lambda output, x: jnp.zeros(len(x)))


@pytest.mark.parametrize('make, calls', [(denoising, 1), (encoding, 2)])
def test_parts_of_a_batch_have_dropout_of_their_own(make, calls, key):
  seen = []
  note = lambda data: seen.append(tuple(data.tolist()))
  objective = make(lambda key: jax.debug.callback(note, jax.random.key_data(key)))
  batch = {'x': jnp.ones((4, 2, 2, 1))}
  jax.jit(accumulated(objective, 2))({'network': ()}, Context(), key, batch)
  jax.effects_barrier()
  assert len(seen) == len(set(seen)) == 2 * calls


def linear(params, x, noise, cond, *, key=None):
  return params * x + 0.1 * noise[:, None, None, None]


def teacher(frozen, cond):
  return lambda xt, level: dj.Prediction(0.5 * xt)


def augment(keys, x0):
  return x0 + 0.1 * expand_to(uniform_each(keys), x0), uniform_each(keys)[:, None]


uniform_each = jax.vmap(jax.random.uniform)
TEACHER = {'teacher': teacher, 'solver': dj.ddim()}
AT = {'times': dj.uniform_times}
PAIRS = {'pairs': level_pairs.grid_pairs()}
# objective: its arguments, and the options of a network that it can use
OBJECTIVES = {
  objectives.denoising: (AT, {'learned_variance', 'augment', 'self_conditioning'}),
  objectives.hybrid: ({'schedule_steps': 4}, {'learned_variance'}),
  objectives.vlb: ({'schedule_steps': 4, 'loss_aware': True}, {'learned_variance'}),
  vdm.vdm: ({'num_levels': 2}, set()),
  distillation.progressive_distillation: ({'num_steps': 4} | TEACHER, set()),
  distillation.on_pairs: ({}, set()),
  flow_maps.mean_flow: ({'guidance': flow_maps.power_law_guidance()}, {'augment'}),
  flow_maps.lagrangian: ({'guidance': flow_maps.power_law_guidance()}, {'augment'}),
  flow_maps.progressive: ({'guidance': flow_maps.power_law_guidance()}, {'augment'}),
  flow_maps.shortcut: ({'num_steps': 4}, set()),
  consistency.consistency_training: (PAIRS, set()),
  consistency.consistency_distillation: (PAIRS | TEACHER, set()),
  consistency.continuous_consistency: (AT, set()),
  classifier.classifier: (AT, set()),
  discrete_states.d3pm: ({'num_steps': 4}, set()),
  discrete_states.masked: ({}, set()),
}
OPTIONS = {'learned_variance': True, 'augment': augment, 'self_conditioning': True}
BOUNDED = dj.CosineSchedule(-5.0, 5.0)
STATES = {discrete_states.d3pm: dj.uniform_process, discrete_states.masked: dj.masking_process}


def made(make, network):
  """Makes the objective; some need a process, or make their schedule."""
  process = [STATES[make](3)] if make in STATES else []
  schedule = (lambda _: BOUNDED) if make is vdm.vdm else BOUNDED
  return make(network, *process, schedule, **OBJECTIVES[make][0])


@pytest.mark.parametrize('make', OBJECTIVES)
def test_options_of_a_network_that_have_no_effect_are_refused(make):
  for name, value in OPTIONS.items():
    if name in OBJECTIVES[make][1]:
      continue
    network = Network(linear, dj.logsnr_input, **{name: value})
    with pytest.raises(ValueError, match=f'the network has {name}, which '):
      made(make, network)


# Objectives whose losses of rows come from the same function as another's.
LIKE_OTHERS = (
  objectives.hybrid,
  flow_maps.lagrangian,
  flow_maps.progressive,
  flow_maps.shortcut,
  consistency.consistency_training,
  discrete_states.masked,
)


@pytest.mark.parametrize(
  'make', [pytest.param(x, marks=[pytest.mark.slow] * (x in LIKE_OTHERS)) for x in OBJECTIVES]
)
def test_parts_of_a_batch_are_the_batch(make, key):
  """Loss, metrics and records can be computed from parts of the draws."""
  usable, seen = OBJECTIVES[make][1], []

  def network_fn(params, x, noise, cond, *, key=None):
    seen.append(jax.random.key_data(key))
    x = jnp.asarray(x, float)
    out = params * jnp.sin(x) + 0.1 * expand_to(noise, x)
    for value in jax.tree.leaves(cond):
      out += 0.1 * expand_to(jnp.mean(value.reshape(len(x), -1), axis=1), x)
    if make in STATES:
      num_states = 3 + (make is discrete_states.masked)
      return jnp.stack([i * out for i in range(num_states)], axis=-1)
    if make is classifier.classifier:
      return out.reshape(len(x), -1)
    return jnp.tile(out, 2) if 'learned_variance' in usable else out

  options = {name: value for name, value in OPTIONS.items() if name in usable}
  options |= {'parametrization': 'v', 'condition': make_condition(dropout=0.5)}
  objective = made(make, Network(network_fn, dj.time_input(1.0), **options))
  rng = np.random.default_rng(0)
  context = Context(1, {'network': 0.6}, (), objective.init())
  image = rng.choice([-1.0, 1.0], (6, 2, 2, 1)).astype(np.float32)

  @jax.jit
  def run(key, label):
    states = rng.integers(0, 3, image.shape)
    batch = {'x': image, 'label': label, 'noise': image[::-1], 'states': states}
    inputs, keys = objective.draw(key, batch, context)

    def loss(order):
      seen.clear()
      part = jax.tree.map(lambda x: jnp.asarray(x)[order], inputs)
      return objective.loss({'network': 0.7}, context, part, keys), list(seen)

    # Each part comes twice, so that the loss is compiled for one size.
    return jax.lax.map(loss, np.array([[*range(6)], [0, 2, 4] * 2, [1, 3, 5] * 2]))

  label = np.arange(6) % 3
  (losses, (metrics, records)), seen = jax.device_get(run(key, label))
  assert_allclose(losses[1:].mean(), losses[0], rtol=1e-5)
  close = functools.partial(assert_allclose, rtol=1e-4, atol=1e-6)
  jax.tree.map(lambda x: close(x[1:, :3].T.ravel(), x[0]), records)
  for total, count in metrics.values():
    close(total[1:].sum() * count[0], total[0] * count[1:].sum())
  if make is not objectives.denoising:  # its first estimate has another key
    assert len({bytes(x[0]) for x in seen}) == 1
  if make is not classifier.classifier:
    assert run(key, label + 1)[0][0][0] != losses[0]
