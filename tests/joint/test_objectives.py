"""The loss of several variables is the sum of theirs, where they have one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax import joint
from diffusion_jax.training.objectives import Context
from tests.rows import normal
from tests.transcribed import transcribes

COSINE, MASKED = dj.CosineSchedule(), dj.PolynomialMasking()
VARIABLES = {
  'x': joint.gaussian(COSINE, level_axes=2),
  'y': joint.gaussian(COSINE),
  'c': joint.states(dj.masking_process(3), MASKED),
}
B = 8
BATCH = {'x': normal(B, 3), 'y': normal(B, 2, seed=1), 'c': np.arange(B) % 3}
MISSING = {
  'x': np.where(np.arange(3 * B).reshape(B, 3) % 5 == 0, np.nan, BATCH['x']),
  'y': np.where(np.arange(2 * B).reshape(B, 2) % 7 == 0, np.nan, BATCH['y']),
  'c': np.where(np.arange(B) == 2, -1, BATCH['c']),
}


def apply(params, x, noise, cond, *, key=None):
  """v and logits that depend on all variables."""
  mean = jnp.mean(x['x'], 1) + noise['c'] + jnp.sum(x['y'], 1)
  return {
    'x': params * (x['x'] + mean[:, None]),
    'y': params * x['y'] * mean[:, None],
    'c': params * mean[:, None] * jnp.arange(4.0)[None],
  }


NETWORK = joint.JointNetwork(apply, VARIABLES)
OBJECTIVE = joint.denoising(
  NETWORK, clocks=joint.some_held(joint.own_clocks, 0.7, 0.4), weights={'x': 0.5, 'c': 2.0}
)


@jax.jit
def run(params, key, batch):
  inputs, keys = OBJECTIVE.draw(key, batch, Context())
  of = lambda p: OBJECTIVE.loss({'network': p}, Context(), inputs, keys)
  return inputs, *jax.value_and_grad(of, has_aux=True)(params)


def of_hand(inputs, name, params=0.3):
  """Computes the loss of each element in float64 from its definition, [B] or [B, T]."""
  outputs = jax.jit(apply)(params, inputs.xt, {'c': inputs.level['c'].t}, None)
  out, xt, x0 = (np.asarray(a[name], np.float64) for a in (outputs, inputs.xt, inputs.x0))
  level = jax.tree.map(lambda a: np.asarray(a, np.float64), inputs.level[name])
  if name == 'c':
    logits = out[:, :3]
    nll = np.log(np.exp(logits).sum(1)) - logits[np.arange(B), inputs.x0['c']]
    return np.where(inputs.xt['c'] == 3, nll / np.maximum(level.t, 1e-9), 0.0)
  axes = (...,) + (None,) * (xt.ndim - level.t.ndim)
  alpha, sigma = level.alpha[axes], level.sigma[axes]
  eps = (xt - alpha * x0) / np.where(sigma > 0.0, sigma, 1.0)
  error = (out - (alpha * eps - sigma * x0)) ** 2
  return error.reshape(*level.t.shape, -1).sum(-1)


@pytest.mark.parametrize('batch', [BATCH, MISSING], ids=['whole', 'missing'])
def test_the_loss_is_the_weighted_sum_of_what_counts(batch):
  inputs, (loss, (metrics, _)), gradient = run(0.3, jax.random.key(1), batch)
  total = 0.0
  for name, weight in {'x': 0.5, 'y': 1.0, 'c': 2.0}.items():
    losses = np.where(inputs.counts[name], of_hand(inputs, name), 0.0)
    total += weight * losses.sum() / B
    assert_allclose(metrics[f'loss_{name}'].total, losses.sum(), rtol=2e-5)
    assert metrics[f'loss_{name}'].count == inputs.counts[name].sum()
  assert_allclose(loss, total, rtol=2e-5)
  assert_allclose(metrics['loss'].total, loss)
  assert np.isfinite(gradient)


def test_what_is_not_known_has_no_loss_and_is_at_noise():
  """Its x_t is of the prior, whatever stands in its place."""
  inputs, _, _ = run(0.3, jax.random.key(1), MISSING)
  whole, _, _ = run(0.3, jax.random.key(1), BATCH)
  missing = {'x': np.isnan(MISSING['x']), 'y': np.isnan(MISSING['y']).any(1), 'c': MISSING['c'] < 0}
  for name, gone in missing.items():
    assert gone.any() and not (inputs.counts[name] & gone).any()
    assert_array_equal(inputs.level[name].t[gone], np.ones(gone.sum()))
    assert_array_equal(inputs.counts[name][~gone], whole.counts[name][~gone])
    assert_array_equal(inputs.xt[name][~gone], whole.xt[name][~gone])
  assert (inputs.xt['c'][missing['c']] == 3).all()
  rest = missing['y'][:, None] & ~np.isnan(MISSING['y'])
  shifted = {**MISSING, 'y': np.where(rest, 9.0, MISSING['y'])}
  other, _, _ = run(0.3, jax.random.key(1), shifted)
  assert_array_equal(inputs.xt['y'], other.xt['y'])


def test_a_variable_that_is_given_is_clean_data():
  inputs, _, _ = run(0.3, jax.random.key(4), BATCH)
  every = {name: np.asarray(inputs.level[name].sigma) == 0.0 for name in VARIABLES}
  assert np.concatenate([clean.ravel() for clean in every.values()]).any()
  for name, clean in every.items():
    assert not (inputs.counts[name] & clean).any()
    assert_array_equal(inputs.xt[name][clean], BATCH[name][clean])


def test_the_common_clock_has_one_time_for_all():
  clocks = joint.common_clock(jax.random.key(0), 100, ['a', 'b'])
  assert_array_equal(clocks['a'].t, clocks['b'].t)
  assert_allclose(np.diff(np.sort(clocks['a'].t)), 0.01, atol=1e-6)
  assert clocks['a'].counts.all()


@transcribes('UniDiffuser (Bao et al. 2023)', 'independent times', '`joint.own_clocks`')
def test_own_clocks_are_uniform_and_independent():
  clocks = joint.own_clocks(jax.random.key(0), 4000, ['a', 'b'])
  a, b = (np.asarray(clocks[n].t) for n in 'ab')
  assert_allclose(np.diff(np.sort(a)), 1 / 4000, atol=1e-6)
  assert abs(np.corrcoef(a, b)[0, 1]) < 4.5 / 4000**0.5


def test_some_are_held_at_the_rates_that_are_asked_for():
  """The mean rate is 1/2, of all variables but one of each example."""
  n, size = 5, 20_000
  names = [f'{i}' for i in range(n)]
  draw = jax.jit(lambda key: joint.some_held(joint.common_clock, 0.8, 0.25)(key, size, names))
  clocks = draw(jax.random.key(0))
  t, counts = (np.stack([clocks[name][i] for name in names], 1) for i in (0, 1))
  assert counts.any(1).all()
  held = (~counts).mean(1)
  expected = 0.8 * 0.5 * (n - 1) / n
  assert abs(held.mean() - expected) < 4.5 * held.std() / size**0.5
  at_noise = t[~counts]
  assert {*at_noise} == {0.0, 1.0}
  assert abs(at_noise.mean() - 0.25) < 4.5 * (0.25 * 0.75 / len(at_noise)) ** 0.5
  none = counts.all(1).mean()
  # Of the 4 that may be held none is with the mean of (1 - r)^4, 1/5.
  assert abs(none - (0.2 + 0.8 / 5)) < 4.5 * (0.36 * 0.64 / size) ** 0.5


def test_names_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match=r"weights are of \['z'\]"):
    joint.denoising(NETWORK, weights={'z': 1.0})
  with pytest.raises(ValueError, match=r"not the variables \['c'\]"):
    OBJECTIVE.draw(jax.random.key(0), {'x': BATCH['x'], 'y': BATCH['y']}, Context())
