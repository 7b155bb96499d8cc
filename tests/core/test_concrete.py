import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.core.concrete import (
  as_float,
  as_time,
  check_numbers,
  computed_now,
)


def check(**values):
  check_numbers(lambda a, b: a < b, 'a must be below b', **values)


def test_the_first_values_that_break_the_rule_are_named():
  check(a=1.0, b=2.0)
  with pytest.raises(ValueError, match='^a is 3, b is 2: a must be below b$'):
    check(a=np.array([1.0, 3.0, 4.0]), b=2.0)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_values_that_are_not_finite_break_every_rule(bad):
  with pytest.raises(ValueError, match='a is 1, b is'):
    check(a=1.0, b=bad)


def test_traced_values_are_not_checked():
  def f(a):
    check(a=a, b=2.0)
    return a

  assert jax.jit(f)(3.0) == 3.0


def test_constants_are_computed_while_jit_traces():
  def f(x):
    assert computed_now(lambda: jnp.sum(jnp.arange(3) ** 2)) == 5
    assert computed_now(lambda: jnp.arange(3) * x) is None
    assert computed_now(lambda a, b: a - b, np.ones(1), np.zeros(1)) == 1.0
    assert computed_now(lambda a: a * x, np.ones(1)) is None
    return x

  jax.jit(f)(2.0)
  jax.grad(f)(2.0)
  with jax.disable_jit():
    assert computed_now(lambda: jnp.arange(3)[1]) == 1


@pytest.mark.parametrize('value', [1, np.float32(1.0), jnp.bfloat16(1.0)])
def test_numbers_become_floats_of_at_least_float32(value):
  found = as_float(value)
  assert found.dtype == jnp.float32 and found == 1.0


@pytest.mark.parametrize('t', [0.0, 1.0, 1.0 + 5e-7, -5e-7])
def test_times_may_be_off_by_rounding(t):
  assert as_time(t) == np.float32(t)


@pytest.mark.parametrize('t', [-1e-5, 1.00001, np.nan])
def test_times_outside_of_0_to_1_are_refused(t):
  with pytest.raises(ValueError, match=r'times are in \[0, 1\]'):
    as_time(t)
