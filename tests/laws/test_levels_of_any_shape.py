"""Law: levels have any shape that fits the leading axes of x; equations hold element by element.

Over the calls of tests/calls.py and the table of samplers. Equal levels for all elements give
what one level per example gives; levels that differ give each element what its own level
gives it; an element between equal levels stays, bit for bit, and its gradient is finite. What
needs one level for an example says so in one line.

Planted, each caught: `sigma_ratio` without its case of clean levels; `weighted_sum` of the mean
weight; `velocity` at the clean level's own time; `prior_sample` without `expand_to`;
`_with_axes` without its loop; `_weighted_mean` that takes equal nodes for known.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.kinds import choices
from diffusion_jax.app.kinds.discrete import SCHEMA
from diffusion_jax.declared import declared_by
from tests import calls
from tests.calls import COSINE, FLOW, D
from tests.rows import slow

B = 4
# Calls with a grid of their own; the others have the times of the batch.
STATES = 'ancestral_states', 'first_hitting', 'confidence_ordered', 'remasked', 'keep_known'
GRIDS = {name: call for name, call in calls.SAMPLERS.items() if name not in choices.SAMPLERS}
GRIDS |= {name: calls.DISCRETE[name] for name in STATES}
GRIDS |= {'path_bound': calls.BOUNDS['path_bound']}
TABLES = calls.PROCESS | calls.GUIDERS | calls.DISCRETE
TABLES = {name: call for name, call in TABLES.items() if name not in GRIDS and 'bound' not in name}
TABLES |= {'prior_kl': calls.BOUNDS['prior_kl']} | calls.ORACLES
BATCH = calls.batch_of(B)
TIMES = np.random.default_rng(3).uniform(0.1, 0.9, (B, D)).astype(np.float32)


@pytest.fixture(autouse=True)
def of_elements(monkeypatch):
  """The network of the calls takes a level for each element."""
  changed = dataclasses.replace(calls.NETWORK, level_axes=2)
  fields = dict(vars(calls.NETWORK))
  vars(calls.NETWORK).update(vars(changed))
  yield
  vars(calls.NETWORK).update(fields)


def numbers(call, batch):
  """Returns the arrays of a call; one that takes levels of examples says so, which gives None."""
  try:
    return [
      np.asarray(x) for x in jax.tree.leaves(call(batch)) if jnp.issubdtype(x.dtype, np.number)
    ]
  except ValueError as error:
    assert 'takes levels' in str(error) and '\n' not in str(error), error


def elements_of(name):
  """Returns the number of elements of an example, of what a call takes."""
  return BATCH.states.shape[1] if name in calls.DISCRETE else D


# Equations of states, on states x_0 and x_t.
PROCESSES = {
  'masking': dj.masking_process(calls.STATES),
  'uniform': dj.uniform_process(calls.STATES),
}
OF_STATES = {
  'q_states': lambda s, p, level, xt, x0, logits: dj.q_states(x0, p, level),
  'q_posterior_states': lambda s, p, level, xt, x0, logits: dj.q_posterior_states(
    x0, xt, p, s, level
  ),
  'p_reverse_states': lambda s, p, level, xt, x0, logits: dj.p_reverse_states(
    logits, xt, p, s, level
  ),
  'posterior_logits': lambda s, p, level, xt, x0, logits: dj.posterior_logits(logits, xt, p, level),
  'prior_kl_states': lambda s, p, level, xt, x0, logits: dj.prior_kl_states(
    x0, p, FLOW(1.0 if p.mask else level.t), level.t > 0.5
  ),
  'transition_kl_states': lambda s, p, level, xt, x0, logits: dj.transition_kl_states(
    logits, x0, xt, p, s, level
  ),
  'jump_nats': lambda s, p, level, xt, x0, logits: dj.jump_nats(logits, x0, xt, p, level),
  'masked_weight': lambda s, p, level, xt, x0, logits: dj.masked_weight(FLOW)(level),
  'uniform_weight': lambda s, p, level, xt, x0, logits: dj.uniform_weight(FLOW)(level),
}


# The network of the calls mixes the numbers of an example. The others read no level of the batch.
MIXED = {'network', 'network_loss', 'at_training_levels'}
MIXED |= {'dequantize', 'gaussian_dequantize', 'prior_sample', 'simple_loss'}
# Each element has its own level, below, and so equal levels are one.
OWN = calls.PROCESS.keys() - MIXED - {'path_noise'}
# Rows of the equations of states, each by its process.
OWN_STATES = {x for x in TABLES if x.partition('_')[2] in OF_STATES or x in OF_STATES}


@pytest.mark.parametrize('name', [slow(x) if x in OWN | OWN_STATES else x for x in TABLES])
def test_equal_levels_of_elements_are_one_level(name):
  same = BATCH._replace(t=jnp.broadcast_to(BATCH.t[:, None], (B, elements_of(name))))
  each = numbers(TABLES[name], same)
  for one, own in zip(numbers(TABLES[name], BATCH), each or (), strict=bool(each)):
    wider = one.reshape(one.shape + (1,) * (own.ndim - one.ndim))
    assert_allclose(own, np.broadcast_to(wider, own.shape), rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize('name', sorted(OWN | {'path_noise'}))
def test_levels_of_elements_are_each_element_s_own(name):
  """The numbers of a result belong to elements, or are a sum over them."""
  call = TABLES[name]
  whole = numbers(call, BATCH._replace(t=jnp.asarray(TIMES)))
  if whole is None:
    assert name == 'path_noise'
    return
  columns = [BATCH._replace(t=jnp.asarray(TIMES[:, d]), **alone(d)) for d in range(D)]
  for own, *parts in zip(whole, *(numbers(call, b) for b in columns), strict=True):
    parts = [part.reshape(B, -1)[:, 0] for part in parts]
    apart = np.stack(parts, axis=1)
    assert_allclose(own, apart if own.ndim == 2 else apart.sum(axis=1), rtol=1e-5, atol=1e-5)


def alone(d):
  """Returns the numbers of element d only."""
  return {name: getattr(BATCH, name)[:, d : d + 1] for name in ('x', 'y', 'pixels')}


@pytest.mark.parametrize('kind', PROCESSES)
@pytest.mark.parametrize('name', OF_STATES)
def test_levels_of_states_are_each_element_s_own(name, kind):
  process, call, n = PROCESSES[kind], OF_STATES[name], 3
  rng = np.random.default_rng(5)
  x0 = rng.integers(0, calls.STATES, (B, n))
  noise = np.full((B, n), calls.STATES) if process.mask else rng.integers(0, calls.STATES, (B, n))
  xt = np.where(rng.uniform(size=(B, n)) < 0.5, noise, x0)
  logits = rng.normal(size=(B, n, len(process.prior))).astype(np.float32)

  def of(t, *arrays):
    return np.asarray(call(FLOW(jnp.asarray(0.5 * t)), process, FLOW(jnp.asarray(t)), *arrays))

  whole = of(TIMES[:, :n], xt, x0, logits)
  parts = [
    of(TIMES[:, i], *(a[:, i : i + 1] for a in (xt, x0, logits))).reshape(B, -1) for i in range(n)
  ]
  apart = np.stack(parts, axis=1)
  expected = apart.sum(axis=(1, 2)) if whole.ndim == 1 else apart.reshape(whole.shape)
  assert_allclose(whole, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('kind', PROCESSES)
def test_states_between_levels_of_noise_stay(kind):
  """Also in the equations, whose ratio of the alphas is 0 / 0."""
  process = PROCESSES[kind]
  level = FLOW(jnp.array([[0.5, 1.0]]))
  xt = jnp.array([[calls.STATES if process.mask else 2] * 2])
  logits = jnp.zeros((1, 2, len(process.prior)))
  p = dj.p_reverse_states(logits, xt, process, FLOW(jnp.array([[0.25, 1.0]])), level)
  assert_array_equal(p[0, 1], np.eye(len(process.prior))[xt[0, 1]])
  nats = dj.transition_kl_states(
    logits, jnp.zeros((1, 2), int), xt, process, level, FLOW(jnp.array([[0.5, 1.0]]))
  )
  assert_array_equal(nats, [0.0])


# Samplers.

STEPS = 12
GRID = dj.level_grid(COSINE, STEPS, 'logsnr')
# Together, a pyramid, one after another, given, and noise.
STARTS = 0, 0, 4, 8, STEPS, 2 * STEPS, -np.inf, np.inf
STAGGERED = dj.staggered(GRID, STARTS)


def denoise(x, level):
  """The exact denoiser of independent numbers N(0.5, 0.3^2)."""
  level = level.expand_to(x)
  gain = 0.09 * level.alpha / (0.09 * level.alpha**2 + level.sigma**2)
  return dj.Prediction(0.5 + gain * (x - 0.5 * level.alpha), jnp.full_like(x, 0.5))


def table():
  """Yields (name, sampler, denoiser) of all samplers of configs, and wrappers."""
  for name, make in choices.SAMPLERS.items():
    pair = declared_by(make).takes_pairs
    sampler = dj.cfg_plus_plus(0.5) if pair else calls.of_table(name)
    yield name, sampler, dj.paired(denoise, denoise) if pair else denoise
  yield 'ancestral, learned', dj.ancestral('learned'), denoise
  yield 'churn', dj.churn(dj.heun(), COSINE, 0.1), denoise
  yield 'with_ancestral_noise', dj.with_ancestral_noise(dj.heun(), COSINE), denoise
  yield 'dpm_solver_pp_sde, order 3', dj.dpm_solver_pp_sde(order=3), denoise
  yield 'renoised', dj.renoised(0.5), denoise
  yield 'self_conditioned', dj.self_conditioned(dj.ddim()), lambda x0: denoise


SAMPLERS = {name: rest for name, *rest in table()}
X = jax.random.normal(jax.random.key(1), (B, len(STARTS)))


@functools.cache
def drawing(name):
  """Returns the program (levels, x) -> (samples, the gradient of their sum) of a sampler."""
  sampler, denoiser = SAMPLERS[name]

  def total(x, levels):
    samples = dj.sample(jax.random.key(2), denoiser, sampler, levels, x)
    return jnp.sum(samples), samples

  def draw(levels, x):
    gradient, samples = jax.grad(total, has_aux=True)(x, levels)
    return samples, gradient

  return jax.jit(draw)


def takes_elements(name):
  """Returns whether a sampler takes a level for each element; others say so in one line."""
  try:
    drawing(name).trace(STAGGERED, X)
  except ValueError as error:
    assert 'takes levels' in str(error) and '\n' not in str(error), error
    assert says_one_level(name)
    return False
  assert not says_one_level(name)
  return True


def says_one_level(name):
  """Returns whether a sampler declares it, or draws Brownian paths of examples."""
  make = choices.SAMPLERS.get(name)
  paths = calls.PARAMETERS.get(name, {}).get('brownian', False)
  return paths or (make is not None and declared_by(make).one_level)


@pytest.mark.parametrize('name', [slow(n) if n == 'ancestral, learned' else n for n in SAMPLERS])
def test_each_element_of_samples_follows_its_own_levels(name):
  """Gradients are finite. A second-order program with and without its levels rounds differently."""
  if not takes_elements(name):
    return
  sampler, denoiser = SAMPLERS[name]
  samples, gradient = jax.device_get(drawing(name)(STAGGERED, X))
  assert np.isfinite(samples).all() and np.isfinite(gradient).all()
  draw = jax.jit(lambda levels: dj.sample(jax.random.key(2), denoiser, sampler, levels, X))
  for i in range(len(STARTS)):
    alike = draw(jax.tree.map(lambda a, i=i: a[:, 0, i], STAGGERED))
    assert_allclose(samples[:, i], alike[:, i], rtol=2e-5, atol=2e-5)
  assert_array_equal(samples[:, -2:], X[:, -2:])


@pytest.mark.parametrize('make', (dj.velocity_heun, dj.euler_maruyama, dj.velocity_sde))
def test_slopes_that_are_infinite_at_clean_levels_move_nothing(make):
  schedule = dj.LinearVPSchedule()
  sampler = make(schedule, 'sde') if make is dj.velocity_sde else make(schedule)
  levels = dj.staggered(dj.level_grid(schedule, STEPS), STARTS)
  gradient = jax.grad(lambda x: jnp.sum(dj.sample(jax.random.key(2), denoise, sampler, levels, x)))
  assert np.isfinite(gradient(X)).all()


@pytest.mark.parametrize('make', SCHEMA.tables['sampling.sampler'].values())
def test_samplers_of_states_say_whether_they_take_levels_of_elements(make):
  facts = {'process': PROCESSES['masking'], 'schedule': FLOW}
  sampler = make(**{name: x for name, x in facts.items() if name in parameters(make)})
  of = lambda x, level: dj.posterior_logits(calls.logits_of(x, level), x, facts['process'], level)
  x = jnp.full((B, 2), calls.STATES)
  levels = dj.staggered(dj.level_grid(FLOW, 2), [0, 2])
  draw = lambda: dj.sample(jax.random.key(0), of, sampler, levels, x)
  if declared_by(make).one_level:
    with pytest.raises(ValueError, match='takes levels'):
      jax.eval_shape(draw)
  else:
    assert (np.asarray(jax.jit(draw)()) < calls.STATES).all()


# Each element follows its own levels, above, and so equal levels are one.
@pytest.mark.parametrize('name', [slow(n) if n in SAMPLERS else n for n in GRIDS])
def test_samples_at_equal_levels_of_elements_are_those_of_one(name, monkeypatch):
  """Wrappers, posteriors, and samplers of states."""
  in_one_program = lambda: numbers(lambda batch: jax.jit(lambda b: GRIDS[name](b))(batch), BATCH)
  one = in_one_program() or ()
  assert one

  def by_element(function):
    def moved(*args, **options):
      args = [of_elements_of(x) if isinstance(x, dj.NoiseLevel) else x for x in args]
      return function(*args, **options)

    return moved

  def of_elements_of(levels):
    return jax.tree.map(
      lambda a: jnp.broadcast_to(a[:, None, None], (len(a), 1, elements_of(name))), levels
    )

  for function in ('sample', 'trajectory', 'ddim_invert', 'path_bound'):
    monkeypatch.setattr(dj, function, by_element(getattr(dj, function)))
  each = in_one_program()
  for own, whole in zip(each or (), one, strict=bool(each)):
    assert_allclose(own, whole, rtol=1e-4, atol=1e-5)


# Shapes that may mean two things.


def test_a_grid_of_as_many_elements_as_examples_is_asked_for_its_axes():
  x = jnp.zeros((D, D))
  levels = jax.tree.map(lambda a: jnp.broadcast_to(a[:, None], (len(a), D)), GRID)
  with pytest.raises(ValueError, match=r'write \[N\+1, B, 1\] or \[N\+1, 1, T\]'):
    dj.sample(jax.random.key(0), denoise, dj.ddim(), levels, x)
  dj.sample(jax.random.key(0), denoise, dj.ddim(), levels, jnp.zeros((D, D + 1)))


def test_the_prior_of_elements_has_the_deviation_of_each():
  level = dj.GeometricVESchedule()(jnp.array([[0.2, 0.6, 0.9]]))
  x = dj.prior_sample(jax.random.key(0), (20_000, 3, 3), level)
  deviation = np.sqrt(np.asarray(level.alpha) ** 2 + np.asarray(level.sigma) ** 2)[0]
  assert_allclose(np.std(x, axis=(0, 2)) / deviation, 1.0, atol=0.02)


def test_a_clean_element_has_no_loss():
  t = jnp.array([[0.0, 0.5, 1.0]])
  output = jnp.array([[9.0, 1.0, 2.0]])
  for kind in ('x0', 'eps', 'v', 'flow', 'edm'):
    loss = lambda y, k=kind: dj.denoising_loss(
      k, y, jnp.zeros((1, 3)), jnp.ones((1, 3)), FLOW(t), dj.min_snr_weight()
    )
    slope = jax.grad(lambda y, f=loss: jnp.sum(f(y)))(output)
    assert np.isfinite(loss(output)).all() and np.isfinite(slope).all() and slope[0, 0] == 0.0


@pytest.mark.parametrize(
  'levels, starts',
  [
    (GRID, [0.5]),
    (GRID, [np.nan]),
    (GRID, []),
    (GRID, [[0]]),
    (dj.staggered(GRID, [0, 1]), [0, 1]),
  ],
)
def test_starts_are_whole_numbers_of_elements(levels, starts):
  with pytest.raises(ValueError, match='whole numbers|takes levels'):
    dj.staggered(levels, starts)


def test_a_staggered_grid_has_exact_ends():
  levels, noise = dj.staggered(GRID, [0, 5, -np.inf, np.inf]), GRID.sigma[0]
  assert levels.alpha.shape == (STEPS + 6, 1, 4)
  assert_array_equal(levels.sigma[0, 0], [noise, noise, 0.0, noise])
  assert_array_equal(levels.sigma[-1, 0], [0.0, 0.0, 0.0, noise])
  assert_array_equal(levels.sigma[5:, 0, 1], GRID.sigma)
  assert_array_equal(levels.sigma[: STEPS + 1, 0, 0], GRID.sigma)
