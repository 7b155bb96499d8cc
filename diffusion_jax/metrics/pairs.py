"""Metrics of calibration, of draws for held-out pairs (x, theta)."""

import numpy as np

from diffusion_jax.metrics import lattices
from diffusion_jax.metrics.calibration import (
  bonferroni,
  contractions,
  coverage,
  density_levels,
  flat,
  interval_levels,
  prior_log_density,
  rank_levels,
  regression_references,
  take_pairs,
  tarp_levels,
  uniformity,
)
from diffusion_jax.metrics.estimates import Estimate, Missing, mean
from diffusion_jax.metrics.metric import SampleMetric, Score, take


@lattices.named
def sbc(seed: int = 0) -> SampleMetric:
  """Ranks of each parameter among its draws (Talts et al. 2018).

  p-values of the Kolmogorov-Smirnov and the chi-squared test that they are
  uniform: the lowest of all parameters, times their number.
  """

  def compute(samples, reference):
    draws, truth = take_pairs('sbc', samples, reference)
    tests = uniformity(flat(rank_levels(draws, truth, seed)))
    return [
      Score(f'sbc_{name}', Estimate(bonferroni(p)), _note(p, draws))
      for name, p in tests._asdict().items()
    ]

  return SampleMetric({'sbc_ks': True, 'sbc_chi2': True}, ('draws', 'truth'), compute)


@lattices.named
def interval_coverage(mass: float = 0.9, seed: int = 0) -> SampleMetric:
  """Expected coverage of central intervals, and a p-value over all masses.

  The mean over parameters of the fraction, with its error as if they were
  equal; the p-value is the lowest of the parameters, times their number. mass:
  of the intervals.
  """

  def compute(samples, reference):
    draws, truth = take_pairs('interval_coverage', samples, reference)
    levels = flat(interval_levels(draws, truth, seed))
    inside = mean(np.mean(levels <= mass, axis=1))
    return _scores('interval', inside, levels, mass, draws)

  names = {'interval_coverage': True, 'interval_p': True}
  return SampleMetric(names, ('draws', 'truth'), compute)


@lattices.named
def density_coverage(mass: float = 0.9, seed: int = 0) -> SampleMetric:
  """Expected coverage of regions of highest density (Hermans et al. 2022).

  With a p-value over all masses. It needs log q of the draws [M, n] and of the
  truth [M], both named `log_q`. mass: of the regions.
  """

  def compute(samples, reference):
    log_q = take('density_coverage', samples, 'log_q')
    at_truth = take('density_coverage', reference, 'log_q', 'reference')
    levels = density_levels(log_q, at_truth, seed)
    return _scores('density', _fraction(levels, mass), levels, mass, np.asarray(log_q))

  names = {'density_coverage': True, 'density_p': True}
  return SampleMetric(names, ('log_q',), compute)


@lattices.named
def tarp(mass: float = 0.9, seed: int = 0) -> SampleMetric:
  """Coverage of balls about a reference that depends on x (Lemos et al. 2023).

  With a p-value over all masses. The reference is `regression_references`.
  mass: of the balls.
  """

  def compute(samples, reference):
    draws, truth = take_pairs('tarp', samples, reference)
    context = take('tarp', reference, 'context', 'reference')
    centres = regression_references(context, truth, seed=seed)
    levels = tarp_levels(draws, truth, centres, seed)
    return _scores('tarp', _fraction(levels, mass), levels, mass, draws)

  names = {'tarp_coverage': True, 'tarp_p': True}
  return SampleMetric(names, ('draws', 'truth', 'context'), compute)


def contraction() -> SampleMetric:
  """How much narrower than the prior the draws are, 1 - a ratio of variances.

  The mean over parameters, with its error over the pairs. If the draws have
  `log_q`, also the mean log density of the truth, and `prior_log_density`.
  """

  def compute(samples, reference):
    draws, truth = take_pairs('contraction', samples, reference)
    if draws.shape[1] < 2:
      raise Missing('contraction needs 2 draws for each of the held-out pairs')
    each = contractions(draws, truth)
    least = each.mean(axis=0)
    prior = -3.0 / (len(truth) - 3.0)  # E of a ratio of variances
    note = f'{prior:.3g} of a Gaussian prior; {np.nanmin(least):.3g} {_note(least, draws)}'
    scores = [Score('contraction', mean(np.nanmean(each, axis=1)), note)]
    prior = prior_log_density(truth)
    if 'log_q' in reference and np.isfinite(prior):
      own = mean(reference['log_q'])
      scores += [
        Score('log_density', own, 'nats, of the truth'),
        Score('log_density_prior', Estimate(prior), 'of a fitted one'),
      ]
    return scores

  return SampleMetric({'contraction': True}, ('draws', 'truth'), compute)


def _fraction(levels, mass):
  found = coverage(levels, mass)
  return Estimate(float(found.fraction), float(found.standard_error))


def _scores(name, fraction, levels, mass, draws):
  p = uniformity(levels).ks
  return [
    Score(f'{name}_coverage', fraction, f'{mass:g} at best'),
    Score(f'{name}_p', Estimate(bonferroni(p)), _note(p, draws)),
  ]


def _note(p, draws):
  pairs = f'{len(draws):,} pairs, {draws.shape[1]:,} draws'
  if np.size(p) == 1:
    return pairs
  return f'lowest of parameter {np.nanargmin(p)} of {np.size(p)}, {pairs}'
