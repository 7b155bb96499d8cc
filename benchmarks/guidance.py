"""What each kind of guidance draws, with exact scores.

  python -m benchmarks.guidance

The data are a mixture of four Gaussians in 2 dimensions, and the class is two
of them. The law that the scale w names is cond^w uncond^(1 - w), on a grid; the
divergence is a histogram of samples' from it, in nats, less the divergence of as
many exact draws. Variances are the sum of both coordinates'.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.testing import oracles

MEANS = np.array([[-1.0, 0.0], [0.3, 0.5], [0.6, -0.8], [-0.6, 1.0]])
WIDE = [[0.5, 0.2], [0.2, 0.3]]
COVS = np.array([WIDE, np.diag([0.3, 0.2]), np.diag([0.15, 0.4]), WIDE])
DATA = oracles.mixture(np.full(4, 0.25), MEANS, COVS)
CLASS = oracles.mixture([0.5, 0.5], MEANS[1:3], COVS[1:3])
SCALE, DRAWS, STEPS, BINS = 3.0, 50_000, 200, np.linspace(-4.0, 4.0, 33)


def methods(pair):
  """Returns {name: (what the sampler calls, the sampler)}."""

  def by(guided):
    return guided, dj.ddim(1.0)

  return {
    'w = 1': by(dj.classifier_free(pair, 1.0)),
    'classifier-free': by(dj.classifier_free(pair, SCALE)),
    'the same, eta = 0': (dj.classifier_free(pair, SCALE), dj.ddim()),
    'sigma / alpha in [0.3, 3]': by(dj.classifier_free(pair, SCALE, interval=(0.3, 3.0))),
    'APG': by(dj.adaptive_projected(pair, SCALE)),
    'CFG-Zero*': by(dj.cfg_zero_star(pair, SCALE)),
    'CFG++, lambda = 0.15': (pair, dj.cfg_plus_plus(0.15)),
    'corrected, 16 particles': (pair, dj.one_of(dj.feynman_kac((SCALE, 1.0 - SCALE)), 16)),
  }


def named_law():
  """Returns the probability of each bin, [32, 32], by 8 x 8 points a bin."""
  width = BINS[1] - BINS[0]
  fine = BINS[0] + width / 8 * (np.arange(8 * (len(BINS) - 1)) + 0.5)
  points = np.stack(np.meshgrid(fine, fine, indexing='ij'), axis=-1).reshape(-1, 2)
  points, level = jnp.asarray(points, jnp.float32), dj.clean_level()
  logs = SCALE * CLASS.log_prob(points, level) + (1.0 - SCALE) * DATA.log_prob(points, level)
  density = np.exp(np.asarray(logs, np.float64)).reshape(len(BINS) - 1, 8, -1, 8)
  return density.sum(axis=(1, 3)) / density.sum()


def divergence(counts, law):
  """Computes KL(histogram, `law`) of counts of bins, in nats."""
  shares = counts / counts.sum()
  some = shares > 0.0
  return float(np.sum(shares[some] * np.log(shares[some] / np.maximum(law[some], 1e-12))))


@functools.partial(jax.jit, static_argnums=(0, 1))
def draw(function, sampler, levels):
  """Draws samples [DRAWS, 2]."""
  x = dj.prior_sample(jax.random.key(0), (DRAWS, 2), levels.take(0))
  return dj.sample(jax.random.key(1), function, sampler, levels, x)


@functools.partial(jax.jit, static_argnums=0)
def draw_population(pair, levels):
  """Draws samples [DRAWS, 2] from one population of as many particles."""
  x = dj.prior_sample(jax.random.key(0), (1, DRAWS, 2), levels.take(0))
  sampler = dj.feynman_kac((SCALE, 1.0 - SCALE))
  x, state = dj.sample_with_state(jax.random.key(1), pair, sampler, levels, x)
  weights = jax.nn.softmax(state.log_weights[0])
  return x[0, jax.random.choice(jax.random.key(2), DRAWS, (DRAWS,), p=weights)]


def main():
  """Prints a row for each kind of guidance."""
  law = named_law()
  exact_counts = np.random.default_rng(0).multinomial(DRAWS, law.reshape(-1))
  floor = divergence(exact_counts, law.reshape(-1))
  levels = dj.level_grid(dj.LinearVPSchedule(), STEPS, 'logsnr')
  pair = dj.paired(CLASS.denoise, DATA.denoise)
  rows = {name: draw(*method, levels) for name, method in methods(pair).items()}
  rows[f'corrected, {DRAWS:,} particles'] = draw_population(pair, levels)
  for name, samples in rows.items():
    samples = np.asarray(samples, np.float64)
    counts = np.histogram2d(*samples.T, bins=(BINS, BINS))[0]
    above, spread = divergence(counts, law) - floor, np.trace(np.cov(samples.T))
    print(f'{name:34} KL {above:6.3f}  variance {spread:.3f}', flush=True)


if __name__ == '__main__':
  main()
