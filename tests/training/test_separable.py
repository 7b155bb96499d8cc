"""An objective is what it says: on shapes, and by its losses of two examples."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import diffusion_jax as dj
from diffusion_jax.training.objectives import (
  Mean,
  Objective,
  denoising,
  make_condition,
  mean_loss,
  means,
)
from diffusion_jax.training.separable import check_objective, check_separable, without_layers

PARAMS = {'network': {'w': jax.ShapeDtypeStruct((3, 3), jnp.float32)}}
BATCH = {
  'x': jax.ShapeDtypeStruct((8, 3), jnp.float32),
  'label': jax.ShapeDtypeStruct((8,), jnp.int32),
}


def draw(key, batch, context):
  return (batch['x'], batch['label']), key


def of(value, **options):
  """Returns the objective whose loss is value(output [B, 3], label [B], key)."""

  def loss(params, context, inputs, key):
    x, label = inputs
    return value(x @ params['network']['w'], label, key)

  return Objective(draw, loss, **options)


def scalar(value):
  return lambda *args: (value(*args), (means(loss=value(*args)), ()))


def apart(h, label):
  """The mean distance of all pairs of a class, as losses that repel have it."""
  same = label[:, None] == label[None]
  return jnp.mean(jnp.where(same, jnp.square(h[:, None] - h[None]).sum(-1), 0.0))


IS_MEAN = {
  'rows': lambda h, label, key: mean_loss(jnp.square(h).sum(-1), jnp.full(len(h), 0.5)),
  'halves': scalar(lambda h, label, key: jnp.square(h.astype(jnp.bfloat16)).mean()),
  'own noise': scalar(lambda h, label, key: jnp.square(h - jax.random.normal(key, h.shape)).mean()),
  'not finite': scalar(lambda h, label, key: jnp.log(jnp.square(h).mean() - 1e9)),
}
IS_NOT = {
  'sum': scalar(lambda h, label, key: jnp.square(h).sum()),
  'root': scalar(lambda h, label, key: jnp.sqrt(jnp.square(h).mean())),
  'pairs': scalar(lambda h, label, key: jnp.square(h).mean() + 0.1 * apart(h, label)),
}


@pytest.mark.parametrize('name', IS_MEAN)
def test_a_mean_over_rows_is_taken(name):
  check_separable(of(IS_MEAN[name]), PARAMS, (), BATCH)


def test_the_loss_of_a_denoiser_is_taken():
  apply = lambda params, x, noise, cond, *, key=None: x @ params['w']
  network = dj.Network(apply, lambda level: level.t, condition=make_condition())
  objective = denoising(network, dj.CosineSchedule(), times=dj.uniform_times)
  check_separable(objective, PARAMS, (), BATCH)


@pytest.mark.parametrize('name', IS_NOT)
def test_a_loss_of_the_whole_batch_is_refused(name):
  """Pairs of one class show themselves, since the two examples have one."""
  with pytest.raises(ValueError, match=r'in the mean of each alone: it needs the whole batch'):
    check_separable(of(IS_NOT[name]), PARAMS, (), BATCH)


def test_numbers_are_compared_without_the_layers_of_a_network():
  """Rows stay alone, and weights of 0 have no effect; a loss of pairs of outputs is seen."""

  def apply(params, x, noise, cond, *, key=None):
    return (x @ params['w'])[:, :2]

  network = without_layers(dj.Network(apply, dj.logsnr_input))
  x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
  level = dj.CosineSchedule()(np.linspace(0.2, 0.8, 4, dtype=np.float32))

  def output(x, level):
    return network.output({'w': jnp.zeros((3, 3))}, x, level)

  whole = jax.jit(output)(x, level)
  alone = jax.jit(output)(x[2:3], jax.tree.map(lambda a: a[2:3], level))
  assert whole.shape == (4, 2) and np.std(whole, axis=0).min() > 0.1
  np.testing.assert_allclose(whole[2:3], alone, rtol=1e-5)

  def spread(params, context, inputs, key):
    x, _ = inputs
    h = network.output(params['network'], x, dj.CosineSchedule()(0.5))
    loss = jnp.square(h).mean() + jnp.square(h[:1] - h).mean()
    return loss, (means(loss=loss), ())

  check_objective(Objective(draw, spread), PARAMS, (), BATCH)
  with pytest.raises(ValueError, match='it needs the whole batch'):
    check_separable(Objective(draw, spread), PARAMS, (), BATCH, unread=['network'])


def test_hidden_layers_are_those_of_the_network():
  """An objective of a block is compared as any; a network without blocks says so."""

  def apply(params, x, noise, cond, *, key=None, at=None):
    h = x @ params['w']
    return h if at is None else (h, jnp.tile(h, 2))

  def spread(of):
    def loss(params, context, inputs, key):
      level = dj.CosineSchedule()(0.5)
      output, h = network.with_hidden(params['network'], inputs[0], level, at=0)
      assert output.shape == (len(h), 3) and h.shape == (len(h), 6)
      loss = jnp.square(h - of(h)).mean()
      return loss, (means(loss=loss), ())

    return Objective(draw, loss)

  network = without_layers(dj.Network(apply, dj.logsnr_input))
  check_separable(spread(lambda h: 0.5), PARAMS, (), BATCH, unread=['network'])
  with pytest.raises(ValueError, match='it needs the whole batch'):
    check_separable(spread(lambda h: h[:1]), PARAMS, (), BATCH, unread=['network'])
  network = without_layers(dj.Network(lambda *args, key=None: args[1], dj.logsnr_input))
  with pytest.raises(ValueError, match='this network has no hidden layers'):
    check_separable(spread(lambda h: 0.5), PARAMS, (), BATCH, unread=['network'])


def returns(value):
  return {'loss': lambda params, context, inputs, keys: value(jnp.mean(inputs[0]))}


LOSS = 'loss(params, context, inputs, keys)'
WRONG: dict[str, tuple[dict[str, Any], str]] = {
  'a number': (returns(lambda x: x), f'{LOSS} must return (loss [], (metrics, records)), not a nu'),
  'two': (returns(lambda x: (x, means(loss=x))), '(loss [], (metrics, records)), not (a number, a'),
  'three': (returns(lambda x: (x, means(loss=x), ())), '(metrics, records)), not a tuple of 3'),
  'rows': (
    returns(lambda x: (x[None], (means(loss=x), ()))),
    f'{LOSS} must return a loss [], one number, and it is an array [1]',
  ),
  'no Mean': (
    returns(lambda x: (x, ({'loss': x}, ()))),
    'each metric as a Mean of numbers, as objectives.means(loss=...), not a number',
  ),
  'Mean of rows': (returns(lambda x: (x, ({'loss': Mean(x[None], x)}, ()))), 'as a Mean of numbe'),
  'no loss': (
    returns(lambda x: (x, (means(mine=x), ()))),
    "metrics with 'loss', as objectives.means(loss=losses), not mine",
  ),
  'inputs alone': (
    {'draw': lambda key, batch, context: batch['x']},
    'draw(key, batch, context) must return (inputs, keys), not an array [2, 3]',
  ),
  'a key that is not there': (
    {'draw': lambda key, batch, context: (batch['y'], key)},
    "draw(key, batch, context): KeyError: 'y'",
  ),
  'arguments': (
    {'loss': lambda params, inputs, key: 0.0},
    f'{LOSS}: TypeError: ',
  ),
  'another state': (
    {'update': lambda state, records: (state, records), 'init': lambda: jnp.zeros(2)},
    'update(state, records) must return a state as init() does, an array [2], not a tuple of',
  ),
}


@pytest.mark.parametrize('name', WRONG)
def test_what_is_no_objective_is_said_in_its_words(name):
  given, line = WRONG[name]
  good = of(IS_MEAN['rows'])
  check_objective(good, PARAMS, (), BATCH)
  with pytest.raises(ValueError) as error:
    check_objective(dataclasses.replace(good, **given), PARAMS, (), BATCH)
  assert line in str(error.value) and '\n' not in str(error.value)


def test_other_parameters_than_the_networks_are_said():
  module = nn.Dense(3)
  apply = lambda params, x, noise, cond, *, key=None: module.apply({'params': params}, x)
  network = dj.Network(apply, dj.logsnr_input)

  def loss(params, context, inputs, key):
    output = network.output(params, inputs[0], dj.CosineSchedule()(0.5))
    return mean_loss(output.mean(1), jnp.full(2, 0.5))

  with pytest.raises(ValueError, match=r"other parameters than its own, params\['network'\]"):
    check_objective(Objective(draw, loss), PARAMS, (), BATCH)
