"""Verdicts on samplers of known order and law, and on their faults."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.testing import bench, certify as module
from diffusion_jax.testing.certify import _Law, _law_order, certify
from tests.rows import slow


def levels(problem, num_steps):
  """Returns EDM's grid, which ends in 0 (Karras et al. 2022, Eq. 5)."""
  return np.append(
    np.linspace(problem.sigma_max ** (1 / 7), problem.sigma_min ** (1 / 7), num_steps) ** 7, 0.0
  )


def intervals(problem, num_steps):
  return itertools.pairwise(levels(problem, num_steps))


def euler(problem, x, num_steps, rng, scale=1.0, told=1.0):
  x = scale * x
  for sigma, following in intervals(problem, num_steps):
    x = x + (following - sigma) * (x - problem.denoise(x, told * sigma)) / sigma
  return x


def heun(problem, x, num_steps, rng, shift=0, told=1.0):
  """EDM's Algorithm 1; a shift evaluates at the level of another step."""
  sigmas = levels(problem, num_steps)
  for i in range(num_steps):
    step = sigmas[i + 1] - sigmas[i]
    x0 = problem.denoise(x, told * sigmas[min(i + shift, num_steps - 1)])
    slope = (x - x0) / sigmas[i]
    if sigmas[i + 1] > 0.0:
      slope = 0.5 * (slope + problem.eps(x + step * slope, sigmas[i + 1]))
    x = x + step * slope
  return x


def sde(problem, x, num_steps, rng, factor=2.0, noise=1.0):
  """Euler-Maruyama's dx = 2 eps dsigma + sqrt(-2 sigma dsigma) dw."""
  for sigma, following in intervals(problem, num_steps):
    x = x + factor * (following - sigma) * problem.eps(x, sigma)
    if following > 0.0:
      x = x + noise * np.sqrt(sigma**2 - following**2) * rng.normal(size=x.shape)
  return x


def ancestral(problem, x, num_steps, rng, noise=1.0, shared=False):
  """DDPM's posterior (Ho et al. 2020, Eq. 7), in EDM's convention."""
  for sigma, following in intervals(problem, num_steps):
    share = (following / sigma) ** 2
    x0 = problem.denoise(x, sigma)
    eps = rng.normal(size=x.shape[1:] if shared else x.shape)
    x = share * x + (1.0 - share) * x0 + noise * following * np.sqrt(1.0 - share) * eps
  return x


def dpm_solver_pp(problem, x, num_steps, rng):
  """2M (Lu et al. 2022b, Algorithm 2)."""
  sigmas, last = levels(problem, num_steps), None
  for i in range(num_steps):
    x0 = problem.denoise(x, sigmas[i])
    end = (
      x0
      if last is None or i == num_steps - 1
      else x0
      + (x0 - last) * (0.5 * np.log(sigmas[i] / sigmas[i + 1]) / np.log(sigmas[i - 1] / sigmas[i]))
    )
    share = sigmas[i + 1] / sigmas[i]
    x, last = share * x + (1.0 - share) * end, x0
  return x


def flow(problem, x, num_steps, rng):
  """Euler's method on straight paths."""
  times = np.linspace(problem.sigma_max / (1.0 + problem.sigma_max), 0.0, num_steps + 1)
  x = x / (1.0 + problem.sigma_max)
  for t, following in itertools.pairwise(times):
    x = x + (following - t) * problem.velocity(x, t)
  return x


def exact_draws(problem, x, num_steps, rng):
  return (problem.posterior or problem).draw(rng, len(x))


def exact_paths(problem, x, num_steps, rng):
  return problem.flow_map(x, problem.sigma_max, 0.0)


def without_the_last_step(problem, x, num_steps, rng):
  return heun(dataclasses.replace(problem, sigma_min=0.3), x, num_steps, rng)


def noise_after_the_last_step(problem, x, num_steps, rng):
  return sde(problem, x, num_steps, rng) + 0.2 * rng.normal(size=x.shape)


def of_equal_moments(problem, x, num_steps, rng):
  roots = np.linalg.cholesky(problem.covariance).T
  return problem.mean + rng.normal(size=x.shape) @ roots


def on_rows(problem, x, num_steps, rng, sampler, rows):
  x = x.copy()
  x[rows] = sampler(problem, x[rows], num_steps, rng)
  return x


def scaled(problem, x, num_steps, rng, variance):
  mean = problem.mean.reshape(problem.shape)
  return mean + np.sqrt(variance) * (exact_draws(problem, x, num_steps, rng) - mean)


def with_an_infinity(problem, x, num_steps, rng):
  return np.where(np.arange(len(x))[:, None] == 700, np.inf, x)


def method(function, **faults):
  return lambda *arguments: function(*arguments, **faults)


GAUSSIAN, MIXTURE, IMAGE, INVERSE = (
  bench.gaussian(), bench.mixture(), bench.image(4), bench.inpainting(4)
)  # fmt: skip
WHITE = dataclasses.replace(GAUSSIAN, means=np.zeros((1, 16)), covs=np.eye(16)[None], shape=(16,))


@pytest.fixture(autouse=True, scope='module')
def every_law_is_kept():
  """Keeps the laws of all problems of this file; each takes a second."""
  with pytest.MonkeyPatch.context() as patch:
    for name in ('_start', '_ends'):
      patch.setattr(module, name, functools.cache(getattr(module, name).__wrapped__))
    yield


def judged(sampler, problem, steps=(16, 32, 64), draws=2000, **options):
  """Tests of one problem share its law, which takes longer than most samplers."""
  return certify(sampler, problem, steps=steps, draws=draws, **options)


@pytest.mark.parametrize(
  ('sampler', 'problem', 'order'), [(euler, MIXTURE, 1.0), (heun, MIXTURE, 2.0), (sde, GAUSSIAN, 0)]
)
def test_samplers_converge_with_the_papers_order(sampler, problem, order):
  found = judged(sampler, problem, (8, 16, 32, 64, 128))
  assert found.verdict == 'converges' and found.passed, found
  assert found.calls == tuple(n * 2 - 1 if sampler is heun else n for n in found.steps)
  if order:
    assert found.order == pytest.approx(order, abs=0.1)
    assert found.order_interval and found.order
    assert found.order_interval[0] <= found.order <= found.order_interval[1]


def moved(problem, noise, num_steps, rng):
  """The exact map, moved by a third of the data's standard deviation."""
  return problem.flow_map(noise, problem.sigma_max, 0.0, tolerance=1e-6) + 0.3


@pytest.mark.parametrize(
  ('sampler', 'problem', 'verdict', 'reason'),
  [
    (method(heun, shift=1), MIXTURE, 'lower order', r'order of the path is [01]\..*, not 2'),
    (method(euler, scale=1.1), MIXTURE, 'does not converge', 'the variance is 1.'),
    (moved, GAUSSIAN, 'does not converge', 'functions along lines are 0.07'),
    (without_the_last_step, MIXTURE, 'does not converge', 'the path error stays at 4'),
    (method(sde, factor=1.0), IMAGE, 'biased', r'the variance is \d\d?\.'),
    (with_an_infinity, GAUSSIAN, 'not finite', 'beyond'),
    (lambda problem, x, *_: 1e200 * x, GAUSSIAN, 'not finite', r'beyond 1e\+100'),
  ],
)
def test_faults_are_refused_with_the_reason(sampler, problem, verdict, reason):
  found = judged(sampler, problem, order=2.0)
  assert found.verdict == verdict and not found.passed, found
  assert re.search(reason, found.reason), found


def draws_of(**changes):
  return lambda p, x, n, rng: dataclasses.replace(p, **changes).draw(rng, len(x))


# By problem, since the last four laws are kept.
FAULTS = {
  'equal moments': (of_equal_moments, MIXTURE),
  'mirror': (lambda p, x, n, rng: 2.0 * p.mean - p.draw(rng, len(x)), MIXTURE),
  'weights': (draws_of(weights=np.array([0.3, 0.3, 0.4])), MIXTURE),
  'a mode is missing': (draws_of(weights=np.array([0.0, 0.375, 0.625])), MIXTURE),
  'covariance': (draws_of(covs=1.8 * MIXTURE.covs), MIXTURE),
  'not the last': (method(on_rows, sampler=euler, rows=slice(-5)), MIXTURE),
  'repeated': (lambda p, x, *rest: ancestral(p, x[:1000], *rest)[np.arange(2000) // 2], MIXTURE),
  'told 1.02 sigma, heun': (method(heun, told=1.02), MIXTURE),
  'shared noise': (method(ancestral, shared=True), MIXTURE),
  'noise at the end': (noise_after_the_last_step, MIXTURE, (16, 32, 64, 128)),
  'first rows only': (method(on_rows, sampler=heun, rows=slice(1000)), GAUSSIAN),
  'not the last, with noise': (method(on_rows, sampler=sde, rows=slice(-5)), GAUSSIAN),
  'told 1.02 sigma': (method(euler, told=1.02), GAUSSIAN),
  'more noise': (method(ancestral, noise=1.2), GAUSSIAN),
  'equal moments in 16-D': (of_equal_moments, bench.mixture(16)),
  'signs': (lambda p, x, n, rng: np.sign(rng.normal(size=x.shape)), WHITE),
  'repeated in 1-D': (lambda p, x, n, rng: np.tile(p.draw(rng, 1000), (2, 1)), bench.mixture(1)),
}
RIGHT = euler, heun, sde, ancestral, dpm_solver_pp, flow, exact_draws, exact_paths


@pytest.mark.parametrize('name', FAULTS)
def test_planted_faults_are_refused(name):
  found = judged(*FAULTS[name])
  assert not found.passed, found
  assert re.search(r'; a variance off by less than [\d.]+ % would not be seen$', found.reason)


@pytest.mark.parametrize('seed', [0, *map(slow, (1, 2))])
@pytest.mark.parametrize('sampler', RIGHT)
def test_right_samplers_pass(sampler, seed):
  found = judged(sampler, (GAUSSIAN, MIXTURE, IMAGE)[seed], (1, 8, 32, 128), seed=seed)
  assert found.passed, found
  assert not found.order_interval or found.order_interval[0] >= 0.5


@pytest.mark.parametrize('draws', [2000, slow(20_000)])
@pytest.mark.parametrize('problem', [GAUSSIAN, MIXTURE, slow(IMAGE)])
def test_twice_what_is_unseen_is_seen(problem, draws):
  """The least visible error is known before the run, and falls with more draws and steps."""
  arguments = {'draws': draws, 'steps': (32, 128)}
  right = judged(exact_draws, problem, **arguments)
  assert right.verdict == 'exact law', right
  for factor in (1.0 + 2.0 * right.unseen, 1.0 - 2.0 * right.unseen):
    found = judged(method(scaled, variance=factor), problem, seed=1, **arguments)
    assert not found.passed, found
    assert found.unseen == pytest.approx(right.unseen, rel=0.3)
  for fewer in ({'draws': 100}, {'steps': (16, 32)}):
    assert judged(exact_draws, problem, **arguments | fewer).unseen > 1.5 * right.unseen


def test_the_order_of_a_law_is_that_of_its_error_beyond_exact_draws(monkeypatch):
  """A variance of 1 + 5 / n has order 1, also if few draws hide the last error."""
  law, rng = _Law(GAUSSIAN, 2000, np.random.default_rng(1)), np.random.default_rng(2)
  monkeypatch.setattr(_Law, '_w2', lambda *_: 0.0)  # dear
  for part, steps in ((1, (8, 32)), (3, (8, 64))):
    found = []
    for _ in range(100):
      x = [scaled(GAUSSIAN, np.empty(2000), n, rng, 1.0 + 5.0 / n) for n in steps]
      found.append(_law_order(law, np.stack([law.errors(one) for one in x]), steps, part))
    orders, stated = np.transpose(found)
    assert abs(orders.mean() - 1.0) < 0.05 + 4.5 * orders.std() / 10.0
    assert part == 3 or 0.7 < stated.mean() / orders.std() < 1.4


def test_a_limit_behind_a_small_error_is_seen():
  """At the last step number the fault and the error of the grid cancel."""

  def cancelling(problem, x, n, rng):
    return scaled(problem, x, n, rng, 1.2 - 0.2 * 64 / n)

  found = judged(cancelling, GAUSSIAN, (32, 64), 20_000)
  assert found.verdict == 'biased' and 'with more and more steps' in found.reason, found


@pytest.mark.parametrize('seed', [0, 1, *map(slow, (2, 3, 4, 5))])
def test_exact_draws_raise_no_alarm(seed):
  found = judged(exact_draws, MIXTURE, (8, 16, 32), 1000, seed=seed)
  assert found.verdict == 'exact law', found


def test_draws_of_half_precision_do_not_count_as_repeated():
  half = lambda problem, x, *rest: exact_draws(problem, x, *rest).astype(np.float16)
  found = judged(half, bench.mixture(1))
  assert found.verdict == 'exact law', found


def test_exact_paths_have_the_law_from_a_low_level():
  found = judged(exact_paths, dataclasses.replace(GAUSSIAN, sigma_max=1.0))
  assert found.verdict == 'exact law' and max(found.path_error) < 1e-5, found


def test_inverse_problems_are_judged_by_their_posterior():
  """A sampler with the posterior's denoiser passes, one without y does not."""

  def informed(problem, x, num_steps, rng):
    return heun(problem.posterior, x, num_steps, rng)

  assert judged(informed, INVERSE, (16, 32, 64)).passed
  found = judged(heun, INVERSE, (16, 32, 64))
  assert found.verdict == 'biased' and found.path_error is None, found


def test_a_table_is_printed():
  lines = str(judged(exact_paths, GAUSSIAN, (8, 16))).splitlines()
  assert lines[0].startswith('gaussian, 2000 draws')
  assert lines[2].split()[:2] == ['8', '0'] and len(lines) == 5
  assert lines[-1].startswith('exact law: the paths')


@functools.partial(jax.jit, static_argnums=(0, 1))
def sampled(sampler, problem, key, grid, x):
  """Returns samples; the denoiser is called back."""

  def denoise(x, level):
    call = lambda x, sigma: np.float32(problem.denoise(x, sigma))
    shape = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    return dj.Prediction(jax.pure_callback(call, shape, x, level.sigma))

  return dj.sample(key, denoise, sampler, grid, x)


def of_library(sampler):
  """Returns one of our samplers as a method; clean levels fill its grid to 64 steps."""

  def method(problem, noise, num_steps, rng):
    sigma = np.float32([*levels(problem, num_steps), *[0.0] * (64 - num_steps)])
    grid = dj.NoiseLevel(sigma, np.ones_like(sigma), sigma)
    key = jax.random.key(int(rng.integers(2**31)))
    return np.asarray(sampled(sampler, problem, key, grid, np.float32(noise)))

  return method


@pytest.mark.parametrize(
  ('sampler', 'order', 'draws'),
  [(dj.heun(), 2, 2000), slow(dj.ancestral(), 1, 8000)],
)
def test_samplers_of_the_library_have_their_order(sampler, order, draws):
  found = judged(of_library(sampler), GAUSSIAN, (16, 32, 64), draws, order=order)
  assert found.passed, found
  assert found.order == pytest.approx(order, abs=0.3), found
