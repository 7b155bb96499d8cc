"""Files of examples/papers against closed forms."""

import ast
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

import diffusion_jax as dj
from diffusion_jax.testing import oracles
from diffusion_jax.training import objectives
from diffusion_jax.training.objectives import Context
from examples.papers import (
  closed_target,
  contrastive,
  drifting,
  entropic,
  equilibrium,
  fitting,
  jit,
  memorising,
  mosaic,
  rewards,
  two_levels,
)
from tests.test_readme import ROOT

FLOW = dj.RectifiedFlowSchedule()


def check_zero_mean(x, errors=4.5):
  """Asserts that the mean of draws is 0 within standard errors."""
  x = np.asarray(x, np.float64).ravel()
  assert abs(x.mean()) < errors * x.std() / len(x) ** 0.5
  assert x.std() > 0.0


@pytest.mark.parametrize(
  'path', sorted((ROOT / 'examples/papers').glob('*.py')), ids=lambda p: p.stem
)
def test_a_paper_has_80_lines_of_code(path):
  """Docstrings, comments and empty lines are not counted."""
  text = path.read_text()
  documented = (ast.Module, ast.FunctionDef, ast.ClassDef)
  words = set()
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, documented) and ast.get_docstring(node):
      words.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
  lines = [x for i, x in enumerate(text.splitlines(), 1) if i not in words]
  assert sum(bool(x.partition('#')[0].strip()) for x in lines) <= 80


def test_the_best_denoiser_of_many_dimensions_is_that_of_the_plane(key):
  """A mixture of R^6 with a variance of 1e-7 outside the plane."""
  keys, flat = jax.random.split(key, 3), jit.moons()
  basis = np.asarray(jit.plane(keys[0], 6), np.float64)
  weights, means, covs = oracles.moments(flat)
  wide = basis @ covs @ basis.T + 1e-7 * np.eye(6)[None]
  oracle = oracles.mixture(weights, means @ basis.T, 0.5 * (wide + wide.swapaxes(1, 2)))
  x0 = oracle.sample(keys[1], 50)
  xt = dj.q_sample(x0, jax.random.normal(keys[2], x0.shape), FLOW(0.4))
  exact = jit.embedded(flat, jnp.asarray(basis, jnp.float32))
  assert_allclose(exact(xt, FLOW(0.4)).x0, oracle.denoise(xt, FLOW(0.4)).x0, atol=1e-4)
  assert jit.distance(key, x0, exact, exact) == -np.inf


def test_the_closed_target_is_the_mean_over_the_training_set(key):
  """A mixture of normals of the deviation 1e-3; of one example the target is the noisy one."""
  x = jax.random.normal(key, (5, 3))
  points = oracles.mixture(np.ones(5), x, [1e-6 * np.eye(3)] * 5)
  xt = jax.random.normal(jax.random.fold_in(key, 1), (40, 3))
  for t in (0.3, 0.9):
    found = closed_target.memorised(x)(xt, FLOW(t)).x0
    assert_allclose(found, points.denoise(xt, FLOW(t)).x0, atol=1e-3)
  network = dj.Network(lambda params, x, noise, cond, *, key=None: 0.3 * x, dj.time_input())
  params, batch = {'network': ()}, {'x': jnp.tile(x[:1], (16, 1))}
  noisy, closed = (
    closed_target.objective(network, FLOW, examples=e)(params, Context(), key, batch)[0]
    for e in (None, x[:1])
  )
  assert_allclose(noisy, closed, rtol=1e-4)


def test_a_gap_of_steps_over_n_has_the_slope_1(key):
  """1 - exp(-step / n) passes 0.1 at n log(1 / 0.9)."""
  sizes, times = np.array([16.0, 32.0, 64.0]), np.arange(1.0, 401.0) / 4
  curves = [1.0 - np.exp(-times / n) for n in sizes]
  found = np.array([memorising.first_time(jnp.asarray(c), jnp.asarray(times)) for c in curves])
  assert_allclose(found, sizes * np.log(1.0 / 0.9), rtol=1e-3)
  assert_allclose(memorising.slope(jnp.log(sizes), jnp.log(found)), 1.0, atol=1e-3)
  never = memorising.first_time(jnp.zeros(3), jnp.arange(1.0, 4.0))
  at_once = memorising.first_time(jnp.ones(3), jnp.arange(1.0, 4.0))
  assert (never, at_once) == (3.0, 1.0)
  oracle = closed_target.mixture(key)
  x = oracle.sample(key, 16)
  for denoise, share in ((oracle.denoise, 0.0), (closed_target.memorised(x), 1.0)):
    assert_allclose(memorising.share(denoise, oracle, x, key), share, atol=1e-6)


def test_a_window_of_one_pixel_knows_the_grey_levels(key):
  """All pixels are then draws of one law, the grey levels of the training set."""
  pictures = jax.random.normal(key, (3, 8, 8, 1))
  xt = jax.random.normal(jax.random.fold_in(key, 1), (2, 8, 8, 1))
  found = mosaic.local(pictures, 1)(xt, FLOW(0.5)).x0
  levels = closed_target.memorised(pictures.reshape(-1, 1))
  assert_allclose(found.reshape(-1, 1), levels(xt.reshape(-1, 1), FLOW(0.5)).x0, atol=1e-5)
  shifted = mosaic.local(jnp.roll(pictures, 3, axis=1), 5)(xt, FLOW(0.5)).x0
  assert_allclose(shifted, mosaic.local(pictures, 5)(xt, FLOW(0.5)).x0, atol=1e-5)
  middle = mosaic.windows(pictures, 3)[..., 4]
  assert_allclose(middle, pictures[..., 0])
  assert_allclose(mosaic.explained(pictures, pictures), 1.0)
  assert_allclose(
    mosaic.explained(pictures, pictures.mean(axis=(1, 2, 3), keepdims=True)), 0.0, atol=1e-6
  )


def test_the_field_of_equilibrium_matching_is_the_least_squares(key):
  """f(x_t) is orthogonal to its error at any function of x_t; its descent ends at the mean."""
  n, keys = 100_000, jax.random.split(key, 3)
  x0 = equilibrium.STD * jax.random.normal(keys[0], (n, 4))
  eps = jax.random.normal(keys[1], (n, 4))
  level = FLOW(jax.random.uniform(keys[2], (n,)))
  xt = dj.q_sample(x0, eps, level)
  field = jax.lax.map(lambda x: equilibrium.exact_field(x), xt.reshape(100, -1, 4)).reshape(n, 4)
  error = field - equilibrium.slope(level.expand_to(xt).sigma) * (eps - x0)
  radius = jnp.linalg.norm(xt, axis=1, keepdims=True)
  for weight in (1.0, radius < 0.8, jnp.exp(-radius)):
    check_zero_mean((error * xt * weight).sum(axis=1))
  ends = equilibrium.descend(equilibrium.exact_field, eps[:50], 1000, rate=0.02)
  assert np.linalg.norm(ends, axis=1).max() < 1e-3


def test_drifting_of_two_points(key):
  """n generated at 0, m real ones at b: V = P Q b, the sums of the weights by hand; equal sets."""
  n, m, b = 4, 3, jnp.array([[0.3, -0.4]])
  e = np.exp(-0.5 / 2**0.5 / 0.1)  # exp(-|b| / sqrt(D) / temperature)
  total = m * e + n - 1
  pull, push = m * np.sqrt(e / total / n), (n - 1) * np.sqrt(1.0 / total / (n - 1))
  found = drifting.field(jnp.zeros((n, 2)), jnp.tile(b, (m, 1)))
  assert_allclose(found, np.tile(pull * push * np.asarray(b), (n, 1)), rtol=1e-3)
  assert_allclose(drifting.field(jnp.tile(b, (n, 1)), jnp.tile(b, (m, 1))), 0.0, atol=1e-6)
  found = drifting.energy_distance(jnp.zeros((5, 2)), jnp.tile(b, (7, 1)))
  assert_allclose(found, 2 * 0.5, rtol=1e-4)
  x = jax.random.normal(key, (50, 3))  # of itself: 2 (1 - n / (n - 1)) of the mean distance
  mean = np.linalg.norm(np.asarray(x)[:, None] - np.asarray(x)[None], axis=-1).mean()
  assert_allclose(drifting.energy_distance(x, x), -2.0 * mean / 49, rtol=1e-3)
  assert drifting.digits('test').shape == (360, 64)


def test_the_law_of_contrastive_flow_matching(key, share=0.2, std=0.5):
  """The velocity of the minimum draws std^(1 / (1 - share)), and is where the loss is flat."""

  def velocity(c, x, noise, cond, *, key=None):
    at = FLOW(noise).expand_to(x)
    u = x * (at.sigma - at.alpha * std**2) / (at.alpha**2 * std**2 + at.sigma**2)
    return u / (1.0 - share) + c * x

  network = dj.Network(velocity, dj.time_input(1.0), parametrization='flow')
  x = fitting.draw(network, 0.0, fitting.normal_quantiles(400), 200)
  truth = contrastive.predicted_std(std, share) * stats.norm.ppf((np.arange(400) + 0.5) / 400)
  assert_allclose(x[:, 0], truth, rtol=1e-3)
  objective = contrastive.objective(network, FLOW, share=share)

  def gradient(key):
    batch = {'x': std * jax.random.normal(key, (64, 1))}
    loss = lambda c: objective({'network': c}, Context(), jax.random.fold_in(key, 1), batch)[0]
    return jax.grad(loss)(0.0)

  check_zero_mean(jax.vmap(gradient)(jax.random.split(key, 1000)))


def test_two_levels_of_tokens(key):
  """Times are uniform, two tokens share one in half of the examples; the loss is denoising's."""
  level, _ = two_levels.two_levels(key, (4000, 8), dj.uniform_times, FLOW)
  t = np.asarray(level.t)
  assert {len(np.unique(row)) for row in t} <= {1, 2}
  check_zero_mean(t[:, 0] - 0.5)
  check_zero_mean((t[:, 0] == t[:, 1]) - 0.5)
  one, _ = two_levels.one_level(key, (4, 8), dj.uniform_times, FLOW)
  assert (np.ptp(one.t, axis=1) == 0.0).all()
  zeros = jnp.zeros((1, 8))
  params = two_levels.Layers().init(key, zeros, zeros)['params']
  ours = two_levels.objective(two_levels.two_levels)
  params = {'network': params} | ours.parameters(key)
  batch = {'x': two_levels.law().sample(key, 32)}
  theirs = objectives.denoising(
    two_levels.NETWORK,
    FLOW,
    times=dj.uniform_times,
    weight=dj.flow_weight,
    levels=two_levels.two_levels,
  )
  losses = [o(params, Context(), key, batch)[0] for o in (ours, theirs)]
  assert_allclose(*losses, rtol=1e-4)
  aligned = two_levels.objective(two_levels.two_levels, align=0.5)
  gained = losses[0] - aligned(params, Context(ema_params=params), key, batch)[0]
  assert 0.0 < abs(gained) < 0.5
  x = jnp.array([[3.0, 4.0], [1.0, 0.0]])
  assert_allclose(two_levels.cosine(x, jnp.array([[6.0, 8.0], [0.0, 2.0]])), [1.0, 0.0], atol=1e-6)


def test_diffusion_nft_moves_a_normal_by_its_slope(key, beta=0.5, slope=0.1):
  """r = 1/2 + slope x_0: the velocity of N(2 slope / beta, 1) is where the loss is flat."""
  n, keys = 200_000, jax.random.split(key, 3)
  x0, eps = (jax.random.normal(k, (n, 1)) for k in keys[:2])
  t = jax.random.uniform(keys[2], (n,), minval=0.05, maxval=0.95)
  xt, u, r = dj.q_sample(x0, eps, FLOW(t)), eps - x0, 0.5 + slope * x0
  old = oracles.gaussian([0.0], [[1.0]]).velocity(xt, FLOW(t))
  new = oracles.gaussian([2.0 * slope / beta], [[1.0]]).velocity(xt, FLOW(t))
  gradient = jax.grad(lambda v: rewards.nft_losses(v, old, u, r, beta).sum())(new)
  for weight in (1.0, xt, t[:, None], jnp.cos(xt)):
    check_zero_mean(gradient * weight)


def test_the_policy_is_exact_before_any_reward(key):
  """It maps quantiles to themselves, of N(0, 1)."""
  network, _, init = rewards.policy()
  x = fitting.normal_quantiles(50)
  assert_allclose(fitting.draw(network, init(key), x, 100), x, atol=2e-3)


def test_the_entropy_rate_of_a_normal(key, std=0.7):
  """mmse / sigma^2 = std^2 / (std^2 + sigma^2); a grid of a density exp(-c s) in closed form."""
  sigma = jnp.array([0.1, 0.7, 3.0])
  found = entropic.entropy_rate(key, oracles.gaussian([0.3], [[std**2]]), sigma)
  assert_allclose(found, std**2 / (std**2 + sigma**2), rtol=4.5 * (2 / 8192) ** 0.5)
  at = jnp.linspace(2.0, -1.0, 3001)
  assert_allclose(entropic.grid(jnp.ones(3001), at, 3), [2.0, 1.0, 0.0, -1.0], atol=1e-4)
  middle = -np.log(0.5 * (np.exp(1.0) + np.exp(-2.0)))  # half of the integral of exp(-s)
  assert_allclose(entropic.grid(jnp.exp(-at), at, 2)[1], middle, atol=1e-3)


@pytest.mark.benchmarks
@pytest.mark.parametrize('name', ['contrastive', 'rewards', 'memorising', 'two_levels'])
def test_a_track_has_the_numbers_of_its_claims(name, monkeypatch):
  """Without training; the others run as long, and by the same lines."""
  from benchmarks.claims import PAPERS

  module = importlib.import_module(f'examples.papers.{name}')
  jax.clear_caches()
  if hasattr(module, 'fit'):
    monkeypatch.setattr(module, 'fit', lambda key, objective, params, *rest, **fields: params)
  for field, value in {'CHUNKS': 2, 'ITERATIONS': 1, 'UPDATES': 1}.items():
    if hasattr(module, field):
      monkeypatch.setattr(module, field, value)
  found = module.track(0)
  jax.clear_caches()  # no other test gets what was traced here
  claims = PAPERS[name].claims
  assert {x for c in claims for x in (c.of, c.than, *c.placebo)} <= {*found}
  assert np.isfinite([*found.values()]).all()
