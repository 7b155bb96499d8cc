"""Bounds along paths of levels: for the exact denoiser of a Markov chain all have one value.

Planted, each caught: the speed of a step without the number of steps; `place_on` from the
wrong end of a step; the weight of elements that stay; the density of squared times; the prior's
term of given elements; the levels of `state_bound` from its other end.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.discrete import level_paths, objectives, oracles as discrete_oracles
from diffusion_jax.training.objectives import Context
from tests.rows import slow
from tests.states import LINEAR, prior_of, replacement_matrices
from tests.transcribed import transcribes

D, N = 4, 8000
START = np.array([0.5, 0.3, 0.2])
TRANSITIONS = np.array([[0.8, 0.15, 0.05], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6]])
CHAIN = discrete_oracles.chain(START, TRANSITIONS, D)
PROCESSES = {'masking': dj.masking_process(3), 'uniform': dj.uniform_process(3)}
BOUNDS = {'masking': dj.masked_bound, 'uniform': dj.uniform_bound}
# The steps of an element and its starts; the whole path has four steps.
PATHS = {
  'together': (4, (0, 0, 0, 0)),
  'pyramid': (2, (0, 1, 1, 2)),
  'left to right': (1, (0, 1, 2, 3)),
  'right to left': (1, (3, 2, 1, 0)),
  'permuted': (1, (2, 0, 3, 1)),
  'blocks': (2, (0, 0, 2, 2)),
}
EACH = pytest.mark.parametrize('name', PROCESSES)
# A permuted order has elements that go before their neighbours, and a pyramid ones together.
ALIKE = 'right to left', 'blocks'
EACH_PATH = pytest.mark.parametrize('path', [slow(x) if x in ALIKE else x for x in PATHS])


def levels_of(path, schedule=LINEAR):
  number, starts = PATHS[path] if isinstance(path, str) else path
  return dj.staggered(dj.level_grid(schedule, number), starts)


def draws(seed):
  return CHAIN.states[np.random.default_rng(seed).choice(3**D, N, p=CHAIN.probs.ravel())]


def log_prob(x0):
  """Returns log p(x_0) of the chain, step by step."""
  steps = np.log(TRANSITIONS)[x0[:, :-1], x0[:, 1:]]
  return np.log(START)[x0[:, 0]] + steps.sum(axis=1)


def test_a_chain_is_its_transitions():
  assert_allclose(np.log(CHAIN.probs.ravel()), log_prob(CHAIN.states), rtol=1e-12)


@functools.partial(jax.jit, static_argnums=0)
def bound(name, levels, x0):
  process = PROCESSES[name]
  denoise = CHAIN.denoiser(process)
  return BOUNDS[name](jax.random.key(1), denoise, process, LINEAR, x0, num_times=8, levels=levels)


@functools.cache
def excess(name, path):
  """Returns the draws of the bound less -log p(x_0), of draws that paths do not share."""
  x0 = draws([*PATHS].index(path))
  return np.asarray(bound(name, levels_of(path), x0), np.float64) + log_prob(x0)


@EACH
@EACH_PATH
def test_the_bound_of_the_exact_denoiser_is_tight_on_every_path(name, path):
  found = excess(name, path)
  error = found.std() / N**0.5
  assert error < 0.2 and abs(found.mean()) < 3 * error


@EACH
def test_the_order_gap_of_the_exact_denoiser_is_0(name):
  gap = np.mean(excess(name, 'left to right')) - np.mean(excess(name, 'together'))
  errors = [excess(name, path).std() / N**0.5 for path in ('left to right', 'together')]
  assert abs(gap) < 3 * np.hypot(*errors)


@EACH
@pytest.mark.parametrize('path', ['left to right', slow('right to left'), 'permuted'])
def test_a_step_for_each_token_is_the_autoregressive_likelihood(name, path):
  """Each draw of x_t has the value -log p(x_0): D terms -log p(x_i | what is before it)."""
  process, x0 = PROCESSES[name], CHAIN.states
  run = jax.jit(
    lambda levels: dj.state_bound(
      jax.random.key(0), CHAIN.denoiser(process), process, levels, jnp.asarray(x0)
    )
  )
  terms = run(levels_of(path))
  assert_allclose(terms['prior'], 0.0, atol=1e-6)
  assert_allclose(terms['total'], -log_prob(x0), rtol=2e-5, atol=2e-5)
  if path == 'left to right':
    last = -np.log(TRANSITIONS)[x0[:, -2], x0[:, -1]]
    assert_allclose(terms['diffusion'][:, 0], last, rtol=2e-5, atol=2e-5)


def matrices_on(name, path):
  """Returns Q_1..Q_T of each element, [T, D, S, S]."""
  alphas = np.asarray(levels_of(path).alpha, np.float64)[::-1, 0]
  return replacement_matrices(name, alphas)


@EACH
@EACH_PATH
def test_the_bound_in_steps_has_the_mean_of_the_oracle(name, path):
  """In few steps it depends on the path: elements of a step are drawn independently."""
  x0 = draws(9)
  expected = discrete_oracles.expected_bound(CHAIN, matrices_on(name, path), prior_of(name))
  terms = steps_bound(name, levels_of(path), x0)
  for of in ('diffusion', 'total'):
    values = np.asarray(terms[of], np.float64)
    error = values.std(axis=0) / N**0.5 + 1e-6
    assert (np.abs(values.mean(axis=0) - expected[of]) < 4.5 * error).all(), of
  gap = expected['total'] - CHAIN.entropy()
  law = discrete_oracles.ancestral_law(CHAIN, matrices_on(name, path), prior_of(name))
  if PATHS[path][0] == 1:
    assert abs(gap) < 1e-9
    assert_allclose(law, CHAIN.probs, atol=1e-12)
  else:
    assert 0.0 < np.sum(CHAIN.probs * np.log(CHAIN.probs / law)) < gap


@functools.partial(jax.jit, static_argnums=0)
def steps_bound(name, levels, x0):
  process = PROCESSES[name]
  return dj.state_bound(jax.random.key(2), CHAIN.denoiser(process), process, levels, x0)


@pytest.mark.parametrize('name', ['masking', slow('uniform')])
def test_what_is_given_or_integrated_out_has_no_term(name):
  """A bound of x_1 given x_0, where x_2 and x_3 are integrated out; both kinds of bounds."""
  starts = (-np.inf, 0, np.inf, np.inf)
  x0 = CHAIN.states
  expected = -np.log(TRANSITIONS)[x0[:, 0], x0[:, 1]]
  terms = steps_bound(name, levels_of((1, starts)), jnp.asarray(x0))
  assert_allclose(terms['total'], expected, rtol=2e-5, atol=2e-5)
  x0 = draws(3)
  expected = -np.log(TRANSITIONS)[x0[:, 0], x0[:, 1]]
  found = np.asarray(bound(name, levels_of((4, starts)), x0), np.float64) - expected
  assert abs(found.mean()) < 4.5 * found.std() / N**0.5 < 0.2


def test_levels_of_examples_are_each_example_s_own():
  """A grid [M+1, B, T]: the first half goes left to right, the other right to left."""
  x0 = np.concatenate([draws(4)[: N // 2], draws(5)[: N // 2]])
  one, other = levels_of('left to right'), levels_of('right to left')
  half = jnp.arange(N)[None, :, None] < N // 2
  levels = jax.tree.map(lambda a, b: jnp.where(half, a, b), one, other)
  found = np.asarray(bound('masking', levels, x0), np.float64)
  for part, alone in ((slice(N // 2), one), (slice(N // 2, None), other)):
    assert_allclose(found[part], np.asarray(bound('masking', alone, x0))[part], rtol=1e-5)


def test_gradients_are_finite_where_elements_stay():
  """Weights are infinite at clean levels."""

  @functools.partial(jax.jit, static_argnums=1)
  @jax.grad
  def slope(scale, name):
    of = lambda xt, level: scale * CHAIN.denoiser(PROCESSES[name])(xt, level)
    x0, levels = jnp.asarray(CHAIN.states), levels_of('pyramid')
    return jnp.mean(BOUNDS[name](jax.random.key(0), of, PROCESSES[name], LINEAR, x0, levels=levels))

  for name in BOUNDS:
    assert np.isfinite(slope(0.9, name))


def test_places_cover_a_path_evenly():
  """Each of 4 steps of a path has 3 of 12 places, in thirds of it."""
  step, rest = level_paths.spread(jnp.array(0.97), jnp.array(0.3), jnp.arange(12), 12, 4)
  assert np.bincount(step).tolist() == [3] * 4
  for m in range(4):
    assert_allclose(np.diff(np.sort(rest[step == m])), 1 / 3, atol=1e-5)
  place = level_paths.place_on(LINEAR, levels_of('pyramid'), jnp.array([1]), jnp.array([0.25]))
  # Step 1 of 4: the first element ends at clean data, the next two begin, the last waits.
  assert_allclose(place.level.t, [[0.125, 0.625, 0.625, 1.0]])
  assert_allclose(place.speed, [[2.0, 2.0, 2.0, 0.0]])


# Nats of p(x_i | the others) for a denoiser that is not exact.
LOGITS = np.random.default_rng(7).normal(size=(D, 4**D, 3))


def wrong(xt, level):
  """Logits by a table of all x_t: contradictory, so that paths differ."""
  return dj.posterior_logits(table_of(xt), xt, PROCESSES['masking'], level)


def table_of(xt):
  index = jnp.sum(xt * 4 ** jnp.arange(D)[None, ::-1], axis=-1)
  logits = jnp.moveaxis(jnp.asarray(LOGITS, jnp.float32)[:, index], 0, 1)
  return jnp.pad(logits, ((0, 0), (0, 0), (0, 1)))


def nll_at(x0, masked, i):
  """-log p(x_0,i | x_t), with the masked elements given."""
  xt = np.where(masked, 3, x0)
  row = LOGITS[i, np.sum(xt * 4 ** np.arange(D)[::-1])]
  return np.log(np.exp(row).sum()) - row[x0[i]]


def by_blocks(x0):
  """The bound of `wrong` by blocks of 2: one element is masked with t (1 - t), both with t^2."""
  expected = 0.0
  for a, b in ((0, 1), (2, 3)):
    before = [False] * a
    after = [True] * (D - b - 1)
    one, other, both = ([*before, *m, *after] for m in ((1, 0), (0, 1), (1, 1)))
    expected += 0.5 * (nll_at(x0, one, a) + nll_at(x0, other, b))
    expected += 0.5 * (nll_at(x0, both, a) + nll_at(x0, both, b))
  return expected


def test_the_loss_of_blocks_in_turn_is_the_bound_by_blocks():
  x0, size = np.array([2, 0, 1, 1]), 4000
  network = dj.Network(
    lambda params, x, noise, cond, *, key=None: table_of(x), dj.time_input(), level_axes=2
  )
  objective = objectives.masked(network, PROCESSES['masking'], LINEAR, levels=dj.levels_in_turn(2))
  batch = {'states': jnp.broadcast_to(x0, (size, D))}
  loss = jax.jit(lambda key: objective({'network': {}}, Context(), key, batch)[0])
  bits = np.array([loss(key) for key in jax.random.split(jax.random.key(0), 16)])
  error = bits.std(ddof=1) / 4
  assert error < 0.02 and abs(bits.mean() - by_blocks(x0) / D / np.log(2)) < 4.5 * error


@transcribes(
  'Block diffusion (Arriola et al. 2025)',
  'bound over blocks, given the clean blocks before',
  '`masked_bound(…, levels)`',
)
def test_the_bound_by_blocks_literally():
  """The weight is 1 / t: all integrals are 1 / 2."""
  x0 = np.array([2, 0, 1, 1])
  expected = by_blocks(x0)
  many = jnp.broadcast_to(x0, (20_000, D))
  run = jax.jit(
    lambda levels: dj.masked_bound(
      jax.random.key(0), wrong, PROCESSES['masking'], LINEAR, many, num_times=8, levels=levels
    )
  )
  nats = np.asarray(run(levels_of((1, (0, 0, 1, 1)))), np.float64)
  error = nats.std() / len(nats) ** 0.5
  assert error < 0.05 and abs(nats.mean() - expected) < 4.5 * error
  backwards = np.asarray(run(levels_of((1, (1, 1, 0, 0)))))
  assert abs(backwards.mean() - nats.mean()) > 10 * error  # The order gap of a wrong denoiser.
