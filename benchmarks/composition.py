"""Errors of composed denoisers for n observations, against the closed form.

  python -m benchmarks.composition

Denoisers of single observations y = x_0 + n, n ~ N(0, I), are exact. Problems:
`linear`, gaussian_linear of sbibm in 10 dimensions with x_0 in units of its
prior, and `modes`, a prior of two Gaussians in 2 dimensions. Each row is the
mean over three sets of observations of the errors of 1,000 draws: the mean
(over the root of the trace of the covariance), the covariance (over its norm)
and sliced W2 (in standard deviations), as in `metrics/posterior.py`, of the
draws that did not diverge; the share of the others, and CPU seconds with
compilation.
"""

import time

import jax
import numpy as np

import diffusion_jax as dj
from diffusion_jax.metrics import posterior
from diffusion_jax.testing import oracles

DRAWS, SETS = 1000, 3
PROBLEMS = {
  'linear': oracles.gaussian(np.zeros(10), np.eye(10)),
  'modes': oracles.mixture([0.5, 0.5], [[-0.9, 0.0], [0.9, 0.0]], [np.diag([0.19, 1.0])] * 2),
}


def methods(prior, ys, key):
  """Returns {name: denoiser} of observations ys [n, D]."""
  n, d = ys.shape
  eye = np.eye(d)

  def single(y):
    return prior.denoiser_given(y, 1.0)

  exact = [prior.posterior(eye, y, 1.0) for y in np.asarray(ys)]
  keys = jax.random.split(key, n + 1)
  drawn = [
    np.cov(np.asarray(p.sample(k, 1000)).T) for p, k in zip([prior, *exact], keys, strict=True)
  ]
  known = [np.asarray(p.cov) for p in [prior, *exact]]

  def gauss(covariances):
    return dj.gauss_composed(single, ys, prior.denoise, np.stack(covariances[1:]), covariances[0])

  def score(x):
    return prior.score(x, dj.clean_level())

  def added(xt, level):
    x0 = [single(y)(xt, level).x0 for y in ys]
    return dj.Prediction(sum(x0) - (n - 1) * prior.denoise(xt, level).x0)

  return {
    'GAUSS, exact covariances': gauss(known),
    'GAUSS, covariances of 1,000 draws': gauss(drawn),
    'F-NPSE, Langevin': dj.bridged(single, ys, score),
    'scores added, ODE': added,
  }


def draw(key, name, denoise, n, d):
  """Draws by EDM's ODE, or by 400 x 20 Langevin steps for F-NPSE."""
  if not name.startswith('F-NPSE'):
    levels = dj.level_grid(dj.KarrasSchedule(2e-3, 40.0), 50)
    x = dj.prior_sample(key, (DRAWS, d), levels.take(0))
    return dj.sample(key, denoise, dj.heun(), levels, x)
  levels = dj.level_grid(dj.CosineSchedule(), 400, t_start=0.99)
  x = dj.prior_sample(key, (DRAWS, d), levels.take(0)) / n**0.5
  return dj.sample(key, denoise, dj.annealed_langevin(20, 0.3 / n), levels, x)


def main():
  """Prints a row for each problem, number of observations and method."""
  for problem, prior in PROBLEMS.items():
    d = prior.means.shape[1]
    for n in (1, 2, 8, 32):
      rows = {}
      for i in range(SETS):
        keys = jax.random.split(jax.random.key(100 * n + i), 4)
        noise = jax.random.normal(keys[0], (n, d))
        ys = prior.sample(keys[1], 1) + noise
        y = np.asarray(ys, np.float64).mean(axis=0)
        exact = prior.posterior(np.eye(d), y, n**-0.5)
        drawn = {'exact draws': (np.asarray(exact.sample(keys[2], DRAWS)), 0.0)}
        for name, denoise in methods(prior, ys, keys[2]).items():
          start = time.process_time()
          run = jax.jit(draw, static_argnums=(1, 2, 3, 4))
          x = np.asarray(run(keys[3], name, denoise, n, d))
          drawn[name] = x, time.process_time() - start
        for name, (x, seconds) in drawn.items():
          kept = x[(np.abs(x) < 1e3).all(axis=1)]  # NaN is not below
          lost = 1.0 - len(kept) / len(x)
          found = posterior.posterior_errors(kept, exact, np.eye(d), y, n**-0.5)
          row = *found[:2], found[3], lost, seconds
          rows.setdefault(name, []).append(row)
      for name, row in rows.items():
        numbers = '  '.join(f'{v:7.3f}' for v in np.mean(row, axis=0))
        print(f'{problem:7} n={n:<3} {name:34} {numbers}', flush=True)


if __name__ == '__main__':
  main()
