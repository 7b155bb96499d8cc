"""Equations of discrete states against sums over all states, in float64."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, softmax

import diffusion_jax as dj
from diffusion_jax.discrete import equations as discrete_states, oracles as discrete_oracles
from diffusion_jax.discrete.equations import (
  NEVER,
  levels_of_step,
)
from tests.jitted import jitted
from tests.states import (
  EACH,
  LINEAR,
  NUM_STEPS,
  PROCESSES,
  TABLE,
  at,
  between,
  data,
  matrices_of,
  prior_of,
)
from tests.transcribed import transcribes

STEPS = st.lists(st.integers(0, NUM_STEPS), min_size=2, max_size=2, unique=True).map(sorted)


def all_pairs(name):
  """Returns every pair of x_0 and x_t, [N, 1] each."""
  size = len(PROCESSES[name].prior)
  x0, xt = np.meshgrid(np.arange(3), np.arange(size), indexing='ij')
  return x0.reshape(-1, 1), xt.reshape(-1, 1)


@EACH
@settings(max_examples=8, deadline=None, derandomize=True)
@given(steps=STEPS)
def test_the_posterior_is_bayes_rule(name, steps):
  """q(x_s | x_t, x_0) q(x_t | x_0) = q(x_t | x_s) q(x_s | x_0)."""
  s, t = steps
  x0, xt = all_pairs(name)
  q = np.asarray(jitted(dj.q_posterior_states)(x0, xt, PROCESSES[name], at(s), at(t)))[:, 0]
  to_s, to_t = between(name, 0, s), between(name, 0, t)
  marginal = to_t[x0[:, 0], xt[:, 0]]
  joint = to_s[x0[:, 0]] * between(name, s, t)[:, xt[:, 0]].T
  assert_allclose(q * marginal[:, None], joint, atol=1e-6)
  given = (x0 == xt)[:, 0] & (name == 'masking')
  assert_allclose(q.sum(axis=1), given | (marginal > 0), atol=1e-6)
  assert_allclose(q[given], np.eye(q.shape[1])[x0[given, 0]], atol=1e-6)


def test_draws_have_the_probabilities_and_never_the_impossible():
  probs = np.float32([[0.0, 1.0, 0.0, 3.0], [0.2, 0.0, 0.8, 0.0]])

  @jax.jit
  def draw(key, order):
    many = jnp.broadcast_to(jnp.asarray(probs)[order, None], (2, 20_000, 4))
    return dj.draw_states(jax.random.split(key, 2)[order], many)

  draws, reverse = (
    np.asarray(draw(jax.random.key(0), np.array(order))) for order in ([0, 1], [1, 0])
  )
  counts = np.stack([np.bincount(row, minlength=4) for row in draws])
  assert_array_equal(counts > 0, probs > 0)
  expected = [[0.0, 0.25, 0.0, 0.75], [0.2, 0.0, 0.8, 0.0]]
  assert_allclose(counts / 20_000, expected, atol=5 * 0.0031)
  # A draw depends on the key of its example.
  assert_array_equal(reverse[::-1], draws)


def test_states_below_the_rounding_of_a_sum_are_drawn(monkeypatch):
  """The uniform number has a fine part, which decides where the rest is 0."""
  fine = np.linspace(0.0, 1.0, 2**16, dtype=np.float32)
  parts = iter([np.zeros((2**16, 2), np.float32), np.stack([fine] * 2, -1)])
  draw = lambda key, x: jnp.asarray(next(parts))
  monkeypatch.setattr(discrete_states, 'draw_uniform', draw)
  probs = np.float32([1.0, 3e-9, 1e-9])
  many = np.broadcast_to(probs, (2**16, 3))
  drawn = jax.jit(lambda p: dj.draw_states(jax.random.key(0), p))(many)
  shares = np.bincount(drawn, minlength=3) / 2**16
  expected = [1.0 - 3e-9 * 2**23, 2e-9 * 2**23, 1e-9 * 2**23]
  assert_allclose(shares, expected, atol=1e-4)


def test_what_is_no_distribution_gives_no_state(key):
  """NaN, inf and only zeros give -1, which stays -1 and is NaN as a value."""
  bad = [[np.nan] * 3, [0.5, 0.5, np.nan], [np.nan, 1.0, 0.0], [0.0] * 3]
  probs = np.array([*bad, [np.inf, 1.0, 0.0], [0.0, 2.0, 0.0]], np.float32)
  with jax.debug_nans(False):
    drawn = jitted(dj.draw_states)(key, probs)
    assert_array_equal(drawn, [-1, -1, -1, -1, -1, 1])
    values = jax.jit(dj.values_of)(drawn, 3)
    assert_array_equal(values, [np.nan] * 5 + [0.0])
  marginals = jax.jit(
    lambda level: [dj.q_states(np.array([[-1]]), process, level) for process in PROCESSES.values()]
  )
  for q in jax.device_get(marginals(at(3))):
    assert (q == 0.0).all()


def test_states_of_scaled_images():
  levels = np.arange(256)[None]
  scaled = (levels / 127.5 - 1.0).astype(np.float32)  # not exact
  assert_array_equal(dj.states_of(scaled, 256), levels)
  values = jax.jit(dj.values_of)(np.arange(257), 256)
  assert_allclose(values, [*scaled[0], 0.0], atol=1e-6)


def literal_logistic(mean, scale, num_values):
  """Returns the masses of bins around the values, divided by their sum."""
  values, half = np.linspace(-1, 1, num_values), 1 / (num_values - 1)
  cdf = lambda x: expit((x - mean[..., None]) / scale[..., None])
  mass = cdf(values + half) - cdf(values - half)
  return mass / mass.sum(axis=-1, keepdims=True)


@transcribes(
  'D3PM (Austin et al. 2021)',
  'A.8: truncated logistic',
  '`logistic_logits`, `logistic_network`',
)
def test_truncated_logistic():
  """A network gives tanh(output + x) and the log scale, less 2."""
  rng = np.random.default_rng(0)
  x, output = rng.integers(0, 9, (4, 3)), rng.uniform(-1.0, 2.0, (4, 3, 2))
  network = dj.logistic_network(lambda params, *_, key: params, 9)
  logits = jax.jit(network)(np.float32(output), x, np.zeros(4), None)
  mean = np.tanh(output[..., 0] + x / 4 - 1)
  expected = literal_logistic(mean, np.exp(output[..., 1] - 2), 9)
  assert_allclose(softmax(np.float64(logits), axis=-1), expected, rtol=1e-4, atol=1e-7)
  # Far from the mean a difference of two cdfs is 0 in float32.
  far = jax.jit(dj.logistic_logits, static_argnums=2)(np.float32(-1.0), np.float32(-4.0), 9)
  assert_allclose(np.diff(far)[1:], -0.25 / np.exp(-4), rtol=1e-3)


def test_kl_and_nll_with_zeros():
  q, p = np.array([[[0.5, 0.5, 0.0]]]), np.array([[[0.25, 0.5, 0.25]]])
  result = jitted(dj.state_kl)(np.float32(q), np.float32(p))
  assert_allclose(result, [0.5 * np.log(2)], rtol=1e-6)
  logits = np.float32([[[2.0, NEVER, 2.0], [0.0, 0.0, NEVER]]])
  x0, nll_of = np.array([[2, 1]]), jitted(dj.state_nll)
  nll = nll_of(logits, x0)
  assert_allclose(nll, [2 * np.log(2)], rtol=1e-6)
  nll = nll_of(logits, x0, np.array([[True, False]]))
  assert_allclose(nll, [np.log(2)], rtol=1e-6)


def test_transitions_of_tiny_probabilities():
  """-log p(x_0 | x_t) is 2 a; masked L_{t-1} is the fraction unmasked of it."""
  x0, xt = np.array([[0]]), np.array([[3]])
  of_a = np.array([-1.0, 1.0, -1.0, 0.0], np.float32)

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(None, 0))
  @jax.value_and_grad
  def kl(a, level_s):
    return dj.transition_kl_states(
      a * of_a[None, None], x0, xt, PROCESSES['masking'], level_s, at(4)
    )[0]

  for a in (30.0, 1000.0):
    nats, slopes = kl(a, at(np.array([0, 3])))
    assert_allclose(nats, [2.0 * a, 0.5 * a], rtol=1e-6)
    assert_allclose(slopes, [2.0, 0.5], rtol=1e-6)


DRAWS = 10_000


class Unmasked(NamedTuple):
  """The uniform process (0) or the Gaussian (1): one program for both."""

  number: int
  prior = PROCESSES['uniform'].prior
  mask = None

  def multiply(self, *args):
    uniform, gaussian = (PROCESSES[name].multiply(*args) for name in ('uniform', 'gaussian'))
    return jnp.where(self.number, gaussian, uniform)


def masked_bound(key, process, x0):
  return dj.masked_bound(key, TABLE.denoiser(process), process, LINEAR, x0)


def state_bound(key, process, x0):
  levels = dj.level_grid(LINEAR, NUM_STEPS)
  return dj.state_bound(key, TABLE.denoiser(process), process, levels, x0)


@pytest.mark.parametrize('bound', [masked_bound, state_bound])
def test_the_bound_of_what_is_no_data(bound, key):
  """States that are not data are refused, and give NaN for the example if x_0 is traced."""
  process = PROCESSES['masking']
  for x, text in ((3, '3: states of data are 0..3, except the mask, 3'), (-1, '-1: ')):
    of_key = functools.partial(bound, process=process, x0=np.array([[0, x, 1]]))
    with pytest.raises(ValueError, match='x0 is ' + text):
      jax.eval_shape(of_key, key)
  x0 = np.array([[0, 1, 2], [0, 3, 1], [0, 4, 1], [0, -1, 1]])
  many = np.resize(x0, (DRAWS, 3))  # a size whose program is needed elsewhere
  with jax.debug_nans(False):
    found = jitted(bound)(key, process, many)
    found = np.asarray(found['total'] if bound is state_bound else found)[:4]
    nll = jitted(dj.state_nll)(np.zeros((4, 3, 4), np.float32), x0)
  assert_array_equal(np.isnan(found), [False, True, True, True])
  assert_array_equal(np.isnan(nll), [False, False, True, True])


def test_the_prior_kl_is_infinite_where_the_prior_excludes_a_state():
  x0, prior_kl = np.array([[0, 1], [2, 2]]), jitted(dj.prior_kl_states)
  process = PROCESSES['masking']
  near, last = (np.asarray(prior_kl(x0, process, at(n))) for n in (5.9994, 6))
  assert np.isinf(near).all() and (last == 0.0).all()
  result = prior_kl(x0, PROCESSES['uniform'], at(3))
  q = np.array([2, 0.5, 0.5]) / 3
  assert_allclose(result, 2 * np.sum(q * np.log(3 * q)), rtol=1e-5)


@transcribes(
  'D3PM (Austin et al. 2021)',
  '1: the bound, term by term',
  '`state_bound`, `transition_kl_states`, `prior_kl_states`',
)
@EACH
def test_the_bound_has_the_mean_of_the_oracle(name):
  """Draws of x_0 and x_t give each term of the exact denoiser."""
  x0 = data(DRAWS)
  matrices = matrices_of(name)
  process = PROCESSES[name] if name == 'masking' else Unmasked(name == 'gaussian')
  terms = jitted(state_bound)(jax.random.key(2), process, x0)
  expected = discrete_oracles.expected_bound(TABLE, matrices, prior_of(name))
  for key in ('diffusion', 'total'):
    values = np.asarray(terms[key], np.float64)
    error = values.std(axis=0) / DRAWS**0.5
    assert (abs(values.mean(axis=0) - expected[key]) < 4.5 * error).all(), key
  assert_allclose(terms['prior'].mean(), expected['prior'], rtol=0.02, atol=1e-6)
  assert expected['total'] > TABLE.entropy()
  # Given x_0 the draws of two steps are independent, and thus their terms.
  of_x0, terms = x0 @ np.array([9, 3, 1]), np.asarray(terms['diffusion']).T
  count = np.maximum(np.bincount(of_x0), 1)
  terms = [term - (np.bincount(of_x0, term) / count)[of_x0] for term in terms]
  for a, b in itertools.combinations(terms, 2):
    assert abs(np.sum(a * b)) <= 5 * np.sum((a * b) ** 2) ** 0.5


def test_the_first_step_ends_at_clean_data_even_if_the_schedule_does_not():
  schedule = lambda t: dj.NoiseLevel(t, 0.9 - 0.8 * t, 0.1 + 0.8 * t)
  ends = jax.jit(lambda steps: levels_of_step(schedule, steps, 4))
  level_s, level_t = ends(np.arange(1, 5))
  assert_allclose(level_s.t, [0.0, 0.25, 0.5, 0.75])
  assert_allclose(level_s.alpha, [1.0, 0.7, 0.5, 0.3], rtol=1e-6)
  assert_allclose(level_s.sigma, [0.0, 0.3, 0.5, 0.7], rtol=1e-6)
  assert_allclose(level_t.sigma, [0.3, 0.5, 0.7, 0.9], rtol=1e-6)


def test_the_network_sees_states_noise_and_conditions():
  def network_fn(params, x, noise, cond, *, key=None):
    logits = params * jax.nn.one_hot(x, 3) + cond['label'][:, None, None]
    return (logits * noise[:, None, None]).astype(jnp.bfloat16)  # exact

  denoise = dj.make_state_denoiser(
    dj.Network(network_fn, dj.time_input(10.0)),
    2.0,
    {'label': jnp.array([0.0, 1.0])},
    process=PROCESSES['uniform'],
  )
  xt = np.array([[0, 1], [2, 2]])
  logits = np.asarray(jax.jit(denoise)(xt, at(3)), np.float64)
  for i in range(2):
    for j in range(2):
      one_hot = np.eye(3)[xt[i, j]]
      weights = np.exp(10.0 * one_hot) * (0.5 * one_hot + 0.5 / 3)
      assert_allclose(np.exp(logits[i, j]), weights / weights.sum(), rtol=1e-4)


@EACH
@settings(max_examples=8, deadline=None, derandomize=True)
@given(steps=STEPS)
def test_the_reverse_is_the_mean_of_posteriors(name, steps):
  """A loop computes sum_x0 q(x_s | x_t, x_0) p(x_0 | x_t); levels are [B]."""
  s, t = steps
  size = len(PROCESSES[name].prior)
  xt = np.arange(size)[:, None]
  if name == 'masking' and t == NUM_STEPS:
    xt = np.full_like(xt, 3)  # Everything is masked.
  logits = np.random.default_rng(s).normal(size=(len(xt), 1, size))
  steps_t = np.full(len(xt), t)
  p = np.asarray(
    jitted(dj.p_reverse_states)(
      np.float32(logits), xt, PROCESSES[name], at(steps_t - (t - s)), at(steps_t)
    )
  )
  to_t = between(name, 0, t)
  for i, x in enumerate(xt[:, 0]):
    weights = np.exp(logits[i, 0, :3]) * (to_t[:3, x] > 0)
    weights /= weights.sum()
    q = between(name, 0, s)[:3] * between(name, s, t)[:, x]
    with np.errstate(invalid='ignore'):
      q = np.nan_to_num(q / q.sum(axis=1, keepdims=True))
    assert_allclose(p[i, 0], weights @ q, rtol=1e-4, atol=1e-6)
