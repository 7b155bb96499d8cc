"""Metrics of calibration, of draws for held-out pairs (x, theta)."""

import numpy as np

from diffusion_jax.declared import declares
from diffusion_jax.metrics import lattices, plots
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

_MOST_CURVES = 12  # the most parameters with a curve in a figure


@declares(what='its rank in each parameter (Talts et al. 2018)')
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

  def report(samples, reference, out):
    levels = flat(rank_levels(samples['draws'], reference['truth'], seed))
    plots.plot_ranks(out / 'ranks.png', levels)

  scores = {'sbc_ks': True, 'sbc_chi2': True}
  return SampleMetric(scores, ('draws', 'truth'), compute, report=report)


@declares(what='the central interval that ends at it, in each parameter')
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

  def report(samples, reference, out):
    levels = flat(interval_levels(samples['draws'], reference['truth'], seed))
    plots.plot_coverage(out / 'coverage.png', {'intervals': levels[:, :_MOST_CURVES]})

  scores = {'interval_coverage': True, 'interval_p': True}
  return SampleMetric(scores, ('draws', 'truth'), compute, report=report)


@declares(
  what=(
    'the region of highest density that ends at it (Hermans et al. 2022); `log_density` of '
    'the truth is of the density of the draws, which is 0 beyond `data.bounds`'
  ),
)
@lattices.named
def density_coverage(mass: float = 0.9, seed: int = 0) -> SampleMetric:
  """Expected coverage of regions of highest density (Hermans et al. 2022).

  With a p-value over all masses, the mean log density of the truth, and
  `prior_log_density`. It needs log q of the draws [M, n] and of the truth [M],
  both named `log_q`, in nats of the density that the draws have. mass: of the regions.
  """

  def levels_of(samples, reference):
    log_q = take('density_coverage', samples, 'log_q')
    at_truth = take('density_coverage', reference, 'log_q', 'reference')
    return density_levels(log_q, at_truth, seed)

  def compute(samples, reference):
    levels = levels_of(samples, reference)
    log_q = np.asarray(samples['log_q'])
    scores = _scores('density', _fraction(levels, mass), levels, mass, log_q)
    prior = prior_log_density(take('density_coverage', reference, 'truth', 'reference'))
    if np.isfinite(prior):
      of_truth = mean(reference['log_q'])
      scores += [
        Score('log_density', of_truth, 'nats, of the truth, by the density of the draws'),
        Score('log_density_prior', Estimate(prior), 'of a fitted one'),
      ]
    return scores

  def report(samples, reference, out):
    plots.plot_coverage(out / 'coverage.png', {'densities': levels_of(samples, reference)})

  scores = dict.fromkeys(('density_coverage', 'density_p', 'log_density'), True)
  scores |= {'log_density_prior': True}
  return SampleMetric(scores, ('draws', 'truth', 'log_q'), compute, report=report)


@declares(what='the ball about a reference that ends at it (Lemos et al. 2023)')
@lattices.named
def tarp(mass: float = 0.9, seed: int = 0) -> SampleMetric:
  """Coverage of balls about a reference that depends on x (Lemos et al. 2023).

  A p-value is over all masses. The reference is `regression_references`. mass: the
  share of the draws in a ball.
  """

  def levels_of(draws, truth, context):
    centres = regression_references(context, truth, seed=seed)
    return tarp_levels(draws, truth, centres, seed)

  def compute(samples, reference):
    draws, truth = take_pairs('tarp', samples, reference)
    levels = levels_of(draws, truth, take('tarp', reference, 'context', 'reference'))
    return _scores('tarp', _fraction(levels, mass), levels, mass, draws)

  def report(samples, reference, out):
    levels = levels_of(samples['draws'], reference['truth'], reference['context'])
    plots.plot_coverage(out / 'coverage.png', {'balls (TARP)': levels})

  scores = {'tarp_coverage': True, 'tarp_p': True}
  return SampleMetric(scores, ('draws', 'truth', 'context'), compute, report=report)


@declares(what='no test: 1 − (variance of the draws) / (variance of the truths)', least_draws=2)
def contraction() -> SampleMetric:
  """How much narrower than the prior the draws are, 1 - a ratio of variances.

  The mean over parameters, with its error over the pairs.
  """

  def compute(samples, reference):
    draws, truth = take_pairs('contraction', samples, reference)
    if draws.shape[1] < 2:
      raise Missing('contraction needs 2 draws for each of the held-out pairs')
    each = contractions(draws, truth)
    least = each.mean(axis=0)
    prior = -3.0 / (len(truth) - 3.0)  # E of a ratio of variances
    note = f'{prior:.3g} of a Gaussian prior; {np.nanmin(least):.3g} {_note(least, draws)}'
    return [Score('contraction', mean(np.nanmean(each, axis=1)), note)]

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
