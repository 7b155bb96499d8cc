"""Errors of posterior samplers, against the exact posterior.

  python -m benchmarks.posterior                   # A to D, about an hour
  python -m benchmarks.posterior --problems=A,C --methods=exact,steered
  python -m benchmarks.posterior --seeds=1 --samples=500 --coverage=0
  python -m benchmarks.posterior --problems=E,E_trained --coverage=0

The problems are in `benchmarks/problems.py`. Every method gets E[x_0 | x_t],
for E_trained the trained one, and nothing else of the prior. The schedule is
DDPM's. A cell of a mixture has the means over the seeds of mean, cov, modes,
sliced W2 and residual (`metrics/posterior.py`). A cell of a Gaussian (E) has
mean, the variance over the true one, cov, and the draws beyond 8 posterior
standard deviations or not finite, which these figures leave out. Then follows
the fraction of truths in the 90 % region for other draws of (x_0, y).
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

import diffusion_jax as dj
from benchmarks.problems import PROBLEMS, SCHEDULE, Problem
from diffusion_jax.metrics import calibration, posterior
from diffusion_jax.testing import oracles

Array = jax.Array

NUM_RANKED = 99  # samples for each truth
PARTICLES = 16


class Method(NamedTuple):
  """A method: draw(key, problem, y [B, M]) -> x [B, D], under `jit`.

  calls, gradients: through the network, for one sample of y with M numbers.
  """

  draw: Callable[[Array, Problem, Array], Array]
  calls: int
  gradients: str = '0'


def run(
  guide: Callable[[Problem, dj.Measurement], dj.Denoiser],
  sampler: Callable[[dj.Measurement], dj.Sampler],
  num_steps: int,
) -> Callable[[Array, Problem, Array], Array]:
  """Returns the draw of a guided denoiser by a sampler."""

  def draw(key, problem, y):
    prior_key, key = jax.random.split(key)
    levels = dj.level_grid(SCHEDULE, num_steps)
    dim = problem.matrix.shape[1]
    x = dj.prior_sample(prior_key, (len(y), dim), levels.take(0))
    m = problem.measurement(y)
    return dj.sample(key, guide(problem, m), sampler(m), levels, x)

  return draw


def plain(problem: Problem, measurement: dj.Measurement) -> dj.Denoiser:
  """Returns the denoiser of the prior."""
  return problem.denoise


def wrapped(wrap: Callable, num_steps: int = 100, sampler: dj.Sampler | None = None) -> Callable:
  """Returns the draw of a function denoiser -> denoiser."""
  steps = dj.ddim(1.0) if sampler is None else sampler
  return run(lambda problem, m: wrap(problem.denoise, m), lambda m: steps, num_steps)


def exact_denoiser(num_steps: int) -> Callable:
  """Returns the draw of the posterior's own denoiser on the same grid.

  It is for the problem's y only.
  """

  def guide(problem, m):
    return problem.exact.denoise

  return run(guide, lambda m: dj.ddim(1.0), num_steps)


def moments(
  denoise: dj.Denoiser, m: dj.Measurement, num_iterations: int | None = None
) -> dj.Denoiser:
  """Guides by moment matching; None: an iteration for each number of y."""
  count = num_iterations or m.y.shape[-1]
  return dj.observation_guided(denoise, m.forward, m.y, num_iterations=count, std=m.std)


def pseudoinverse(denoise: dj.Denoiser, m: dj.Measurement) -> dj.Denoiser:
  """Guides by PiGDM, with an iteration for each number of y."""
  return dj.pseudoinverse_guided(denoise, m, num_iterations=m.y.shape[-1])


def likelihood(denoise: dj.Denoiser, m: dj.Measurement) -> dj.Denoiser:
  """Guides by grad log p(y | x_0_hat), as if x_0_hat were x_0."""
  return dj.twist_guided(denoise, lambda x0, level: m.log_prob(x0))


def particles(twisted: bool = True, use_gradient: bool = True, count: int = PARTICLES) -> Callable:
  """Returns the draw of one particle of each population."""

  def draw(key, problem, y):
    return populations(key, problem, y, twisted, use_gradient, count)[0]

  return draw


def populations(
  key: Array,
  problem: Problem,
  y: Array,
  twisted: bool = True,
  use_gradient: bool = True,
  count: int = PARTICLES,
) -> tuple[Array, dj.Particles]:
  """Draws populations, and one particle of each, [B, D]."""
  prior_key, key, pick_key = jax.random.split(key, 3)
  m = problem.measurement(y)
  levels = dj.level_grid(SCHEDULE, 100)

  def raw(x0, level):
    return m.log_prob(x0)

  smooth = dj.pseudoinverse_twist(m, num_iterations=y.shape[-1])
  twist = smooth if twisted else raw
  sampler = dj.steered(m.log_prob, twist, use_gradient=use_gradient)
  shape = len(y), count, problem.matrix.shape[1]
  x = dj.prior_sample(prior_key, shape, levels.take(0))
  x, state = dj.sample_with_state(key, problem.denoise, sampler, levels, x)
  return dj.pick(pick_key, x, state.log_weights), state


def dps(step_size: float, num_steps: int) -> Callable:
  """Returns the draw of DPS."""

  def sampler(m):
    return dj.likelihood_guided(dj.ancestral(), m.distance, step_size)

  return run(plain, sampler, num_steps)


def daps(papers: bool, langevin: bool = False) -> Callable:
  """Returns the draw of DAPS, sigma / alpha from 20 to 0.05 in 100 levels."""
  ratios = jnp.linspace(20.0 ** (1 / 7), 0.05 ** (1 / 7), 100) ** 7
  levels = SCHEDULE.from_logsnr(-2.0 * jnp.log(ratios))
  levels = jax.tree.map(jnp.append, levels, dj.clean_level())

  def draw(key, problem, y):
    prior_key, key = jax.random.split(key)
    m = problem.measurement(y)
    inner = dj.gaussian_draw(m, num_iterations=y.shape[-1])
    if langevin:
      inner = dj.langevin_draw(m.log_prob, 0.5 * problem.std**2)
    sampler = dj.decoupled(inner)
    if papers:
      estimate = dj.ode_estimate(SCHEDULE, 5)
      sampler = dj.decoupled(inner, lambda level: 1.0 / level.snr, estimate)
    shape = len(y), problem.matrix.shape[1]
    x = dj.prior_sample(prior_key, shape, levels.take(0))
    return dj.sample(key, problem.denoise, sampler, levels, x)

  return draw


def gibbs(lowest: float) -> Callable:
  """Returns the draw of split Gibbs, 40 rounds of 20 steps."""
  widths = jnp.concatenate([jnp.geomspace(3.0, lowest, 20), jnp.full(20, lowest)])

  def draw(key, problem, y):
    prior_key, key = jax.random.split(key)
    m = problem.measurement(y)
    inner = dj.gaussian_draw(m, num_iterations=y.shape[-1])
    x = jax.random.normal(prior_key, (len(y), problem.matrix.shape[1]))
    return dj.split_gibbs(key, problem.denoise, SCHEDULE, inner, widths, x)

  return draw


def red_diff(key: Array, problem: Problem, y: Array) -> Array:
  """Returns the estimates of RED-diff, from the pseudoinverse."""
  m = problem.measurement(y)
  x = y @ jnp.asarray(np.linalg.pinv(problem.matrix).T, jnp.float32)
  return dj.red_diff(
    key,
    problem.denoise,
    dj.level_grid(SCHEDULE, 1000),
    lambda x: 0.5 * m.distance(x) ** 2,
    x,
    optax.adam(0.1, b1=0.9, b2=0.99),
  )


EXACT = 'exact'
METHODS = {
  'exact denoiser, 100 steps': Method(exact_denoiser(100), 100),
  'exact denoiser, 1000 steps': Method(exact_denoiser(1000), 1000),
  'DPS, step size 0.3, 1000 steps': Method(dps(0.3, 1000), 1000, '1000'),
  'DPS, step size 1, 1000 steps': Method(dps(1.0, 1000), 1000, '1000'),
  'DPS, step size 1, 100 steps': Method(dps(1.0, 100), 100, '100'),
  'likelihood of x_0_hat, 1000 steps': Method(wrapped(likelihood, 1000), 1000, '1000'),
  'pseudoinverse_guided': Method(wrapped(pseudoinverse), 100, '100'),
  'pseudoinverse_guided, 1000 steps': Method(wrapped(pseudoinverse, 1000), 1000, '1000'),
  'observation_guided': Method(wrapped(moments), 100, '100 (M + 1)'),
  'observation_guided, 1 iteration': Method(
    wrapped(functools.partial(moments, num_iterations=1)), 100, '200'
  ),
  'proximal, renoised(0.3)': Method(wrapped(dj.proximal, 100, dj.renoised(0.3)), 100),
  'proximal, renoised(1)': Method(wrapped(dj.proximal, 100, dj.renoised(1.0)), 100),
  'decoupled': Method(daps(papers=False), 100),
  "decoupled, the paper's": Method(daps(papers=True), 500),
  'decoupled, langevin_draw': Method(daps(papers=False, langevin=True), 100),
  'split_gibbs, widths 3 to 0.1': Method(gibbs(0.1), 800),
  'split_gibbs, widths 3 to 0.03': Method(gibbs(0.03), 800),
  'red_diff (an estimate)': Method(red_diff, 1000),
  'steered, 16 particles': Method(particles(), 1600, '1600'),
  'steered, no gradient': Method(particles(use_gradient=False), 1600),
  'steered, likelihood of x_0_hat': Method(particles(twisted=False), 1600, '1600'),
}


def measure(method: Method, problem: Problem, num_samples: int, seeds: int) -> np.ndarray:
  """Returns the errors, [seeds, 5], of a Gaussian [seeds, 4]."""
  exact = problem.exact
  y = jnp.tile(jnp.asarray(problem.y, jnp.float32), (num_samples, 1))
  draw = jax.jit(lambda key: method.draw(key, problem, y))

  def errors(x):
    if len(exact.weights) == 1:
      return gaussian_errors(x, exact)
    return posterior.posterior_errors(x, exact, problem.matrix, problem.y, problem.std)

  return np.array([errors(draw(jax.random.key(i))) for i in range(seeds)])


def gaussian_errors(x: ArrayLike, exact: oracles.Mixture) -> tuple[float, float, float, int]:
  """Measures samples x [n, D] of a Gaussian.

  Returns |mean - m| / sqrt(tr C), the mean over the coordinates of their
  variances over the true ones, |cov - C| / |C| in the Frobenius norm, and how
  many draws are beyond 8 standard deviations in a coordinate or not finite; the
  other figures leave them out, and are NaN if fewer than two draws stay.
  """
  mean, cov = np.asarray(exact.mean), np.asarray(exact.cov, np.float64)
  draws = np.asarray(x, np.float64)
  stays = (np.abs(draws - mean) <= 8.0 * np.sqrt(np.diag(cov))).all(axis=1)
  beyond, draws = int((~stays).sum()), draws[stays]
  if len(draws) < 2:
    return np.nan, np.nan, np.nan, beyond
  found = np.cov(draws.T)
  return (
    float(np.linalg.norm(draws.mean(axis=0) - mean) / np.sqrt(np.trace(cov))),
    float(np.mean(np.diag(found) / np.diag(cov))),
    float(np.linalg.norm(found - cov) / np.linalg.norm(cov)),
    beyond,
  )


def cover(method: Method, problem: Problem, num_truths: int) -> calibration.Coverage:
  """Returns the coverage over draws of (x_0, y)."""
  matrix, std = problem.matrix, problem.std
  truth = np.asarray(problem.prior.sample(jax.random.key(10), num_truths))
  rng = np.random.default_rng(11)
  y = truth @ matrix.T + std * rng.normal(size=(num_truths, len(matrix)))
  repeated = jnp.asarray(y, jnp.float32)
  draw = jax.jit(lambda key: method.draw(key, problem, repeated))
  keys = jax.random.split(jax.random.key(12), NUM_RANKED)
  x = np.stack([draw(key) for key in keys], axis=1)
  levels = posterior.levels(problem.prior, matrix, std, truth, y, x)
  return calibration.coverage(levels)


def row(method: Method, problem: Problem, args: argparse.Namespace, covers: bool) -> str:
  """Returns a cell: errors, and the coverage."""
  errors = measure(method, problem, args.samples, args.seeds)
  *means, last = errors.mean(axis=0)
  if len(problem.exact.weights) == 1:
    last = last / args.samples
    cell = ' '.join(f'{x:.2f}' for x in means) + f' {100 * last:.1f} % beyond'
  else:
    cell = ' '.join(f'{x:.2f}' for x in (*means, last))
  if covers and args.coverage:
    found = cover(method, problem, args.coverage)
    cell += f' {100 * found.fraction:.0f} %'
  return cell


def main() -> None:
  """Prints the table, row by row."""
  parser = argparse.ArgumentParser(prog='python -m benchmarks.posterior')
  parser.add_argument('--problems', default='A,B,C,D', help=', '.join(PROBLEMS))
  parser.add_argument('--methods', default='', help='parts of their names')
  parser.add_argument('--samples', type=int, default=2000)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--coverage', type=int, default=500, help='draws of y')
  args = parser.parse_args()
  names = args.problems.split(',')
  problems = {name: PROBLEMS[name]() for name in names}
  parts = args.methods.split(',')
  print('| | calls, gradients |', ' | '.join(names), '|')
  print('|---|---|' + '---|' * len(names))

  def exact_draws(key, problem, y):
    return problem.exact.sample(key, len(y))

  methods = {'exact draws': Method(exact_draws, 0), **METHODS}
  for name, method in methods.items():
    if not any(part in name for part in parts):
      continue
    start = time.perf_counter()
    covers = not name.startswith(EXACT)
    cells = [row(method, p, args, covers) for p in problems.values()]
    calls = f'{method.calls}, {method.gradients}'
    print(f'| {name} | {calls} |', ' | '.join(cells), '|', flush=True)
    print(f'  {time.perf_counter() - start:.0f} s', flush=True)


if __name__ == '__main__':
  main()
