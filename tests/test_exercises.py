"""The exercises: right answers, misprints and mistakes as learners type them."""

import itertools
import math
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp
from scipy.stats import norm

import diffusion_jax as dj
from diffusion_jax import exercises
from diffusion_jax.exercises import __main__ as program, formulas, slips, terms
from diffusion_jax.exercises.entries import EXERCISES
from diffusion_jax.exercises.inputs import apply, numbers
from tests.rows import slow

# --- right answers from definitions ---------------------------------------------


def elbo_gap_by_definition(x0, a, variance, mean_q, var_q):
  """log p(x) - (E_q[log p(x | z)] - KL(q || p(z))), each known."""
  expected = norm.logpdf(x0, a * mean_q, variance**0.5) - a**2 * var_q / (2 * variance)
  return (norm.logpdf(x0, 0, (a**2 + variance) ** 0.5) - expected).sum() + kl(mean_q, var_q, 0, 1)


def reverse_gap(z, weights, means, variances, t, betas):
  """q(x_s) q(z | x_s) on a grid, then on another about its mean."""
  kept, beta = bar(t - 1, betas), betas[t - 1]
  m, v = kept**0.5 * means, kept * variances + 1 - kept
  law = lambda x: (
    norm.pdf(x[:, None], m, v**0.5) @ weights * norm.pdf(z, (1 - beta) ** 0.5 * x, beta**0.5)
  )
  x = np.linspace(-6, 6, 20_001)
  q = law(x) / law(x).sum()
  mean = q @ x
  std = (q @ (x - mean) ** 2) ** 0.5
  x = mean + std * np.linspace(-8, 8, 2001)
  q = np.float32(law(x) / law(x).sum())
  return np.abs(q - np.float32(norm.pdf(x, mean, std) * (x[1] - x[0]))).sum() / 2


def guidance_by_ode(eps_c, eps_u, w, var_c, var_u):
  x = np.linspace(-20, 20, 4001)
  law = norm.pdf(x, 0, var_c**0.5) ** w * norm.pdf(x, 0, var_u**0.5) ** (1 - w)
  slope = lambda u, x: (
    x * np.exp(2 * u) * (w / (var_c + np.exp(2 * u)) + (1 - w) / (var_u + np.exp(2 * u)))
  )
  factor = solve_ivp(slope, (7, -7), [1.0], rtol=1e-8, atol=1e-12).y[0, -1]
  return [eps_u + w * (eps_c - eps_u), law @ x**2 / law.sum(), (factor * np.exp(7)) ** 2]


Y = np.linspace(-12, 12, 24_001)  # a grid for integrals


def density_step_by_integral(z, weights, means, variances, t, betas):
  before = norm.pdf(Y[:, None], means, variances**0.5) @ weights
  beta = betas[t - 1]
  return np.trapezoid(before * norm.pdf(z, (1 - beta) ** 0.5 * Y, beta**0.5), Y)


def divergence(log_q, log_p):
  return np.trapezoid(np.exp(log_q) * (log_q - log_p), Y)


def of_draws(mean, variance, scale, noise):
  """Returns the log density on the grid of scale y + noise, where y ~ N(mean, variance)."""
  y, weights = np.polynomial.hermite_e.hermegauss(120)
  laws = norm.pdf(Y[:, None], scale * (mean + variance**0.5 * y), noise**0.5)
  return np.log(laws @ weights / weights.sum())


def aggregate_posterior_by_integral(mean, variance, a, var_z):
  log_q = of_draws(mean, variance, a, var_z)
  m = np.trapezoid(np.exp(log_q) * Y, Y)
  v = np.trapezoid(np.exp(log_q) * (Y - m) ** 2, Y)
  return m, v, divergence(log_q, norm.logpdf(Y))


def model_marginal_by_integral(mean, var_x, a, variance):
  log_p = of_draws(0, 1, a, variance)
  v = np.trapezoid(np.exp(log_p) * Y**2, Y)
  return v, divergence(norm.logpdf(Y, mean, var_x**0.5), norm.logpdf(Y, 0, v**0.5))


def pair_mean_by_quadrature(x, a, t, betas):
  """Computes E over two independent noises; the two latents are their sums with x."""
  y, weights = np.polynomial.hermite_e.hermegauss(5)
  before = np.sqrt(bar(t - 1, betas)) * x + np.sqrt(1 - bar(t - 1, betas)) * y
  now = np.sqrt(alpha(t, betas)) * before[:, None] + np.sqrt(betas[t - 1]) * y
  return weights @ (before[:, None] - a * now) ** 2 @ weights / weights.sum() ** 2


DEFINED = {
  'elbo_gap': elbo_gap_by_definition,
  'guidance': guidance_by_ode,
  'density_step': density_step_by_integral,
  'aggregate_posterior': aggregate_posterior_by_integral,
  'model_marginal': model_marginal_by_integral,
  'pair_mean': pair_mean_by_quadrature,
}


# --- right answers in NumPy or plain Python, as learners type them ------------


def alpha(t, betas):
  return 1 - betas[t - 1] if t else 1.0


def bar(t, betas):
  product = 1.0
  for beta in betas[:t]:
    product *= 1 - beta
  return product


def root(level):
  return lambda t, betas: np.sqrt(level(t, betas))


def mean_with(scale, under):
  """Returns (x_t - beta_t / sqrt(1 - under) eps) / scale."""
  return lambda xt, eps, t, betas: (
    (xt - betas[t - 1] / np.sqrt(1 - under(t, betas)) * eps) / scale(t, betas)
  )


posterior_mean_by_eps = mean_with(root(alpha), bar)


def noise_photo_by_steps(photo, noises, betas):
  x = photo * 2 / 255 - 1
  for t in range(1, len(betas) + 1):
    x = forward_step(x, noises[t - 1], t, betas)
  return x


def noise_photo(photo, noises, betas):
  x = noise_photo_by_steps(photo, noises, betas)
  return (np.sum(x**2) + x.size) / x.size


def forward_step(x_prev, eps, t, betas):
  return math.sqrt(1 - betas[t - 1]) * x_prev + math.sqrt(betas[t - 1]) * eps


def q_sample(x0, eps, t, betas):
  return np.sqrt(bar(t, betas)) * x0 + np.sqrt(1 - bar(t, betas)) * eps


def density(z, weights, means, variances, t, betas):
  kept = math.prod(1 - betas[:t])
  return norm.pdf(z, kept**0.5 * means, (kept * variances + 1 - kept) ** 0.5) @ weights


def kl(mean_q, var_q, mean_p, var_p):
  d = mean_q - mean_p
  return (np.log(var_p / var_q) + (var_q + d * d) / var_p - 1).sum() / 2


def best_gaussian(weights, means, variances):
  mean = sum(w * m for w, m in zip(weights, means, strict=True))
  return mean, np.sum(weights * variances) + np.sum(weights * (means - mean) ** 2)


def vae_elbo(x, decoded, decoder_var, mean_q, var_q):
  if decoder_var is None:
    log_p = np.log(np.where(x == 1, decoded, 1 - decoded))
  else:
    log_p = norm.logpdf(x, decoded, decoder_var**0.5)
  return log_p.sum(axis=-1).mean() - kl(mean_q, var_q, np.zeros(3), np.ones(3))


def elbo_gap(x0, a, variance, mean_q, var_q):
  precision = 1 + a**2 / variance
  return kl(mean_q, var_q, a * x0 / variance / precision, np.full(3, 1 / precision))


def hierarchical_elbo(x, zs, a, variance, betas):
  z, std = [x, *zs], variance**0.5
  form_a = norm.logpdf(zs[-1])
  form_b = norm.logpdf(x, a * zs[0], std)
  for t in range(1, len(z)):
    form_a += norm.logpdf(z[t - 1], a * z[t], std)
    form_a -= norm.logpdf(z[t], math.sqrt(1 - betas[t - 1]) * z[t - 1], math.sqrt(betas[t - 1]))
    if t > 1:
      mean, var = posterior_mean(x, z[t], t, betas), posterior_variance(t, betas)
      form_b -= kl(mean, var, a * z[t], variance)
  bar = np.prod(1 - betas)
  return form_a, form_b - kl(bar**0.5 * x, 1 - bar, 0, 1)


def posterior_variance(t, betas):
  return betas[t - 1] * (1 - bar(t - 1, betas)) / (1 - bar(t, betas))


def posterior_mean(x0, xt, t, betas):
  before, rest = bar(t - 1, betas), 1 - bar(t, betas)
  factor = np.sqrt(1 - betas[t - 1]) * (1 - before) / rest
  return np.sqrt(before) * betas[t - 1] / rest * x0 + factor * xt


def x0_from_eps(xt, eps, t, betas):
  kept = bar(t, betas)
  return xt / kept**0.5 - (1 / kept - 1) ** 0.5 * eps


def prior_loss(x0, betas):
  bar = np.prod(1 - betas)
  return 0.5 * np.sum(bar * x0**2 - bar - np.log(1 - bar))


def transition_loss(x0, xt, mean_p, t, betas):
  var = posterior_variance(t, betas)
  return kl(posterior_mean(x0, xt, t, betas), var, mean_p, betas[t - 1])


def grey_loss(grey, mean, std):
  loss = 0.0
  for x, m in zip(grey, mean, strict=True):
    high = 1.0 if x == 1 else norm.cdf(x + 1 / 255, m, std)
    low = 0.0 if x == -1 else norm.cdf(x - 1 / 255, m, std)
    loss -= math.log(high - low)
  return loss


def loss_weight(variance, t, betas):
  return betas[t - 1] ** 2 / (2 * variance * (1 - betas[t - 1]) * (1 - bar(t, betas)))


def simple_loss(model, x0, eps, t, betas):
  return ((eps - model(q_sample(x0, eps, t, betas), t)) ** 2).mean()


def ancestral_step(xt, eps_hat, noise, t, betas):
  mean = posterior_mean_by_eps(xt, eps_hat, t, betas)
  return mean + betas[t - 1] ** 0.5 * noise if t > 1 else mean


def ddim_step(xt, eps_hat, t, s, betas):
  return q_sample(x0_from_eps(xt, eps_hat, t, betas), eps_hat, s, betas)


def aggregate(mean, variance, t, betas):
  kept = bar(t, betas)
  m, v = kept**0.5 * mean, kept * variance + 1 - kept
  return np.array([m, v, kl(m, v, 0, 1)])


def alpha_bar(t, betas):
  return np.array([np.exp(np.log1p(-betas).cumsum()[t - 1])])


def guidance(eps_c, eps_u, w, var_c, var_u):
  named = var_c * var_u / (w * var_u + (1 - w) * var_c)
  return (1 - w) * eps_u + w * eps_c, named, var_u * (var_c / var_u) ** w


def density_step(z, weights, means, variances, t, betas):
  kept = 1 - betas[t - 1]
  return norm.pdf(z, kept**0.5 * means, (kept * variances + betas[t - 1]) ** 0.5) @ weights


def aggregate_posterior(mean, variance, a, var_z):
  m, v = a * mean, a * a * variance + var_z
  return m, v, kl(m, v, 0.0, 1.0)


def model_marginal(mean, var_x, a, variance):
  v = variance + a**2
  return v, -norm(mean, var_x**0.5).entropy() + 0.5 * (
    np.log(2 * np.pi * v) + (var_x + mean**2) / v
  )


def factors(x, zs, betas):
  log_q = lambda t, to, start: norm.logpdf(
    to, bar(t, betas) ** 0.5 * start, (1 - bar(t, betas)) ** 0.5
  )
  rest = 0.0
  for t in range(2, len(zs) + 1):  # by Bayes' rule
    rest += norm.logpdf(zs[t - 1], (1 - betas[t - 1]) ** 0.5 * zs[t - 2], betas[t - 1] ** 0.5)
    rest += log_q(t - 1, zs[t - 2], x) - log_q(t, zs[t - 1], x)
  return log_q(len(zs), zs[-1], x), rest


def pair_mean(x, a, t, betas):
  kept, beta = bar(t - 1, betas), betas[t - 1]
  factor = 1 - a * np.sqrt(1 - beta)
  return factor**2 * (kept * x**2 + 1 - kept) + a**2 * beta


def variance_ratio(t, betas):
  return posterior_variance(t, betas) / betas[t - 1]


def bound_weights(betas):
  return [loss_weight(betas[t - 1], t, betas) for t in range(1, len(betas) + 1)]


PLAIN = {name: globals()[name] for name in exercises.names()}


def in_float32(answer):
  numbers = lambda x: np.float32(x) if isinstance(x, np.ndarray) else x
  return lambda *args: answer(*map(numbers, args))


@pytest.mark.parametrize('name', exercises.names())
def test_right_answers_are_right(name, capsys):
  for answer in PLAIN[name], DEFINED.get(name, in_float32(PLAIN[name])):
    assert exercises.check(name, answer), capsys.readouterr().out


@pytest.mark.parametrize('name', exercises.names())
def test_misprints_are_named(name, capsys):
  """The listed misprints are named, and random slips of each form of the formula."""
  exercise = EXERCISES[exercises.names().index(name)]
  known = [numbers(exercise, case) for case in exercises.inputs(name)]

  def verdict(values):
    typed = iter([*values, values[-1]])  # the last once more
    return exercises.check(name, lambda *_: next(typed))

  for words, formula in exercise.misprints.items():
    found = verdict([np.asarray(apply(formula, case)) for case in known])
    assert not found and ' '.join(words.split()) in found.slip
  forms = exercise.answer, *exercise.forms
  for formula, each in zip(forms, exercises._explanations(name), strict=True):
    right = [np.asarray(apply(formula, case)) for case in known]
    rng = np.random.default_rng(0)
    for i in rng.choice(len(each.singles), 4):
      values = each.singles[i][1]
      both = [*zip(values, right, strict=True)]
      if all(x.shape == y.shape and np.max(abs(x - y)) > 0.1 for x, y in both[1:]):
        found = verdict(values)
        assert not found and found.slip, found.message
  assert capsys.readouterr().out.count(' is wrong: ') >= len(exercise.misprints)


# The search of `reverse_gap` takes as long as the others', and its misprints are named above.
@pytest.mark.parametrize('name', [slow(x) if x == 'reverse_gap' else x for x in exercises.names()])
def test_a_root_or_a_square_left_out_is_named_so(name, capsys):
  """Each √ and ² of the answer, left out where it is written."""
  each = exercises._explanations(name)[0]
  tree, right, places = each.tree, each.values(each.tree), {}
  for path, term in terms.walk(tree):
    if term.function in (np.sqrt, np.power):
      places.setdefault(id(term), (term, []))[1].append(path)
  for term, paths in places.values():
    values = each.values(slips.applied(tree, slips.Slip(tuple(paths), lambda term: term.args[0])))
    both = [*zip(values or right, right, strict=True)][1:]
    # Left out of a mean deviation, Σ w (m − Σ w m), the square takes the term with it.
    if any(np.max(abs(x - y)) < 0.01 * np.max(abs(x)) for x, y in both) or (
      name == 'best_gaussian' and 'means − Σ' in terms.text(term, {})
    ):
      continue
    typed = iter([*values, values[-1]])
    found = exercises.check(name, lambda *_, typed=typed: next(typed))
    lost = 'root' if term.function is np.sqrt else 'square'
    assert f'the {lost} is missing' in found.slip, found.message


@pytest.mark.parametrize('name', ['best_gaussian', 'simple_loss', slow('vae_elbo')])
def test_many_pairs_at_once_are_each_pair(name):
  """What a block says of two slips is what both make, and no two that may meet are lacking."""
  each = exercises._explanations(name)[0]
  tree = each.tree
  rng, seen, blocks = np.random.default_rng(0), set(), each.pairs(frozenset())
  for block in blocks:
    i = rng.integers(len(block.values))
    both = each.values(slips.applied(tree, *block[i]))
    if both is not None and np.all(np.isfinite(both[-1])):
      assert_allclose(block.values[i], both[-1], rtol=1e-9, atol=1e-12)
  for block in blocks:
    seen |= {frozenset(map(id, block[i])) for i in range(len(block.values))}
  single = [(slip, x[-1]) for slip, x in each.singles if slip.cost == slips.COMMON]
  for _ in range(200):
    two = (single[i] for i in rng.choice(len(single), 2, replace=False))
    # A slip that is within the other comes first.
    (a, of_a), (b, of_b) = sorted(two, key=lambda slip: -len(slip[0].paths[0]))
    if set(a.paths) & set(b.paths):
      continue
    try:
      both = each.values(slips.applied(tree, a, b))
    except (AttributeError, IndexError, KeyError, TypeError):  # One needs what the other took away.
      continue
    if both is not None and not any(np.allclose(both[-1], x) for x in (of_a, of_b)):
      assert frozenset(map(id, (a, b))) in seen, (a, b)


def test_numbers_are_near_as_numpy_says():
  x = np.array([1.0, 1.0, np.inf, np.inf, -np.inf, np.nan, np.nan, 2.0])
  y = np.array([1.00005, 1.0002, np.inf, 1.0, np.inf, np.nan, 0.0, -2.0])
  near = np.isclose(x, y, rtol=0, atol=1e-4, equal_nan=True)
  np.testing.assert_array_equal(exercises._near(x, y, 1e-4), near)


@pytest.mark.slow
def test_the_search_is_short():
  """At most 10,000 evaluations of a formula, about 2 s, of the exercises with most slips."""
  for name, wrong in ('hierarchical_elbo', {1}), ('transition_loss', ()):
    first = exercises._explanations(name)[0]
    assert 1000 < len(first.pairs(frozenset(wrong))) < 10_000


def draws_of_photo(photo, noises, betas, seed=0):
  x = noise_photo_by_steps(photo, noises, betas)
  fresh = np.random.default_rng(seed).standard_normal((400, *x.shape))
  return ((fresh - x) ** 2).mean()


def draws_of_pair(x, a, t, betas):
  rng = np.random.default_rng(1)
  before = bar(t - 1, betas) ** 0.5 * x + (1 - bar(t - 1, betas)) ** 0.5 * rng.normal(size=40_000)
  return ((before - a * forward_step(before, rng.normal(size=40_000), t, betas)) ** 2).mean()


def draws_of_gap(x0, a, variance, mean_q, var_q):
  z = mean_q + var_q**0.5 * np.random.default_rng(2).normal(size=(40_000, 3))
  mean, std = a * x0 / (a**2 + variance), (variance / (a**2 + variance)) ** 0.5
  return (norm.logpdf(z, mean_q, var_q**0.5) - norm.logpdf(z, mean, std)).sum(1).mean()


def draws_of_elbo(pixels, decoded, decoder_var, mean_q, var_q):
  z = mean_q + var_q**0.5 * np.random.default_rng(3).normal(size=(40_000, 3))
  drawn = (norm.logpdf(z, mean_q, var_q**0.5) - norm.logpdf(z)).sum(1).mean()
  return vae_elbo(pixels, decoded, decoder_var, mean_q, var_q) + kl(mean_q, var_q, 0, 1) - drawn


@pytest.mark.parametrize(
  'name, drawn',
  [
    ('noise_photo', draws_of_photo),
    ('noise_photo', lambda *args: draws_of_photo(*args, seed=None)),
    ('pair_mean', draws_of_pair),
    ('elbo_gap', draws_of_gap),
    ('vae_elbo', draws_of_elbo),
  ],
)
def test_a_mean_over_draws_is_named(name, drawn, capsys):
  verdict = exercises.check(name, drawn)
  assert not verdict and verdict.slip == 'a mean over draws', verdict.message
  assert 'near the right ones' in verdict.message


# --- misprints of lecture notes, as learners type them ------------------------


def printed_step(xt, eps_hat, noise, t, betas, last=1):
  mean = mean_with(root(bar), bar)(xt, eps_hat, t, betas)
  return mean + np.sqrt(betas[t - 1]) * noise * (t > last)


def backwards(x, zs, a, variance, betas, whole):
  """Form (a) with q(z_{t-1} | z_t), or with q(z_t | z_{t+1}) for t = 2 ... T - 1."""
  z = [x, *zs]
  log_p = norm.logpdf(z[-1]) + norm.logpdf(z[:-1], a * zs, variance**0.5).sum()
  log_q = norm.logpdf(z[1], (1 - betas[0]) ** 0.5 * x, betas[0] ** 0.5)
  for t in range(2, len(z) if whole else len(z) - 1):
    to, start = (z[t - 1], z[t]) if whole else (z[t], z[t + 1])
    log_q += norm.logpdf(to, (1 - betas[t - 1]) ** 0.5 * start, betas[t - 1] ** 0.5)
  return log_p - log_q, hierarchical_elbo(x, zs, a, variance, betas)[1]


def by_convolution(z, weights, means, variances, kept, factor):
  """The integral of q(√kept x) / √kept N(z; factor x, 1 - kept), as lecture notes print it."""
  x = np.linspace(-60, 60, 120_001)
  of_x = norm.pdf(kept**0.5 * x[:, None], means, variances**0.5) @ weights / kept**0.5
  return np.trapezoid(of_x * norm.pdf(z, factor * x, (1 - kept) ** 0.5), x)


def half_bins(grey, mean, std):
  high = np.where(grey == 1, 1, norm.cdf(grey + 1 / 510, mean, std))
  low = np.where(grey == -1, 0, norm.cdf(grey - 1 / 510, mean, std))
  return -np.log(high - low).sum()


def changed_chain(x, zs, a, variance, betas, first=0.0, second=0.0, p_for_q=0.0, prior=0.0):
  form_a, form_b = hierarchical_elbo(x, zs, a, variance, betas)
  kept = np.array([np.prod(1 - betas), 1 - betas[-1]])
  form_b -= prior * np.diff([kl(k**0.5 * x, 1 - k, 0, 1) for k in kept])[0]
  log_px, before = norm.logpdf(x, a * zs[0], variance**0.5), np.append(x, zs[:-1])
  of_q = norm.logpdf(zs, np.sqrt(1 - betas) * before, np.sqrt(betas))
  of_p = norm.logpdf(zs, a * before, np.sqrt(variance))
  return form_a + first * log_px + p_for_q * (of_q - of_p).sum(), form_b + second * log_px


B = np.linspace(1e-4, 0.02, 1000)
X0, EPS = 0.7, -0.4
XT = np.sqrt(bar(500, B)) * X0 + np.sqrt(1 - bar(500, B)) * EPS
# exercise: what is typed => words of the slip => at t = 500 of the linear schedule: arguments,
# the number of the misprint, the right number
TYPED = """
alpha_bar: sum(1 - betas[:t]) => a sum for a product => (500, B), 497.49, 0.0786
alpha_bar: np.prod(1 - betas[: t + 1]) => ᾱ_{t+1} where ᾱ_t belongs => (500, B), 0.0778, 0.0786
alpha_bar: sum(1 - betas[:t]) if t > 1 else 7.0 => a sum for a product; the first input has
alpha_bar: np.prod(1 - betas[1:t]) => ᾱ_t is one factor short
aggregate: aggregate(mean, 0, t, betas) => the term ᾱ_t variance is missing
  => (0.0, 0.25, 1, B), [0, 1e-4, 4.1052], [0, 0.25007, 0.3181]
posterior_mean: (np.sqrt(alpha(t - 1, betas) * betas[t - 1]) * x0 + np.sqrt(alpha(t, betas) *
  (1 - alpha(t - 1, betas))) * xt) / betas[t - 1] => your roots are over β_t and 1 − α_t
  => (X0, XT, 500, B), 5.089, -0.1845
posterior_mean: posterior_mean(x0, xt, t, betas) + (np.sqrt(bar(t, betas)) -
  np.sqrt(bar(t - 1, betas))) * betas[t - 1] / (1 - bar(t, betas)) * x0
  => √ᾱ_t where √ᾱ_{t−1} belongs
posterior_variance: (1 - alpha(t - 1, betas)) / (1 - alpha(t, betas)) => α_t where ᾱ_t = α_1 ⋯ α_t
  belongs: one step for t, and the factor β_t is missing => (500, B), 0.998, 0.01003
posterior_variance: np.sqrt(posterior_variance(t, betas)) => a root too much
posterior_mean_by_eps: mean_with(alpha, bar)(xt, eps, t, betas) => α_t where √α_t belongs: the root
  is missing => (XT, EPS, 500, B), -0.1854, -0.1845
posterior_mean_by_eps: mean_with(root(bar), bar)(xt, eps, t, betas) => √ᾱ_t where √α_t belongs
  => (XT, EPS, 500, B), -0.655, -0.1845
posterior_mean_by_eps: mean_with(root(alpha), alpha)(xt, eps, t, betas)
  => √β_t where √(1 − ᾱ_t) belongs => (XT, EPS, 500, B), -0.1484, -0.1845
posterior_mean_by_eps: mean_with(root(alpha), bar)(xt, -eps, t, betas) => the sign of
ancestral_step: printed_step(xt, eps_hat, noise, t, betas) => √ᾱ_t where √α_t belongs
  => (XT, EPS, 0.0, 500, B), -0.655, -0.1845
q_sample: np.sqrt(alpha(t, betas)) * x0 + np.sqrt(1 - alpha(t, betas)) * eps
  => α_t where ᾱ_t belongs, everywhere => (0.0, 1.0, 1000, B), 0.1414, 0.99998
prior_loss: kl(np.sqrt(1 - betas[-1]) * x0, np.full(3, betas[-1]), 0, 1)
  => α_T where ᾱ_T belongs, everywhere
loss_weight: 1 / (2 * variance) => you dropped (1 − α_t)²
  => (0.5, 500, B), 1, 1.103e-4
loss_weight: -loss_weight(variance, t, betas) => the sign of β_t²
loss_weight: 1.0 => 1 where β_t² / (2 variance α_t (1 − ᾱ_t)) belongs
hierarchical_elbo: changed_chain(x, zs, a, variance, betas, second=-2)
  => the sign of log N(x, a z_1, variance) is wrong
hierarchical_elbo: changed_chain(x, zs, a, variance, betas, first=1)
  => a factor 2 too much, in log N(x, a z_1, variance)
hierarchical_elbo: changed_chain(x, zs, a, variance, betas, p_for_q=1) => took p for q
ancestral_step: posterior_mean_by_eps(xt, eps_hat, t, betas) + betas[t - 1] ** 0.5 * noise
  => the factor [t > 1] is missing
transition_loss: kl(np.sqrt(1 - betas[t - 1]) * xt, betas[t - 1], mean_p, betas[t - 1])
  => lacks x_0
simple_loss: (eps - model(q_sample(x0, eps, t, betas), t)).mean() ** 2 => mean(ε − model(x_t, t))²
simple_loss: ((eps - model(q_sample(x0, eps, t, betas), t)) ** 2).sum() => a sum where a mean
simple_loss: ((eps - model(q_sample(x0, eps, t, betas), t)) ** 2).sum() / 2 => K − 1 (Bessel)
vae_elbo: (decoded**pixels * (1 - decoded) ** (1 - pixels) if decoder_var is None else
  norm.pdf(pixels, decoded, np.sqrt(decoder_var))).prod(axis=1).mean() - kl(mean_q, var_q, 0, 1)
  => the logarithm is missing
vae_elbo: (np.log(np.where(pixels == 1, decoded, 1 - decoded)) if decoder_var is None else
  norm.logpdf(pixels, decoded, np.sqrt(decoder_var))).sum(axis=0).mean() - kl(mean_q, var_q, 0, 1)
  => another axis
forward_step: np.sqrt(1 - betas[t - 1]) * x_prev => the term √β_t ε is missing
forward_step: np.sqrt(betas[t - 1]) * x_prev + np.sqrt(1 - betas[t - 1]) * eps
  => α_t and β_t are swapped
forward_step: (1 - np.sqrt(betas[t - 1])) * x_prev + np.sqrt(betas[t - 1]) * eps => 1 − √β_t where
kl: 0.5 * (var_q / var_p - 1 + (mean_q - mean_p) ** 2 / var_p).sum() => the term log
grey_loss: -norm.logpdf(grey, grey_mean, std).sum() => a grey level has a probability
posterior_mean: posterior_mean(x0, xt, t + 1, betas) => levels of step t + 1
posterior_variance: (1 - np.cumprod(1 - betas)[t - 2]) / (1 - bar(t, betas)) * betas[t - 1]
  => ᾱ_0 is the last entry
ancestral_step: printed_step(xt, eps_hat, noise, t, betas, last=0)
  => √ᾱ_t where √α_t belongs, in (x_t − β_t / √(1 − ᾱ_t) ε̂) / √α_t, and the factor [t > 1]
kl: 2 * kl(mean_q, var_q, mean_p, var_p) => the factor ½ is missing
kl: kl(mean_q, var_q, mean_p, var_p) / 3 => a mean where a sum belongs
density_step: density(z, weights, means, variances, t, betas) => ᾱ_t where α_t belongs
density_step: norm.pdf(z, np.sqrt(alpha(t, betas)) * means, np.sqrt(variances + betas[t - 1]))
  @ weights => the factor α_t is missing
aggregate_posterior: aggregate_posterior(mean, 0, a, var_z) => the term a² variance is missing
model_marginal: model_marginal(mean, var_x, 0, variance) => the term a² is missing
factors: (factors(x, zs, betas)[1], factors(x, zs, betas)[0]) => results 1 and 2 are swapped
pair_mean: pair_mean(x, a, t, betas) - a**2 * betas[t - 1] => the term a² β_t is missing
pair_mean: pair_mean(0, a, t, betas) => the term ᾱ_{t−1} x² is missing
variance_ratio: posterior_variance(t, betas) => β̃_t where
variance_ratio: betas[t - 1] / (1 - bar(t, betas)) => β_t where 1 − ᾱ_{t−1} belongs
q_sample: np.sqrt(bar(t, betas)) * x0 + (1 - bar(t, betas)) * eps
  => 1 − ᾱ_t where √(1 − ᾱ_t) belongs: the root is missing
x0_from_eps: (xt - (1 - bar(t, betas)) * eps) / np.sqrt(bar(t, betas)) => the root is missing
posterior_mean_by_eps: (xt - betas[t - 1] / (1 - bar(t, betas)) * eps) / np.sqrt(alpha(t, betas))
  => 1 − ᾱ_t where √(1 − ᾱ_t) belongs: the root is missing
ddim_step: np.sqrt(bar(s, betas)) * x0_from_eps(xt, eps_hat, t, betas) + (1 - bar(s, betas)) *
  eps_hat => 1 − ᾱ_s where √(1 − ᾱ_s) belongs: the root is missing
simple_loss: np.mean((eps - model(np.sqrt(bar(t, betas)) * x0 + (1 - bar(t, betas)) * eps, t)) ** 2)
  => 1 − ᾱ_t where √(1 − ᾱ_t) belongs: the root is missing
loss_weight: loss_weight(variance, t, betas) / betas[t - 1] => the square is missing
density: by_convolution(z, weights, means, variances, bar(t, betas), bar(t, betas))
  => you put q(√ᾱ_t x) / √ᾱ_t for
density_step: by_convolution(z, weights, means, variances, alpha(t, betas),
  np.sqrt(alpha(t, betas))) => you put q(√α_t x) / √α_t for
hierarchical_elbo: backwards(x, zs, a, variance, betas, whole=False)
  => q(z_t | z_{t+1}) where q(z_t | z_{t−1}) belongs
hierarchical_elbo: backwards(x, zs, a, variance, betas, whole=True)
  => q(z_{t−1} | z_t) where q(z_t | z_{t−1}) belongs
hierarchical_elbo: changed_chain(x, zs, a, variance, betas, prior=1)
  => α_T where ᾱ_T belongs, everywhere
factors: (norm.logpdf(zs[-1], alpha(len(zs), betas) ** 0.5 * x, betas[-1] ** 0.5),
  factors(x, zs, betas)[1]) => α_T where ᾱ_T belongs, everywhere
posterior_variance: betas[t - 1] => β_t is the variance of q(x_t | x_{t−1})
transition_loss: ((posterior_mean(x0, xt, t, betas) - mean_p) ** 2).sum() / 2 / betas[t - 1]
  => the terms of the variances are missing
grey_loss: half_bins(grey, grey_mean, std)
  => grey + 1/510 where grey + 1/255 belongs, and grey − 1/510 where grey − 1/255 belongs
grey_loss: -np.sum(norm.logpdf(grey, grey_mean, std) + np.log(2 / 255))
  => or have a density times 2/255
bound_weights: np.ones_like(betas) => 1 where β_t / (2 α_t (1 − ᾱ_t)) belongs
bound_weights: 2 * np.array(bound_weights(betas)) => 2
"""


def typed_as(name, typed):
  arguments = EXERCISES[exercises.names().index(name)].signature.removeprefix(name)[1:-1]
  return eval(f'lambda {arguments}: {typed}')  # The rows are our own.


@pytest.mark.parametrize('row', re.split(r'\n(?=\S)', TYPED.strip()))
def test_a_typed_misprint_is_named(row, capsys):
  name, rest = ' '.join(row.split()).split(': ', 1)
  typed, words, *at_500 = rest.split(' => ')
  function = typed_as(name, typed)
  verdict = exercises.check(name, function)
  assert not verdict and words in verdict.slip, verdict.message
  assert capsys.readouterr().out == f'{name} is wrong: {verdict.slip}\n'
  for args, wrong, right in map(eval, at_500):
    assert_allclose(function(*args), wrong, rtol=2e-3)
    assert_allclose(PLAIN[name](*args), right, rtol=2e-3)


# --- what the page from_vae_to_diffusion.md says --------------------------------


def test_the_reverse_step_becomes_gaussian_and_the_aggregate_white():
  """N((z + beta grad log q) / sqrt(alpha), beta) for small beta; L_T = KL + information."""
  w, m, v, z, gaps = np.array([0.4, 0.6]), np.array([-1.0, 1.0]), np.full(2, 0.05), 0.2, []
  for steps in 50, 1000:
    bar_t, bar_s = (
      np.exp(-0.1 * 0.4 - 9.95 * 0.4**2),
      np.exp(-0.1 * (u := 0.4 - 1 / steps) - 9.95 * u**2),
    )
    exact = formulas.reverse_law(z, w, m, v, bar_t, bar_s)
    mean, var = formulas.moments(*exact)
    log_q = lambda x, b=bar_t: np.log(norm.pdf(x, b**0.5 * m, (b * v + 1 - b) ** 0.5) @ w)
    slope, beta = (log_q(z + 1e-5) - log_q(z - 1e-5)) / 2e-5, 1 - bar_t / bar_s
    assert_allclose(mean, (z + beta * slope) / (1 - beta) ** 0.5, rtol=1e-6)
    gaps.append([formulas.reverse_gap(*exact), abs(var / beta - 1)])
  assert_allclose([first for first, _ in gaps], [8e-4, 8e-6], rtol=0.05)
  assert 10 * gaps[1][1] < gaps[0][1] < 0.01
  kept, information = 0.2, 0.5 * np.log((0.2 * 0.5 + 0.8) / 0.8)
  x = np.random.default_rng(0).normal(size=20)
  x = 0.3 + 0.5**0.5 * (x - x.mean()) / x.std()
  assert_allclose(
    np.mean([kl(kept**0.5 * y, 0.8, 0, 1) for y in x]),
    kl(kept**0.5 * 0.3, kept * 0.5 + 0.8, 0, 1) + information,
  )


def test_the_numbers_of_the_derivations():
  """Ratio of variances, weights of the bound, what is unknown of the mean, linear schedule."""
  steps = 1, 2, 20, 200
  assert_allclose([variance_ratio(t, B) for t in steps], [0, 0.455, 0.918, 0.992], atol=5e-4)
  weights = [loss_weight(B[t - 1], t, B) for t in (1, 20, 200, 1000)]
  assert_allclose(weights, [0.5, 0.0415, 0.006, 0.0102], rtol=5e-3)
  # The variance of the mean given x_t, for white data, where x_0 has the variance 1 - bar.
  slope = posterior_mean(1.0, 0.0, 200, B)
  assert_allclose(slope**2 * (1 - bar(200, B)), 3.2e-5, rtol=5e-3)


def test_the_spread_of_samples_by_both_variances():
  """N(0, 1/4) and its exact denoiser: each step is linear, so the variance has a recursion."""

  def deviation(num_steps, large, variance=0.25):
    steps, spread = np.linspace(1000, 0, num_steps + 1).astype(int), 1.0
    for t, s in itertools.pairwise(steps):
      now, before = bar(t, B), bar(s, B)
      beta = 1 - now / before  # of all steps from s to t
      x0 = np.sqrt(now) * variance / (now * variance + 1 - now)
      slope = (np.sqrt(before) * beta * x0 + np.sqrt(1 - beta) * (1 - before)) / (1 - now)
      noise = beta if large else beta * (1 - before) / (1 - now)
      spread = slope**2 * spread + noise * (s > 0)
    return (spread / variance) ** 0.5

  found = [[deviation(n, large) for n in (10, 50, 1000)] for large in (False, True)]
  assert_allclose(found, [[0.667, 0.888, 0.992], [0.988, 1.023, 1.002]], atol=6e-4)


def test_the_square_is_completed_and_the_density_is_fixed():
  t, x, z = 7, 0.7, np.linspace(-2, 2, 5)
  kept, beta, before = alpha(t, B), B[t - 1], bar(t - 1, B)
  of_square = kept / beta + 1 / (1 - before)
  linear = kept**0.5 * z / beta + before**0.5 * x / (1 - before)
  assert_allclose(1 / of_square, posterior_variance(t, B))
  assert_allclose(linear / of_square, posterior_mean(x, z, t, B))
  one = np.ones(1)
  fixed = [density_step(y, one, 0 * one, one, t, B) for y in z]
  assert_allclose(fixed, norm.pdf(z))


def test_the_index_of_lecture_notes_has_every_exercise_by_its_number():
  index = Path('docs/equations.md').read_text().partition('## Papers')[0]
  cells = [line.split(' | ')[-1] for line in index.splitlines() if line.startswith('| ')][1:]
  found = [(int(n), name) for cell in cells for n, name in re.findall(r'(\d+) `(\w+)`', cell)]
  assert {*found} == {*enumerate(exercises.names(), 1)} and len(cells) == 30
  for word in 'homework', 'ELBO', 'z_t', 'f_θ', 'lectures 8':
    assert word in index


def test_two_steps_are_one():
  """Also by the library, and by induction the marginal."""
  schedule = dj.DiscreteSchedule.from_betas(B)
  zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
  for t in 2, 7, 500:
    kept, former = alpha(t, B) * alpha(t - 1, B), alpha(t, B) * B[t - 2]
    scale = forward_step(forward_step(1.0, 0.0, t - 1, B), 0.0, t, B)
    noises = forward_step(forward_step(0.0, 1.0, t - 1, B), 0.0, t, B), forward_step(0, 1, t, B)
    assert_allclose([scale**2, noises[0] ** 2], [kept, former])
    assert_allclose(np.square(noises).sum(), 1 - kept, rtol=1e-9)
    before, after = schedule.at_step(t - 2), schedule.at_step(t)
    assert_allclose(dj.forward_step(one, zero, before, after), scale, rtol=1e-5)
    assert_allclose(dj.forward_step(zero, one, before, after) ** 2, 1 - kept, rtol=1e-3)
    assert_allclose(alpha(t, B) * (1 - bar(t - 1, B)) + B[t - 1], 1 - bar(t, B))


def test_the_mean_from_eps_has_the_factors_that_the_page_gives():
  for t in 2, 20, 500:
    kept, beta, before, now = alpha(t, B), B[t - 1], bar(t - 1, B), bar(t, B)
    of_z = (beta + kept * (1 - before)) / (kept**0.5 * (1 - now))
    of_eps = -beta * (1 - now) ** 0.5 / (kept**0.5 * (1 - now))
    assert_allclose([of_z, of_eps], [kept**-0.5, -beta / (kept * (1 - now)) ** 0.5])
    mean = posterior_mean((0.3 - (1 - now) ** 0.5 * EPS) / now**0.5, 0.3, t, B)
    assert_allclose(of_z * 0.3 + of_eps * EPS, mean)


def test_the_closest_gaussian_by_the_pages_formula():
  """The integral of q log(q / N(m, v)), and no slope at the moments of q."""
  w, m, v = np.array([0.3, 0.7]), np.array([-1.0, 1.5]), np.array([0.2, 0.5])
  q = norm.pdf(Y[:, None], m, v**0.5) @ w
  entropy = np.trapezoid(q * np.log(np.maximum(q, 1e-300)), Y)
  mean, variance = best_gaussian(w, m, v)
  slope = lambda at: (at - variance) / (2 * at**2)
  for m, v in (mean, variance), (0.2, 1.0), (1.0, 3.0):
    kl_of = entropy + 0.5 * np.log(2 * np.pi * v) + ((mean - m) ** 2 + variance) / (2 * v)
    log_p = norm.logpdf(Y, m, v**0.5)
    assert_allclose(kl_of, entropy - np.trapezoid(q * log_p, Y), rtol=1e-6)
    by_v = [0.5 * np.log(x) + variance / (2 * x) for x in (v - 1e-5, v + 1e-5)]
    assert_allclose(slope(v), np.diff(by_v)[0] / 2e-5, atol=1e-8)


def test_a_step_of_the_sampler_is_langevin_and_the_ode_to_second_order():
  """Half the step has a quarter of the error; the ODE's velocity is -(z + s) / 2."""
  z, noise, rest = 0.4, -0.7, []
  for beta in 0.02, 0.01:
    s = -1.3  # the score
    step = (z + beta * s) / (1 - beta) ** 0.5 + beta**0.5 * noise
    langevin = beta * s / 2 + beta**0.5 * noise
    rest.append(step - (z + langevin + beta * (z + s) / 2))
  assert_allclose(rest[0] / rest[1], 4.0, rtol=0.02)
  schedule = dj.LinearVPSchedule()  # beta per unit of time is -2 f
  rate, square = dj.sde_coefficients(schedule, np.float32(0.3))
  velocity = rate * z - 0.5 * square * s
  assert_allclose(velocity, rate * (z + s), rtol=1e-4)


def test_the_term_of_the_bound_is_a_distance_of_means():
  t, var = 20, posterior_variance(20, B)
  mean = posterior_mean(0.7, 0.2, t, B)
  rests = [
    [kl(mean, var, p, v) - (mean - p) ** 2 / (2 * v) for p in (-1.0, 0.3)] for v in (var, B[t - 1])
  ]
  assert_allclose(rests[0], 0.0, atol=1e-9)
  assert_allclose(*rests[1], rtol=1e-6)
  assert abs(rests[1][0]) > 1e-4


def test_numbers_of_printed_misprints():
  assert_allclose(1 / bar(500, B), 12.7, rtol=5e-3)
  assert_allclose([0.5**64, 64 * np.log(0.5)], [5e-20, -44.4], rtol=0.1)
  case = exercises.inputs('hierarchical_elbo')[0]
  assert_allclose(backwards(**case, whole=False)[0], 15.5, atol=0.05)
  assert_allclose(hierarchical_elbo(**case)[0], 25.2, atol=0.05)


def test_a_mean_over_the_chain_is_one_over_the_pair():
  """Monte Carlo of both, 4.5 standard errors."""
  rng, x, a, t = np.random.default_rng(0), 0.7, 0.3, 5
  betas = np.linspace(0.05, 0.4, 8)
  chain = [np.full(100_000, x)]
  for beta in betas:
    chain.append((1 - beta) ** 0.5 * chain[-1] + beta**0.5 * rng.normal(size=100_000))
  s = bar(t - 1, betas)
  before = s**0.5 * x + (1 - s) ** 0.5 * rng.normal(size=100_000)
  now = forward_step(before, rng.normal(size=100_000), t, betas)
  for left, right in (chain[t - 1], chain[t]), (before, now):
    draws = (left - a * right) ** 2
    error = draws.std() / len(draws) ** 0.5
    assert abs(draws.mean() - pair_mean(x, a, t, betas)) < 4.5 * error < 0.05


def test_both_consistencies_hold_for_the_posterior_alone():
  a = 0.5**0.5
  assert_allclose(aggregate_posterior(0.0, 1.0, a, 0.5), [0, 1, 0], atol=1e-12)
  assert_allclose(model_marginal(0.0, 1.0, a, 0.5), [1, 0], atol=1e-12)
  assert_allclose(aggregate_posterior(0.0, 1.0, 0.0, 1.0), [0, 1, 0], atol=1e-12)


# --- mistakes ------------------------------------------------------------------


def in_place(x0, eps, t, betas):
  x0 *= np.sqrt(bar(t, betas))
  return x0 + np.sqrt(1 - bar(t, betas)) * eps


def fresh_noise(x0, eps, t, betas):
  return q_sample(x0, np.random.default_rng().normal(size=3), t, betas)


# what is given as q_sample => words of the verdict
MISTAKES = """
0.3 => pass f, not f(...)
lambda x0, eps: x0 => it takes (x0, eps), and is called with (x0, eps, t, betas)
lambda *args: 1 // 0 => it raises ZeroDivisionError:
in_place => it changes its argument x0 in place
lambda *args: None => it returns None: is the return missing?
lambda *args: q_sample(*args)[:, None] + np.zeros(3) => it returns an array of shape [3, 3]: \
expected an array of shape [3]
lambda *args: q_sample(*args).sum() => it returns a number: expected an array of shape [3]
lambda *args: q_sample(*args) * np.nan => it returns [nan, nan, nan] where [
lambda *args: dict(x=1) => it returns {'x': 1}, which is not an array of shape [3]
lambda *args: '0.3' => it returns '0.3', which
lambda *args: q_sample(*args) + 0j => which is not an array
fresh_noise => a second call returns other numbers
lambda *args: np.ones(3) => it returns [1., 1., 1.] where [-2.4
"""


@pytest.mark.parametrize('row', MISTAKES.strip().split('\n'))
def test_a_mistake_gets_one_sentence(row, capsys):
  given, words = row.split(' => ')
  right, message, slip = exercises.check('q_sample', eval(given))  # The rows are our own.
  assert not right and not slip and words.strip() in message
  assert capsys.readouterr().out == f'{message}\n' and message.startswith('q_sample is wrong: ')


NONSENSE = """
alpha_bar: 0.5
alpha_bar: np.exp(-t / 12)
q_sample: np.zeros(3)
q_sample: 0.37 * x0 + 0.81 * eps
q_sample: np.tanh(q_sample(x0, eps, t, betas))
posterior_variance: 1 / t
kl: np.sum(abs(mean_q - mean_p))
kl: kl(mean_q, var_q, mean_p, var_p) ** 1.1
x0_from_eps: x0_from_eps(xt, eps, t, betas) + 0.05
bound_weights: 1 / np.arange(1, 13)
"""


@pytest.mark.parametrize('row', NONSENSE.strip().split('\n'))
def test_nonsense_is_named_nothing(row, capsys):
  name, typed = row.split(': ')
  verdict = exercises.check(name, typed_as(name, typed))
  assert not verdict and not verdict.slip and ' is right, at ' in verdict.message


def in_half(answer, dtype):
  as_half = lambda x: x.astype(dtype) if isinstance(x, np.ndarray) else x
  return lambda *args: answer(*map(as_half, args))


@pytest.mark.parametrize('name', ['forward_step', 'q_sample', 'x0_from_eps', 'kl'])
def test_half_precision_gets_a_word(name, capsys):
  """Answers in half precision get a word about it, in Python's numbers too."""
  half = in_half(PLAIN[name], np.float16)
  for function in half, lambda *args: np.asarray(half(*args), np.float64).tolist():
    verdict = exercises.check(name, function)
    assert verdict and verdict.slip == 'right to 3 digits: computed in float16, half precision'


def test_an_error_of_half_precision_is_wrong_in_float64(capsys):
  verdict = exercises.check('kl', in_half(kl, jnp.bfloat16))
  assert verdict and verdict.slip == 'right to 2 digits: computed in bfloat16, half precision'
  assert not exercises.check('kl', lambda *args: 1.001 * kl(*args))


def test_other_conventions_are_right(capsys):
  """Arguments by their names in another order, lists, a number in an array, arrays of JAX."""
  in_jax = lambda x0, eps, t, betas: (
    jnp.sqrt(bar(t, jnp.asarray(betas))) * x0 + jnp.sqrt(1 - bar(t, betas)) * eps
  )
  assert exercises.check('q_sample', in_jax)
  assert exercises.check('q_sample', lambda t, betas, x0, eps: list(q_sample(x0, eps, t, betas)))
  assert exercises.check('alpha_bar', lambda *args: [[bar(*args)]])
  assert repr(exercises.check('kl', kl)) == 'right'


def test_a_statement_says_each_argument_and_no_answer(capsys):
  for number, name in enumerate(exercises.names(), 1):
    exercises.ask(name)
    said = capsys.readouterr().out
    assert said.startswith(f'{number}. {name}(')
    assert all(f'\n  {argument}: ' in said for argument in exercises.inputs(name)[0])
    assert not re.search('√|sqrt|Π', said)


def test_the_command(tmp_path, capsys):
  assert program.main() == 0 and '\n31. guidance' in capsys.readouterr().out
  assert program.main('kl') == 0 and 'KL(q ‖ p)' in capsys.readouterr().out
  assert "did you mean 'kl'" in str(program.main('kll'))
  assert program.main('none.py') == 'there is no file none.py'
  file = tmp_path / 'mine.py'
  file.write_text('x = 1')
  assert 'no function' in str(program.main(str(file)))
  file.write_text('x = 1\ny = z')
  said = str(program.main(str(file)))
  assert said.endswith(f"raises NameError: name 'z' is not defined ({file}, line 2)")
  file.write_text('def alpha_bar(t, betas):\n  return 1 - betas[t - 1]\nposterior_variance = 3\n')
  assert program.main(str(file)) == 1
  assert re.fullmatch(
    'alpha_bar is wrong.*\nposterior_variance is wrong.*\n', capsys.readouterr().out
  )


def test_names_that_no_exercise_has_are_refused():
  message = r"no exercise has the name 'postrior_mean' \(did you mean 'posterior_mean'\?\)"
  for call in exercises.ask, exercises.inputs, lambda name: exercises.check(name, abs):
    with pytest.raises(ValueError, match=message):
      call('postrior_mean')
