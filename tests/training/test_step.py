"""Training on data with a known optimum, without Flax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal, assert_equal

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from diffusion_jax.training import objectives, optimizer
from diffusion_jax.training.objectives import Context, Mean, Network, Objective
from diffusion_jax.training.state import init_state
from diffusion_jax.training.step import (
  accumulated,
  make_eval_step,
  make_train_step,
  make_train_steps,
)
from tests.jitted import level_grid
from tests.transcribed import transcribes

SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
MIXTURE = oracles.mixture([0.5, 0.5], [[-1.0, 0.5], [1.0, -0.5]], [np.eye(2) * 0.02] * 2)


def mlp(params, x, noise, cond, *, key=None):
  """Computes a network with two hidden layers."""
  t = noise[:, None] / 1000.0
  h = jnp.concatenate([x, t, jnp.sin(3 * t), jnp.cos(3 * t)], axis=1)
  for i in (1, 2):
    h = jax.nn.silu(h @ params[f'w{i}'] + params[f'b{i}'][None])
  return h @ params['w3']


def init(width=64):
  rng = np.random.default_rng(0)
  sizes = [(5, width), (width, width), (width, 2)]
  zeros = np.zeros(width, np.float32)
  params = {'b1': zeros, 'b2': zeros}
  for i, (n, m) in enumerate(sizes, 1):
    params[f'w{i}'] = np.float32(rng.normal(0.0, n**-0.5, (n, m)))
  return {'network': params}


def simple(value):
  """Makes an objective without draws; value(params, context) is its loss."""

  def loss(params, context, inputs, keys):
    found = value(params, context)
    return found, ({'loss': Mean(found, jnp.ones(()))}, ())

  return Objective(lambda key, batch, context: ((), ()), loss)


def objective(network_fn=mlp, **options):
  network = Network(network_fn, dj.step_input(1000), **options)
  return objectives.denoising(network, SCHEDULE, times=dj.step_times(1000))


def batch_at(i):
  return {'x': np.random.default_rng(i).normal(size=(16, 2)).astype(np.float32)}


SGD = optax.sgd(0.1)
STEP = make_train_step(objective(), SGD, lambda step: 0.25)
one_step = jax.jit(STEP)


@pytest.mark.slow
def test_a_trained_network_samples_the_data(key):
  """600 steps of Adam, and the averaged parameters."""
  adam, rate = optimizer.optimizer_and_rate(
    600, learning_rate=1e-2, warmup_steps=50, decay='cosine'
  )
  step = make_train_step(objective(), adam, optimizer.ema_decay(0.99))
  levels = level_grid(SCHEDULE, 50)

  @jax.jit
  def train_and_sample(params, key):
    def body(state, i):
      data_key = jax.random.fold_in(jax.random.key(9), i)
      return step(state, {'x': MIXTURE.sample(data_key, 256)}, key, rate=rate(i))[0], ()

    state, _ = jax.lax.scan(body, init_state(params, adam), jnp.arange(600))
    denoise = dj.Network(mlp, dj.step_input(1000)).denoiser(state.ema_params['network'])
    x = dj.prior_sample(key, (2000, 2), levels.take(0))
    return dj.sample(key, denoise, dj.ddim(1.0), levels, x)

  x = np.asarray(train_and_sample(init(), key))
  assert_allclose(x.mean(0), MIXTURE.mean, atol=0.15)
  assert_allclose(np.cov(x.T), MIXTURE.cov, atol=0.2)


@transcribes('DDPM (Ho et al. 2020)', 'Alg. 1: training', '`training.objectives.denoising`')
def test_one_step_is_gradient_update_and_average(key):
  """The gradient step is done by hand; another step has other noise."""
  state = init_state(init(8), SGD)
  after, metrics = jax.device_get(one_step(state, batch_at(0), key))
  step_key = jax.random.fold_in(key, 0)
  loss = lambda p: objective()(p, Context(), step_key, batch_at(0))[0]
  grads = jax.device_get(jax.jit(jax.grad(loss))(state.params))
  params = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
  assert after.step == 1
  close = lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  jax.tree.map(close, after.params, params)
  average = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * p, state.params, params)
  jax.tree.map(close, after.ema_params, average)
  norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(grads)))
  assert_allclose(metrics['grad_norm'].total, norm, rtol=1e-4)
  _, later = one_step(state._replace(step=state.step + 1), batch_at(0), key)
  assert later['loss'].total.item() != metrics['loss'].total.item()


def test_a_step_that_is_not_finite_may_change_nothing_but_the_step(key):
  """sqrt(w) has the gradient 1/4 at 4, inf at 0, NaN at -1; it is NaN at 9."""

  def loss(params, context, inputs, keys):
    root = jnp.sqrt(params['w'])
    root += jnp.where(jax.lax.stop_gradient(root) == 3.0, jnp.nan, 0.0)
    return root, ({'loss': Mean(root, jnp.ones(()))}, root)

  root = Objective(
    lambda key, batch, context: ((), ()), loss, lambda state, root: {'seen': state['seen'] + root}
  )
  adam, decay = optax.adam(0.1), optimizer.ema_decay(0.5)
  safe, plain = (
    jax.jit(make_train_step(root, adam, decay, skip_nonfinite=skip)) for skip in (True, False)
  )
  norms = {4.0: 0.25, 0.0: np.inf, -1.0: np.nan, 9.0: np.float32(1 / 6)}
  for w, norm in norms.items():
    state = init_state({'w': jnp.array(w)}, adam, {'seen': jnp.ones(())})
    state = state._replace(step=jnp.array(7))
    after, metrics = safe(state, {}, key)
    taken, _ = plain(state, {}, key)
    expected = taken if w == 4.0 else state._replace(step=jnp.array(8))
    jax.tree.map(assert_array_equal, after, expected)
    assert_equal(np.float32(metrics['grad_norm'].total), norm)
    assert float(taken.params['w']) != w  # it moves, or becomes NaN


def test_averages_are_of_the_step_that_is_taken(key):
  """Two steps are w <- w - 1 from 8, with rates that depend on the step."""
  line = simple(lambda params, context: params['w'])
  at = lambda *rates: lambda step: jnp.array(rates)[step]
  sgd, more = optax.sgd(1.0), {'other': at(1.0, 0.25, 0.0)}
  step = jax.jit(make_train_step(line, sgd, at(0.5, 0.75, 0.0), more))
  state = init_state({'w': jnp.array(8.0)}, sgd, more_emas=more)
  for _ in range(2):
    state, _ = step(state, {}, key)
  # 8 -> (8 + 7) / 2 -> 7.5 / 4 + 3 * 6 / 4, and 8 -> 7 -> 3 * 7 / 4 + 6 / 4
  assert state.params['w'] == 6.0 and state.ema_params['w'] == 6.375
  assert state.more_ema_params['other']['w'] == 6.75


def test_steps_of_one_call_are_single_steps(key):
  """The length of a call changes no bit, though another program may."""
  state = init_state(init(8), SGD)
  batches, expected = [batch_at(i) for i in range(10)], []
  alone = state
  for batch in batches:
    alone, metrics = one_step(alone, batch, key)
    expected.append(metrics['loss'].total)

  steps = jax.jit(make_train_steps(STEP))

  def in_calls(*counts):
    after, losses, rest = state, [], batches
    for n in counts:
      taken = (rest[:n] + rest[:1] * 4)[:4]  # filled up to 4
      after, metrics = jax.device_get(steps(after, tuple(taken), key, n))
      assert not metrics['loss'].total[n:].any()
      losses.extend(metrics['loss'].total[:n])
      rest = rest[n:]
    return after, losses

  after, losses = in_calls(4, 4, 2)
  assert after.step == 10
  close = lambda a, b: assert_allclose(a, b, rtol=1e-6, atol=1e-8)
  close(losses, expected)
  jax.tree.map(close, after, alone)
  other = in_calls(1, 4, 3, 2)
  jax.tree.map(assert_array_equal, other, (after, losses))


@pytest.mark.parametrize('accumulate', [1, 2])
def test_a_constraint_comes_after_the_update_and_before_averages(accumulate, key):
  """The step is w <- (w - gradient) / |w - gradient|, then the average."""

  def loss(params, context, inputs, keys):
    mean = jnp.mean(inputs @ params['w'])
    return mean, ({'loss': Mean(mean, jnp.ones(()))}, ())

  line = Objective(
    lambda key, batch, context: (batch['x'], ()),
    loss,
    constrain=lambda p: {'w': p['w'] / jnp.linalg.norm(p['w'])},
  )
  sgd = optax.sgd(1.0)
  step = make_train_step(line, sgd, lambda _: 0.5, accumulate=accumulate)
  state = init_state({'w': jnp.array([4.0, 0.0])}, sgd)
  images = jnp.array([[0.0, 1.0], [2.0, 5.0]])  # the gradient is [1, 3]
  after, _ = jax.jit(step)(state, {'x': images}, key)
  w = np.array([3.0, -3.0]) / np.sqrt(18.0)
  assert_allclose(after.params['w'], w, rtol=1e-6)
  assert_allclose(after.ema_params['w'], [2 + w[0] / 2, w[1] / 2])


def test_the_state_of_an_accumulated_objective_is_that_of_the_batch(key):
  """`update` gets the records of all rows once, in the order of the batch."""

  def draw(key, batch, context):
    return batch['x'] + context.step, ()

  def loss(params, context, inputs, keys):
    mean = jnp.mean(params * inputs)
    return mean, ({'loss': Mean(mean, jnp.ones(()))}, {'row': inputs})

  line = Objective(draw, loss, lambda state, records: state + (records['row'][:, 0],))
  context = Context(step=10, state=(-1.0,))
  batch = {'x': np.arange(12, dtype=np.float32).reshape(6, 2)}
  for parts in (1, 3):

    @jax.jit
    def run(w, parts=parts):
      return accumulated(line, parts)(w, context, key, batch)

    (mean, (_, state)), grad = run(2.0)
    assert (mean, grad) == (31.0, 15.5)
    assert state[0] == -1.0
    assert state[1].tolist() == [10.0, 12.0, 14.0, 16.0, 18.0, 20.0]


def test_a_step_and_an_evaluation_show_the_loss_their_context(key):
  """The step is w <- w - ema * teacher * step, with the EMA before it.

  An evaluation has the average, and the step of no training.
  """

  def value(params, context):
    factor = context.ema_params['w'] * context.frozen['teacher'] * context.step
    return params['w'] * factor

  product = simple(value)
  sgd = optax.sgd(1.0)
  state = init_state({'w': jnp.array(3.0)}, sgd)
  state = state._replace(step=jnp.array(2), ema_params={'w': jnp.array(5.0)})
  frozen = {'teacher': jnp.array(7.0)}
  step = make_train_step(product, sgd, lambda step: 0.0)
  after, metrics = jax.jit(step)(state, {}, key, frozen)
  assert metrics['loss'].total == 3.0 * 5.0 * 7.0 * 2.0
  assert after.params['w'] == 3.0 - 5.0 * 7.0 * 2.0
  evaluation = jax.jit(make_eval_step(product))(state, {}, key, frozen)
  assert evaluation['loss'].total == np.float32(5.0 * 5.0 * 7.0 * objectives.AT_THE_END)
