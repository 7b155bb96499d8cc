"""Samplers of discrete states against the exact distributions of samples."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.discrete import oracles as discrete_oracles
from diffusion_jax.discrete.equations import NEVER
from tests.jitted import level_at
from tests.rows import slow
from tests.states import LINEAR, NUM_STEPS, PROCESSES, TABLE, matrices_of, prior_of
from tests.transcribed import transcribes

N = 5000
MASKING = PROCESSES['masking']
exact = TABLE.denoiser(MASKING)


def shares_of(x):
  """Returns the fraction of each value in samples [N, 3], [3, 3, 3]."""
  shares = np.zeros((3, 3, 3))
  np.add.at(shares, tuple(np.asarray(x).T), 1 / len(x))
  return shares


prior = jax.jit(dj.prior_sample_states, static_argnums=1)


@functools.cache
def draw(make, name):
  """Returns (keys, levels, x) -> samples."""
  process = PROCESSES[name]
  denoise, sampler = TABLE.denoiser(process), make(process)
  return jax.jit(lambda keys, levels, x: dj.sample(keys, denoise, sampler, levels, x))


def drawn(make, times, name='masking', x=None):
  """Returns the shares of N samples; each depends on its own key only."""
  levels, keys = level_at(LINEAR, np.float32(times)), jax.random.split(jax.random.key(0), N)
  if x is None:
    x = prior(jax.random.key(1), (N, 3), PROCESSES[name])
  found = draw(make, name)(keys, levels, x)
  assert_array_equal(draw(make, name)(keys[::-1], levels, x[::-1])[::-1], found)
  return shares_of(found)


def check_law(shares, expected):
  error = np.sqrt(expected * (1 - expected) / N)
  # A rare value is drawn once or not at all.
  assert (np.abs(shares - expected) < 4.5 * error + 5 / N).all()
  assert_allclose(expected.sum(), 1.0, rtol=1e-6)


def test_noise_that_is_not_always_masked_is_drawn(key):
  """The masked state alone needs no draw; keys that do not fit are refused all the same."""
  half = dj.ReplacementProcess(jnp.array([0.5, 0.0, 0.5]), 2)
  x = np.asarray(dj.prior_sample_states(key, (2000, 1), half))
  assert {*x.flat} == {0, 2} and abs(np.mean(x == 2) - 0.5) < 4.5 * 0.5 / 2000**0.5
  masked = dj.masking_process(2)
  keys = jax.random.split(key, 3)
  assert_array_equal(dj.prior_sample_states(keys, (3, 4), masked), np.full((3, 4), 2))
  with pytest.raises(ValueError, match='keys'):
    dj.prior_sample_states(keys, (2, 4), masked)


# tests/papers has a step of 'uniform'.
@pytest.mark.parametrize('name', [slow('uniform'), 'masking', 'gaussian'])
def test_ancestral_samples_have_the_law_of_the_oracle(name):
  shares = drawn(dj.ancestral_states, np.linspace(1.0, 0.0, NUM_STEPS + 1), name)
  expected = discrete_oracles.ancestral_law(TABLE, matrices_of(name), prior_of(name))
  check_law(shares, expected)
  # Six steps lose some of the correlation.
  assert np.abs(expected - TABLE.probs).max() > 0.01


@jax.jit
def first_hits(keys, known, mask):
  """Returns x at t = 1, 2/3, 1/3 and 0 on another schedule, [4, N, 3]."""
  levels = dj.CosineMasking()(jnp.linspace(1.0, 0.0, 4))
  known = jnp.broadcast_to(known, (N, 3))
  hitting = dj.first_hitting(MASKING, LINEAR)
  sampler = dj.keep_known(hitting, known, mask[None])
  x = jnp.full((N, 3), 3)
  return dj.trajectory(keys, exact, sampler, levels, x)


@transcribes('Zheng et al. 2024', 'first-hitting sampler', '`first_hitting`')
def test_first_hitting_is_exact_on_any_grid():
  """Each element is masked at level s with the probability sigma_s."""
  keys = jax.random.split(jax.random.key(0), N)
  x0, known = np.zeros(3, int), np.zeros(3, bool)  # nothing is known
  x = np.asarray(first_hits(keys, x0, known))
  again = first_hits(keys[::-1], x0, known)
  assert_array_equal(again[:, ::-1], x)  # A key per example.
  check_law(shares_of(x[-1]), TABLE.probs)
  for i in (1, 2):
    p = np.cos(np.pi / 6 * i)
    shares = np.bincount((x[i] == 3).sum(axis=1), minlength=4) / N
    expected = [(1 - p) ** 3, 3 * p * (1 - p) ** 2, 3 * p**2 * (1 - p), p**3]
    assert_allclose(shares, expected, atol=4.5 * 0.007)


def most_confident_law(x, p=1.0):
  """Yields all (x, probability) of MaskGIT with one element per step."""
  hidden = [i for i in range(3) if x[i] == 3]
  if not hidden:
    yield tuple(x), p
    return
  known = np.array(x) < 3
  given = TABLE.conditional(np.array(x), known).probs
  marginals = [given.sum(axis=tuple(j for j in range(3) if j != i)) for i in range(3)]
  for values in itertools.product(range(3), repeat=len(hidden)):
    each = [marginals[i][v] for i, v in zip(hidden, values, strict=True)]
    best = int(np.argmax(each))
    after = list(x)
    after[hidden[best]] = values[best]
    if np.prod(each) > 0:
      yield from most_confident_law(after, p * np.prod(each))


@transcribes(
  'MaskGIT (Chang et al. 2022)',
  'section 3.2: decoding in the order of confidence',
  '`confidence_ordered`',
)
def test_confidence_ordered_samples_have_the_law_of_all_draws():
  expected = np.zeros((3, 3, 3))
  for value, p in most_confident_law([3, 3, 3]):
    expected[value] += p
  check_law(drawn(dj.confidence_ordered, np.linspace(1.0, 0.0, 4)), expected)
  assert np.abs(expected - TABLE.probs).max() > 0.01  # It is biased.


def test_confidence_ordered_counts():
  """ceil(sigma_s N) of the N elements that are not known stay masked."""
  logits = np.log(np.float32([0.9, 0.1, 1e-20, 1e-20]))

  def denoise(xt, level):
    peaked = (jnp.arange(15) == 7)[None, :, None]
    logits_of = jnp.where(peaked, jnp.array([0.0, NEVER, NEVER, NEVER]), logits)
    out = jnp.broadcast_to(logits_of, (*xt.shape, 4))
    return dj.posterior_logits(out, xt, MASKING, level)

  levels = level_at(LINEAR, np.float32([1.0, 7 / 13, 0.3]))
  # in float32
  assert np.float32(13) * np.asarray(levels.sigma)[1] > 7
  known = np.zeros((100, 15), int)
  sampler = dj.keep_known(dj.confidence_ordered(MASKING), known, (np.arange(15) < 2)[None])
  run = jax.jit(lambda key, x: dj.trajectory(key, denoise, sampler, levels, x))
  masked = np.asarray(run(jax.random.key(0), known + 3)) == 3
  counts = np.broadcast_to([[15], [7], [4]], (3, 100))
  assert_array_equal(masked.sum(axis=2), counts)
  assert not masked[1, :, 7].any()  # The surest element comes first.


def test_the_noise_of_confidences():
  """The difference of two Gumbel variables has the logistic distribution."""
  logits = np.float32([[0.0, 0.0, NEVER, NEVER], [0.0, NEVER, NEVER, NEVER]])
  denoise = lambda xt, level: jnp.broadcast_to(logits, (*xt.shape, 4))
  temperature = np.log(2) / 4 / 0.5  # The larger confidence is 4 units larger.
  sampler = dj.confidence_ordered(MASKING, temperature)
  levels, n = level_at(LINEAR, np.float32([1.0, 0.5])), 20_000
  run = jax.jit(lambda key, x: dj.sample(key, denoise, sampler, levels, x))
  x = run(jax.random.key(0), np.full((n, 2), 3))
  x = np.asarray(x)
  assert ((x == 3).sum(axis=1) == 1).all()
  expected = 1 / (1 + np.exp(4))
  error = (expected / n) ** 0.5
  assert abs(np.mean(x[:, 1] == 3) - expected) < 4.5 * error


def test_elements_are_masked_again_with_the_probability_of_eta_and_the_level(key):
  """ReMDM: eta sigma_s of all, after a step that leaves none masked."""
  clean = dj.Sampler(lambda x: (), lambda key, x, state, denoise, **ends: (jnp.zeros_like(x), ()))
  level_t, level_s = (level_at(LINEAR, np.float32(t)) for t in (0.9, 0.3))
  x = np.full((100, 400), 3)
  for eta in (0.5, 1.0):
    sampler = dj.remasked(clean, MASKING, eta)
    found = jax.jit(
      lambda x, step=sampler.step: step(key, x, (), None, level_s=level_s, level_t=level_t)[0]
    )(x)
    share, expected = np.mean(np.asarray(found) == 3), eta * 0.3
    assert abs(share - expected) < 4.5 * np.sqrt(expected * (1.0 - expected) / x.size)


def test_known_elements_are_kept_exactly():
  """x_0 and x_2 given x_1 = 2 have their conditional distribution."""
  known, mask = np.array([0, 2, 0]), np.array([False, True, False])
  keys = jax.random.split(jax.random.key(0), N)
  x = first_hits(keys, known, mask)[-1]
  check_law(shares_of(x), TABLE.conditional(known, mask).probs)


def test_guidance_and_top_p():
  shares = np.float32([[[[0.5, 0.3, 0.2, 0.0]]], [[[0.1, 0.6, 0.3, 0.0]]]])
  with np.errstate(divide='ignore'):
    cond, uncond = np.maximum(np.log(shares), np.float32(NEVER))

  conditional, unconditional = (lambda xt, level: cond), (lambda xt, level: uncond)
  kept = {0.49: 1, 0.51: 2, 0.79: 2, 0.81: 3, 1.0: 3}

  @jax.jit
  def run(x):
    scales = 3.0, jnp.ones(1), 0.0
    guided = [dj.guided_states(conditional, unconditional, scale) for scale in scales]
    top = [dj.top_p(conditional, p) for p in kept]
    return jnp.stack([f(x, None) for f in [*guided, *top]])

  logits = np.asarray(run(np.zeros((1, 1), int)))
  assert np.isfinite(logits[:3]).all()
  found = scipy.special.softmax(logits[:, 0, 0], axis=-1)
  weights = np.array([0.5, 0.3, 0.2]) ** 3 / np.array([0.1, 0.6, 0.3]) ** 2
  expected = np.array(
    [
      [*(weights / weights.sum()), 0.0],
      [0.5, 0.3, 0.2, 0],
      [0.1, 0.6, 0.3, 0],
      *(np.where(np.arange(4) < n, [0.5, 0.3, 0.2, 0], 0) for n in kept.values()),
    ]
  )
  expected /= expected.sum(axis=1, keepdims=True)
  assert_allclose(found, expected, rtol=1e-5)


def test_top_p_keeps_what_rounding_would_lose():
  """Sums of 1 / i^3 reach 1 early, and 1 - 1e-6 too late or too soon."""
  probs = np.arange(1.0, 5001.0) ** -3.0
  probs /= probs.sum()
  logits = np.log(np.append(probs, 1e-60)).astype(np.float32)[None, None]
  # logits are an argument, since XLA would sort a constant as it compiles.
  top = jax.jit(lambda a: [dj.top_p(lambda *_: a, p)(None, None) for p in (1.0, 1.0 - 1e-6)])
  kept = [np.sum(np.asarray(found) > NEVER) for found in top(logits)]
  before = np.append(0.0, np.cumsum(probs))
  assert kept[0] == logits.size
  assert_allclose(kept[1], np.sum(before < 1.0 - 1e-6), rtol=0.05)


@pytest.mark.parametrize(
  'make, steps', [(dj.ancestral_states, NUM_STEPS), (dj.confidence_ordered, 3)]
)
def test_unmasked_elements_are_given_at_alpha_0(make, steps):
  """x_1 given x_0 = 1 and x_2 = 2 has its conditional distribution; one step changes x."""
  shares = drawn(make, [*[1.0] * steps, 0.0], x=np.tile([1, 3, 2], (N, 1)))
  check_law(shares, TABLE.conditional(np.array([1, 0, 2]), np.array([True, False, True])).probs)


def test_nan_logits_stay_visible():
  """Elements whose logits are NaN once are -1 in the end."""
  levels = level_at(LINEAR, np.linspace(1.0, 0.0, 4))

  def diverged(xt, level):
    bad = (jnp.arange(3) == 1)[None, :, None] & (level.sigma > 0.5)
    return jnp.where(bad, jnp.nan, exact(xt, level))

  ancestral = dj.ancestral_states(MASKING)
  samplers = (dj.remasked(ancestral, MASKING, 0.5), dj.confidence_ordered(MASKING, 1.0))

  @jax.jit
  def run(x):
    denoise = dj.top_p(diverged, 0.9)
    key = jax.random.key(0)
    return [dj.sample(key, denoise, sampler, levels, x) for sampler in samplers]

  with jax.debug_nans(False):
    found = run(np.full((50, 3), 3))
  for x in map(np.asarray, found):
    assert_array_equal(x[:, 1], -1)
    assert (x[:, ::2] >= 0).all() and (x < 3).all()
