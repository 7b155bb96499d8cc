"""Which metrics of pairs see which defect, on the posterior of test_calibration.py."""

import pytest
from scipy import stats

from diffusion_jax.metrics import table
from tests.metrics.test_calibration import DEFECTS, D, arrays_with

P_VALUES = 'sbc_ks', 'sbc_chi2', 'interval_p', 'density_p', 'tarp_p'
# Which p-values see which defect. No draws of the prior are seen without x.
SEEN = {
  'exact': (),
  'narrow': ('sbc_chi2', 'interval_p', 'density_p', 'tarp_p'),
  'shifted': ('sbc_ks', 'sbc_chi2', 'density_p', 'tarp_p'),
  'prior': ('tarp_p',),
}
BLIND = {'exact': P_VALUES, 'narrow': (), 'shifted': (), 'prior': P_VALUES[:4]}


@pytest.mark.parametrize('defect', DEFECTS)
def test_each_defect_is_seen_by_the_tests_that_can(defect):
  scores = {
    score.name: score.estimate
    for name, constructor in table.OF_PAIRS.items()
    if name != 'predictive'  # of the exact law, tests/metrics/test_forecasts.py
    for score in constructor().compute(*arrays_with(defect))
  }
  for name in SEEN[defect]:
    assert scores[name].value < 0.01, name
  for name in BLIND[defect]:
    assert scores[name].value > 0.01, name
  for name in ('interval', 'density', 'tarp'):
    value, error = scores[f'{name}_coverage']
    if f'{name}_p' in BLIND[defect]:
      assert abs(value - 0.9) < 4.0 * error, name
  if defect == 'narrow':
    # Closed forms: z and |z|^2 within 0.9 of the quantiles of exact draws.
    z, square = stats.norm.ppf(0.95), stats.chi2.ppf(0.9, D)
    expected = {
      'interval': 2.0 * stats.norm.cdf(0.9 * z) - 1.0,
      'density': stats.chi2.cdf(0.81 * square, D),
    }
    for name, share in expected.items():
      value, error = scores[f'{name}_coverage']
      assert abs(value - share) < 4.0 * error + 0.01, name
