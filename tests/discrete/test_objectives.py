"""Objectives on discrete states against transcriptions at the same draws."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.discrete import objectives as discrete_states
from diffusion_jax.training.objectives import Context, Network
from tests.rows import slow
from tests.states import BETAS, LINEAR, NUM_STEPS, gaussian_matrices
from tests.transcribed import transcribes

RNG = np.random.default_rng(0)
PARAMS = {'network': {'w': RNG.normal(size=4), 'v': RNG.normal(size=4)}}
BATCH = {'states': RNG.integers(0, 3, (8, 2, 2, 1)), 'label': np.arange(8)}


def network(k):
  """Makes logits of k states that depend on the pixel's state and the time."""

  def apply(params, x, noise, cond, *, key=None):
    logits = params['w'][:k].reshape(*[1] * x.ndim, k) * x[..., None]
    time = noise.reshape(-1, *[1] * x.ndim)
    return logits + time * params['v'][:k].reshape(*[1] * x.ndim, k)

  return Network(apply, dj.time_input(2.0))


def literal_logits(k, x, t):
  """Computes the same for one pixel, in float64."""
  params = PARAMS['network']
  return params['w'][:k] * x + 2.0 * t * params['v'][:k]


def drawn(objective, key):
  """Returns metrics, and per example x_0 [4], x_t [4] and t."""
  draw, loss_of = jax.jit(objective.draw), jax.jit(objective.loss)
  inputs, keys = draw(key, BATCH, Context())
  loss, (metrics, records) = loss_of(PARAMS, Context(), inputs, keys)
  assert records == () and loss == metrics['loss'].total
  no_data = {'states': np.where(BATCH['states'] == 1, 3, BATCH['states'])}
  loss, _ = loss_of(PARAMS, Context(), *draw(key, BATCH | no_data, Context()))
  assert np.isnan(loss)  # 3 is the mask, or too large
  x0, xt = (np.asarray(x).reshape(8, 4) for x in (inputs.x0, inputs.xt))
  assert_array_equal(inputs.x0, BATCH['states'])
  return metrics, x0, xt, np.asarray(inputs.level.t, np.float64)


def masked_nats(x0, xt, t):
  """Computes -sum of log p(x_0 | x_t) over masked pixels."""
  nats = 0.0
  for a, b in zip(x0, xt, strict=True):
    if b == 3:
      logits = literal_logits(4, b, t)[:3]
      nats -= logits[a] - np.log(np.exp(logits).sum())
    else:
      assert a == b
  return nats


@pytest.mark.parametrize('num_steps', [None, NUM_STEPS])
def test_masked_literally(num_steps, key):
  """MD4's weight is 1 / t on the linear schedule."""
  objective = discrete_states.masked(network(4), dj.masking_process(3), LINEAR, num_steps=num_steps)
  metrics, x0, xt, t = drawn(objective, key)
  assert (xt == 3).any() and (xt < 3).any()
  gaps = np.diff(np.sort(t))
  if num_steps is None:
    assert_allclose(gaps, 1 / 8, atol=1e-6)  # antithetic
  else:
    assert_allclose(t * 6, np.rint(t * 6), atol=1e-5)
  losses = [masked_nats(*row) / row[2] for row in zip(x0, xt, t, strict=True)]
  expected = np.mean(losses) / 4 / np.log(2)
  assert_allclose(metrics['loss'].total, expected, rtol=1e-5)


def of_elements(levels, kind, k):
  """Returns an objective with levels of elements, of the network with a time for each pixel row."""

  def apply(params, x, noise, cond, *, key=None):
    time = noise.reshape(*noise.shape, *[1] * (x.ndim + 1 - noise.ndim))
    return network(k).apply(params, x, 0.0 * noise[:, 0], cond) + time * params['v'][:k].reshape(
      *[1] * x.ndim, k
    )

  made = Network(apply, dj.time_input(2.0), level_axes=2)
  process = dj.masking_process(3) if kind is discrete_states.masked else dj.uniform_process(3)
  return kind(made, process, LINEAR, levels=levels)


def uniform_nats(x0, xt, t):
  """Computes UDLM's integrand of a pixel, by its formula."""
  theta = np.exp(literal_logits(3, xt, t))
  theta, alpha = theta / theta.sum(), 1 - t
  x, theta = (3 * alpha * p + 1 - alpha for p in (np.eye(3)[x0], theta))
  others = [
    x[j] / x[xt] * np.log(theta[xt] * x[j] / (theta[j] * x[xt])) for j in range(3) if j != xt
  ]
  return -1.0 / (3 * alpha) * (3 / x[xt] - 3 / theta[xt] - sum(others))


IN_TURN, INDEPENDENT = dj.levels_in_turn(1), dj.independent_levels(clean=0.3)


@pytest.mark.parametrize(
  'kind, levels',
  [
    slow(discrete_states.masked, IN_TURN),
    (discrete_states.masked, INDEPENDENT),
    (discrete_states.uniform, IN_TURN),
    slow(discrete_states.uniform, INDEPENDENT),
  ],
)
def test_losses_of_elements_literally(kind, levels, key):
  """An element is a row of two pixels; a clean one has no loss, and weights are the levels'."""
  objective = of_elements(levels, kind, 4 if kind is discrete_states.masked else 3)
  draw, loss_of = jax.jit(objective.draw), jax.jit(objective.loss)
  inputs, keys = draw(key, BATCH, Context())
  loss, (metrics, _) = loss_of(PARAMS, Context(), inputs, keys)
  x0, xt = (np.asarray(x).reshape(16, 2) for x in (inputs.x0, inputs.xt))
  t, weight = (np.asarray(x, np.float64).reshape(16) for x in (inputs.level.t, inputs.time_weight))
  assert 3 <= (weight > 0.0).sum() < 16
  total = 0.0
  for row in range(16):
    if weight[row] > 0.0:
      of = {
        discrete_states.masked: lambda a, b, t: masked_nats([a], [b], t) / t,
        discrete_states.uniform: uniform_nats,
      }[kind]
      pairs = zip(x0[row], xt[row], strict=True)
      total += weight[row] * sum(of(a, b, t[row]) for a, b in pairs)
    elif t[row] == 0.0:
      assert_array_equal(x0[row], xt[row])
  assert_allclose(loss, total / 32 / np.log(2), rtol=2e-4)
  assert metrics['loss'].count == np.float32(weight.mean())


@pytest.mark.parametrize('process', [dj.masking_process(3), dj.gaussian_process(3, BETAS)])
def test_uniform_is_of_replacements_without_a_mask(process):
  with pytest.raises(ValueError, match='noise is any of the states'):
    discrete_states.uniform(network(3), process, LINEAR)


def test_levels_of_elements_need_a_network_that_takes_them():
  with pytest.raises(ValueError, match='level_axes=2'):
    discrete_states.masked(network(4), dj.masking_process(3), LINEAR, levels=dj.levels_in_turn())


def d3pm_nats(matrices, x0, xt, step):
  """Computes L_{t-1} and -log p(x_0 | x_t) of an image by explicit matrices."""
  before = np.eye(3)
  for matrix in matrices[: step - 1]:
    before = before @ matrix
  q_t = matrices[step - 1]
  after = before @ q_t
  kl = nll = 0.0
  for a, b in zip(x0, xt, strict=True):
    posterior = q_t[:, b] * before[a] / after[a, b]
    weights = np.exp(literal_logits(3, b, step / NUM_STEPS))
    p_x0 = weights * after[:, b]
    nll -= np.log(p_x0[a] / p_x0.sum())
    reverse = q_t[:, b] * (weights @ before)
    reverse /= reverse.sum()
    some = posterior > 0
    kl += np.sum(posterior[some] * np.log(posterior[some] / reverse[some]))
  return kl, nll


@transcribes('D3PM (Austin et al. 2021)', '5: L_hybrid', '`discrete.objectives.d3pm`')
def test_d3pm_literally(key):
  """Eq. 5 is evaluated at the drawn steps, for the Gaussian process."""
  objective = discrete_states.d3pm(
    network(3),
    dj.gaussian_process(3, BETAS),
    LINEAR,
    num_steps=NUM_STEPS,
    cross_entropy_weight=0.25,
  )
  metrics, x0, xt, t = drawn(objective, key)
  steps = np.rint(t * NUM_STEPS).astype(int)
  assert_allclose(steps, t * NUM_STEPS, atol=1e-5)
  assert set(steps) == set(range(1, NUM_STEPS + 1))
  matrices = gaussian_matrices(3, BETAS)
  terms = [d3pm_nats(matrices, *row) for row in zip(x0, xt, steps, strict=True)]
  kl, nll = np.mean(terms, axis=0) / 4 / np.log(2)
  for name, expected in {
    'vlb': NUM_STEPS * kl,
    'cross_entropy': nll,
    'loss': kl + 0.25 * nll,
  }.items():
    assert_allclose(metrics[name].total, expected, rtol=1e-4)
