"""XLA:CPU fuses no product with a sum in our functions: some of these fusions are wrong."""

import os
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from diffusion_jax.core.products import finished
from tests import fusions
from tests.conftest import HANG_SECONDS
from tests.hlo import chained

OFF = '--xla_cpu_experimental_ynn_fusion_type=-reduce'
# Versions of jaxlib that compile a pattern of `fusions.planted` wrongly.
WRONG = '0.10.2', '0.12.0.1'
PLANTED: dict[str, Any] = {name: case for name, *case in fusions.planted()}
CHEAP = 'mixture_slope', 'composed_square', 'one_distance', 'one_simple', 'left_simple_slope'
pytestmark = pytest.mark.skipif(jax.default_backend() != 'cpu', reason='the fusions are of XLA:CPU')


def program(function, *arrays):
  return jax.jit(function).lower(*arrays).compile()


def numbers(folder, part):
  """Returns the arrays with these fusions and without, as for users."""
  names = 'on', 'off'
  runs = []
  for name in names:
    env = {n: x for n, x in os.environ.items() if not n.startswith(('XLA_', 'JAX_'))}
    env |= {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': OFF if name == 'off' else ''}
    command = [sys.executable, '-m', 'tests.fusions', folder / f'{name}.npz', part]
    runs.append(subprocess.Popen(command, env=env))
  assert [run.wait(HANG_SECONDS) for run in runs] == [0, 0]
  return [dict(np.load(folder / f'{name}.npz')) for name in names]


def different(on, off):
  """Returns the names of arrays that differ by more than rounding.

  Rounding turns a draw, or grows along a path, in at most 4 of 10,000 rows of these functions;
  a wrong program has 18 % of wrong rows or more.
  """
  assert [*on] == [*off]
  found = []
  for name in on:
    x, y = (np.asarray(side[name], np.float64) for side in (on, off))
    # Some are 0 but for rounding: the gradient of an attention's bias of keys, what a
    # measurement leaves unexplained of its own x.
    most = np.abs(y[np.isfinite(y)]).max(initial=1e-2)
    wrong = ~np.isclose(x, y, rtol=0.0, atol=1e-4 * most, equal_nan=True)
    if np.count_nonzero(wrong) > 1e-3 * wrong.size:
      found.append(name)
  return found


def known_fault():
  """Returns the planted patterns that this jaxlib computes wrongly here."""
  found = []
  for name, (function, *arrays) in PLANTED.items():
    with jax.debug_nans(False):  # which a wrong program may give
      got = jax.device_get(jax.jit(function)(*arrays))
    with jax.disable_jit():
      right = np.asarray(function(*arrays))
    if not np.allclose(got, right, rtol=1e-4, atol=1e-4 * np.abs(right).max()):
      found.append(name)
  return found


def test_the_workaround_is_needed_by_this_jaxlib():
  """Fails with a jaxlib that is newer than WRONG and right.

  A CPU whose instructions do not show the fault is skipped only with versions
  that are known to have it on others.
  """
  installed, wrong = version('jaxlib'), known_fault()
  if not wrong and installed in WRONG:
    pytest.skip(f'this CPU does not show the fault of jaxlib {installed}')
  assert wrong, (
    f'jaxlib {installed} computes the planted patterns rightly. If it does so on a CPU where '
    f'jaxlib {WRONG[-1]} fails, and it is the lowest version that pyproject.toml allows, take '
    'out core/products.finished and what calls it, the note in app/train/mode.py, its lines in '
    'docs/performance.md, and tests/fusions.py; else add it here to the versions that are right'
  )


@pytest.mark.parametrize('name', PLANTED)
def test_the_planted_patterns_are_chained(name):
  """The planted patterns are fused, so the next test can fail."""
  assert chained(program(*PLANTED[name]).as_text())


def test_no_product_is_fused_with_a_sum():
  """The cheap functions are read here; the slow test compares the numbers of all functions."""
  cases: dict[str, Any] = {name.partition('/')[2]: case for name, *case in fusions.cases()}
  for name in CHEAP:
    function, arrays = cases[name]
    assert not chained(program(function, *arrays).as_text()), name


def test_a_large_batch_has_the_density_of_scipy():
  """The density of 40,001 rows is right in one call, and in a `vmap` of calls of one row."""
  at, oracle = fusions.LEVEL, fusions.GAUSSIAN
  each = jax.vmap(lambda r: oracle.log_prob(r[None], at)[0])
  cov = at.alpha**2 * fusions.COV + at.sigma**2 * np.eye(fusions.D)
  right = stats.multivariate_normal(at.alpha * fusions.MATRIX[0], cov).logpdf(fusions.X)
  for log_prob in (each, lambda x: oracle.log_prob(x, at)):
    assert_allclose(jax.jit(log_prob)(fusions.X), right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float32', 'int32'])
def test_finished_changes_nothing(dtype):
  infinite = 7.0 if dtype == 'int32' else np.inf
  x = np.array([0.0, -1.1, 3e-4, 6e4, infinite, 1e-3]).astype(jnp.dtype(dtype))
  assert_array_equal(jax.jit(finished)(x), x)
  if dtype == 'float32':
    slope = jax.jit(jax.vmap(jax.grad(lambda x: finished(x) ** 2)))(x[:2])
    assert_array_equal(slope, 2.0 * x[:2])


@pytest.mark.slow
@pytest.mark.parametrize('part', ['functions', 'kinds'])
def test_the_fusions_change_no_numbers(part, tmp_path):
  """The planted patterns differ where `known_fault` sees the fault."""
  found = different(*numbers(tmp_path, part))
  planted = [name for name in found if name.startswith('planted/')]
  assert not {*found} - {*planted}
  if part == 'functions':
    assert bool(planted) == bool(known_fault())
