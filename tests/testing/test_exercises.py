"""The exercises: right answers, misprints and mistakes as learners type them."""

import itertools
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp
from scipy.stats import norm

from diffusion_jax.testing import exercises
from diffusion_jax.testing.exercises import __main__ as program, formulas
from diffusion_jax.testing.exercises.entries import EXERCISES
from diffusion_jax.testing.exercises.inputs import outcomes

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


DEFINED = {'elbo_gap': elbo_gap_by_definition, 'guidance': guidance_by_ode}


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


def noise_photo(photo, noises, betas):
  x = photo * 2 / 255 - 1
  for t in range(1, len(betas) + 1):
    x = forward_step(x, noises[t - 1], t, betas)
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


PLAIN = {name: globals()[name] for name in exercises.names()}


def in_float32(answer):
  numbers = lambda x: np.float32(x) if isinstance(x, np.ndarray) else x
  return lambda *args: answer(*map(numbers, args))


@pytest.mark.parametrize('name', exercises.names())
def test_right_answers_are_right(name, capsys):
  for answer in PLAIN[name], DEFINED.get(name, in_float32(PLAIN[name])):
    assert exercises.check(name, answer), capsys.readouterr().out


@pytest.mark.parametrize('name', exercises.names())
def test_misprints_differ_and_are_named(name):
  """Also from what is wrong where t = 1 alone, and from the levels of the next step."""
  exercise = EXERCISES[exercises.names().index(name)]
  tables = [outcomes(exercise, case) for case in exercises.inputs(name)]
  values = {text: np.stack([table[text] for table in tables]) for text in tables[0]}
  error = 1e-4 * abs(values['']).max() + exercise.error
  away = lambda a, b: ~(abs(values[a] - values[b]).max() < 5 * error)  # or NaN
  assert all(away(text, '') for text in exercise.misprints)
  assert all(
    away(a, b) for a, b in itertools.combinations(values, 2) if away(a, '') and away(b, '')
  )
  for text in exercise.misprints:
    typed = iter(values[text])
    verdict = exercises.check(name, lambda *_, typed=typed: next(typed))
    assert not verdict and ' '.join(text.split()) in verdict.message


# --- misprints of lecture notes, as learners type them ------------------------


def printed_step(xt, eps_hat, noise, t, betas, last=1):
  mean = mean_with(root(bar), bar)(xt, eps_hat, t, betas)
  return mean + np.sqrt(betas[t - 1]) * noise * (t > last)


def changed_chain(x, zs, a, variance, betas, first=0.0, second=0.0, p_for_q=0.0):
  form_a, form_b = hierarchical_elbo(x, zs, a, variance, betas)
  log_px, before = norm.logpdf(x, a * zs[0], variance**0.5), np.append(x, zs[:-1])
  of_q = norm.logpdf(zs, np.sqrt(1 - betas) * before, np.sqrt(betas))
  of_p = norm.logpdf(zs, a * before, np.sqrt(variance))
  return form_a + first * log_px + p_for_q * (of_q - of_p).sum(), form_b + second * log_px


B = np.linspace(1e-4, 0.02, 1000)
X0, EPS = 0.7, -0.4
XT = np.sqrt(bar(500, B)) * X0 + np.sqrt(1 - bar(500, B)) * EPS
# exercise: what is typed => words of the verdict => at t = 500 of the linear schedule: arguments,
# the number of the misprint, the right number
TYPED = """
alpha_bar: sum(1 - betas[:t]) => is a sum => (500, B), 497.49, 0.0786
alpha_bar: np.prod(1 - betas[: t + 1]) => without an α_0 => (500, B), 0.0778, 0.0786
aggregate: aggregate(mean, 0, t, betas) => add ᾱ_t times the data's
  => (0.0, 0.25, 1, B), [0, 1e-4, 4.1052], [0, 0.25007, 0.3181]
posterior_mean: (np.sqrt(alpha(t - 1, betas) * betas[t - 1]) * x0 + np.sqrt(alpha(t, betas) *
  (1 - alpha(t - 1, betas))) * xt) / betas[t - 1] => roots are over β_t
  => (X0, XT, 500, B), 5.089, -0.1845
posterior_variance: (1 - alpha(t - 1, betas)) / (1 - alpha(t, betas)) => bars are missing
  => (500, B), 0.998, 0.01003
posterior_mean_by_eps: mean_with(alpha, bar)(xt, eps, t, betas) => divide by α_t
  => (XT, EPS, 500, B), -0.1854, -0.1845
posterior_mean_by_eps: mean_with(root(bar), bar)(xt, eps, t, betas) => by √ᾱ_t
  => (XT, EPS, 500, B), -0.655, -0.1845
posterior_mean_by_eps: mean_with(root(alpha), alpha)(xt, eps, t, betas) => α_t where ᾱ_t
  => (XT, EPS, 500, B), -0.1484, -0.1845
ancestral_step: printed_step(xt, eps_hat, noise, t, betas) => by √ᾱ_t
  => (XT, EPS, 0.0, 500, B), -0.655, -0.1845
q_sample: np.sqrt(alpha(t, betas)) * x0 + np.sqrt(1 - alpha(t, betas)) * eps => α_t where ᾱ_t
  => (0.0, 1.0, 1000, B), 0.1414, 0.99998
loss_weight: 1 / (2 * variance) => you dropped (1 − α_t)² => (0.5, 500, B), 1, 1.103e-4
hierarchical_elbo: changed_chain(x, zs, a, variance, betas, second=-2)
  => −ELBO = L_T + Σ L_{t−1} + L_0
hierarchical_elbo: changed_chain(x, zs, a, variance, betas, first=1) => it is t > 1
hierarchical_elbo: changed_chain(x, zs, a, variance, betas, p_for_q=1) => took p for q
ancestral_step: posterior_mean_by_eps(xt, eps_hat, t, betas) + betas[t - 1] ** 0.5 * noise
  => it is t > 1
transition_loss: kl(np.sqrt(1 - betas[t - 1]) * xt, betas[t - 1], mean_p, betas[t - 1])
  => lacks x_0
simple_loss: (eps - model(q_sample(x0, eps, t, betas), t)).mean() ** 2 => outside the mean
vae_elbo: (decoded**pixels * (1 - decoded) ** (1 - pixels) if decoder_var is None else
  norm.pdf(pixels, decoded, np.sqrt(decoder_var))).prod(axis=1).mean() - kl(mean_q, var_q, 0, 1)
  => the logarithm is missing
forward_step: np.sqrt(1 - betas[t - 1]) * x_prev => it is random
kl: 0.5 * (var_q / var_p - 1 + (mean_q - mean_p) ** 2 / var_p).sum() => the logarithm is missing
grey_loss: -norm.logpdf(grey, grey_mean, std).sum() => a grey level has a probability
posterior_mean: posterior_mean(x0, xt, t + 1, betas) => step t + 1
posterior_variance: (1 - np.cumprod(1 - betas)[t - 2]) / (1 - bar(t, betas)) * betas[t - 1]
  => ᾱ_0 is the last entry
ancestral_step: printed_step(xt, eps_hat, noise, t, betas, last=0) => by √ᾱ_t
kl: 2 * kl(mean_q, var_q, mean_p, var_p) => 2 times the right ones
kl: kl(mean_q, var_q, mean_p, var_p) / 3 => 0.3333 times
"""


@pytest.mark.parametrize('row', re.split(r'\n(?=\S)', TYPED.strip()))
def test_a_typed_misprint_is_named(row, capsys):
  name, rest = ' '.join(row.split()).split(': ', 1)
  typed, words, *at_500 = rest.split(' => ')
  arguments = EXERCISES[exercises.names().index(name)].signature.removeprefix(name)[1:-1]
  function = eval(f'lambda {arguments}: {typed}')  # The rows are our own.
  assert not exercises.check(name, function)
  assert words in capsys.readouterr().out
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
    mean = exact['w'] @ exact['m']
    var = exact['w'] @ (exact['v'] + (exact['m'] - mean) ** 2)
    log_q = lambda x, b=bar_t: np.log(norm.pdf(x, b**0.5 * m, (b * v + 1 - b) ** 0.5) @ w)
    slope, beta = (log_q(z + 1e-5) - log_q(z - 1e-5)) / 2e-5, 1 - bar_t / bar_s
    assert_allclose(mean, (z + beta * slope) / (1 - beta) ** 0.5, rtol=1e-6)
    gaps.append([formulas.reverse_gap(**exact), abs(var / beta - 1)])
  assert_allclose([first for first, _ in gaps], [8e-4, 8e-6], rtol=0.05)
  assert 10 * gaps[1][1] < gaps[0][1] < 0.01
  kept, information = 0.2, 0.5 * np.log((0.2 * 0.5 + 0.8) / 0.8)
  x = np.random.default_rng(0).normal(size=20)
  x = 0.3 + 0.5**0.5 * (x - x.mean()) / x.std()
  assert_allclose(
    np.mean([kl(kept**0.5 * y, 0.8, 0, 1) for y in x]),
    kl(kept**0.5 * 0.3, kept * 0.5 + 0.8, 0, 1) + information,
  )


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
  right, message = exercises.check('q_sample', eval(given))  # The rows are our own.
  assert not right and words.strip() in message
  assert capsys.readouterr().out == f'{message}\n' and message.startswith('q_sample is wrong: ')


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
  assert program.main() == 0 and '\n24. guidance' in capsys.readouterr().out
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
