"""benchmarks.posterior on a Gaussian process: its errors, its rows."""

import re
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks import posterior, problems

pytestmark = pytest.mark.benchmarks


@pytest.fixture(scope='module')
def process():
  return problems.gaussian_process()


def test_the_posterior_is_that_of_the_kernel(process):
  """Rasmussen & Williams (2006), Eq. 2.23 and 2.24, in float64."""
  at = np.linspace(0.0, 1.0, 64)
  scaled = np.sqrt(3.0) * np.abs(at[:, None] - at[None]) / 0.2
  kernel = (1.0 + scaled) * np.exp(-scaled)
  seen = process.matrix.argmax(axis=1)
  assert_array_equal(process.matrix, np.eye(64)[seen])
  inverse = np.linalg.inv(kernel[np.ix_(seen, seen)] + 0.01 * np.eye(8))
  gain = kernel[:, seen] @ inverse
  exact = process.exact
  assert_allclose(exact.mean, gain @ process.y, atol=1e-4)
  expected = kernel - gain @ kernel[seen]
  assert_allclose(exact.cov, expected, atol=1e-4)


def test_errors_of_known_draws(process, key):
  """The wide ones leave at 8 deviations; others are measured without them."""
  exact = process.exact
  mean = np.asarray(exact.mean)
  x = np.array(exact.sample(key, 4000))
  first = posterior.gaussian_errors(x, exact)
  assert_allclose(first, (0, 1, 0, 0), atol=0.1)
  variance = posterior.gaussian_errors(mean + 1.5 * (x - mean), exact)[1]
  assert_allclose(variance, 2.25 * first[1], rtol=1e-4)
  lost = np.stack([mean + 1e3, np.full(64, np.nan)])
  *same, beyond = posterior.gaussian_errors(np.concatenate([lost, x]), exact)
  assert_allclose(same, first[:3])
  assert beyond == 2
  *nothing, beyond = posterior.gaussian_errors(lost, exact)
  assert np.isnan(nothing).all() and beyond == 2


def test_rows_of_the_process_as_typed(capsys, monkeypatch):
  """An iteration for each number in y is needed; the denoiser is trained."""
  monkeypatch.setattr(problems, 'TRAINING_STEPS', 400)
  monkeypatch.setattr(problems, 'WIDTH', 64)
  monkeypatch.setattr(problems, 'BLOCKS', 1)
  flags = ['--problems=E,E_trained', '--methods=exact draws,observation_guided']
  flags += ['--samples=200', '--seeds=1', '--coverage=0']
  monkeypatch.setattr(sys, 'argv', ['posterior', *flags])
  posterior.main()
  out = capsys.readouterr().out
  cell = r'([\d.]+) ([\d.]+) [\d.]+ [\d.]+ % beyond'
  cells = [re.search(cell, line) for line in out.splitlines()]
  draws, every, one = ([float(x) for x in found.groups()] for found in cells if found)
  assert draws[0] < 0.15 and 0.85 < draws[1] < 1.15
  assert every[0] < 0.15 and one[0] > 0.2
  found = re.findall(r'denoiser ([\d.]+), asymmetry of its Jacobian (\d+)%', out)
  assert len(found) == 3
  error, asymmetry = found[1]  # sigma = alpha; of an estimate of 0 it is 0.9
  assert float(error) < 0.6 and int(asymmetry) > 1


def test_an_exact_denoiser_has_no_gap(process):
  error, asymmetry = problems.gap(process, (1.0,))
  assert error[0] == 0.0 and asymmetry[0] < 1e-4
