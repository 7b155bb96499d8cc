"""A loss of the whole batch that does not say so is found by its values at two examples."""

import jax
import jax.numpy as jnp
import pytest

import diffusion_jax as dj
from diffusion_jax.training.objectives import Objective, denoising, make_condition, mean_loss, means
from diffusion_jax.training.separable import check_separable

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
RETURNS = {
  'a number': lambda h, label, key: jnp.square(h).mean(),
  'a tuple of 2': lambda h, label, key: (jnp.square(h).mean(), means(loss=h)),
  'a tuple of 3': lambda h, label, key: (jnp.square(h).mean(), means(loss=h), ()),
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


@pytest.mark.parametrize('what', RETURNS)
def test_what_is_no_loss_is_named(what):
  with pytest.raises(ValueError, match=f'the metrics of objectives.means, not {what}'):
    check_separable(of(RETURNS[what]), PARAMS, (), BATCH)
