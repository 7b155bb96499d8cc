"""Averages of parameters have the decays and widths of their formulas."""

import pytest
from numpy.testing import assert_allclose

from diffusion_jax.training import averaging


def rates(rate, steps=(0, 1, 9, 1000)):
  return [float(rate(step)) for step in steps]


def test_a_decay_is_constant_after_a_warm_up():
  """1 - min(decay, (1 + i) / (10 + i)); without it the first rate is 1."""
  made = averaging.decay(0.99, more=(0.5,))
  assert_allclose(rates(made.rate), [0.9, 9 / 11, 9 / 19, 0.01], rtol=1e-6)
  assert_allclose(rates(made.more['0.5']), [0.9, 9 / 11, 0.5, 0.5], rtol=1e-6)
  plain = averaging.decay(0.99, warmup=False)
  assert_allclose(rates(plain.rate), [1.0, 0.01, 0.01, 0.01], rtol=1e-6)
  assert (plain.more, plain.every) == ({}, 0)


def test_a_half_life_is_in_images():
  made = averaging.half_life(batch_size=10, images=1000.0)
  assert_allclose(rates(made.rate)[1:], 3 * [1 - 0.5**0.01], rtol=1e-5)
  assert made.every == 0


def test_the_first_width_is_the_average_and_all_are_in_snapshots():
  """(1 - 1 / t)^(gamma + 1), t = i + 1: gamma = 0 is the plain mean."""
  made = averaging.powers(64, widths=(12**-0.5 - 1e-12, 0.1))
  assert_allclose(rates(made.rate), [1.0, 1 / 2, 1 / 10, 1 / 1001], rtol=1e-4)
  assert [*made.more] == ['sigma_rel_0.1'] and made.width.startswith('sigma_rel_0.288')
  assert (made.every, made.keep) == (2, 32)
  assert averaging.powers(9, widths=(0.1,)).every == 1
  assert averaging.powers(64, widths=(0.1,), every=5).every == 5
  later = averaging.powers(64, widths=(12**-0.5 - 1e-12,), more_steps=9.0)
  assert_allclose(later.rate(0), 0.1, rtol=1e-4)


def test_decays_that_differ_have_names_that_differ():
  """A name is not rounded, and none is there twice."""
  more = 0.9999991, 0.9999989, 0.999
  made = averaging.decay(0.9999, more=more)
  assert [*made.more] == ['0.9999991', '0.9999989', '0.999']
  found = [float(rate(10**8)) for rate in made.more.values()]
  assert_allclose(found, [9e-7, 1.1e-6, 1e-3], rtol=0.1)
  with pytest.raises(ValueError, match='must be different decays'):
    averaging.decay(0.9999, more=(0.5, 0.5))


@pytest.mark.parametrize('widths', [(), (0.1, 0.05, 0.1)])
def test_widths_are_different(widths):
  with pytest.raises(ValueError, match='one or several different widths'):
    averaging.powers(64, widths=widths)
