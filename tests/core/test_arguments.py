"""Checks of arguments name the value that breaks a rule; a pytree's class is part of its type."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.core.arguments import (
  as_float,
  check_numbers,
  computed_now,
  weighted_sum,
)


def check(**values):
  check_numbers(lambda a, b: a < b, 'a must be below b', **values)


def test_the_first_values_that_break_the_rule_are_named():
  check(a=1.0, b=2.0)
  with pytest.raises(ValueError, match='^a is 3, b is 2: a must be below b$'):
    check(a=np.array([1.0, 3.0, 4.0]), b=2.0)


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


@dj.pytree_dataclass
@dataclasses.dataclass(frozen=True)
class Line:
  offset: Any
  slope: Any = 2.0
  power: int = dataclasses.field(default=1, metadata={'static': True})

  def __call__(self, t):
    return self.offset + self.slope * t**self.power


def numbered(i, traces):
  """Returns an object of a class that only differs by a method."""

  @dj.pytree_dataclass
  @dataclasses.dataclass(frozen=True)
  class Numbered:
    offset: float = 0.0

    def number(self):
      traces.append(i)
      return self.offset

  return Numbered()


@pytest.mark.parametrize('shape', ((), (2,), (1, 3), (2, 3)))
def test_a_weighted_sum_is_over_the_numbers_of_each_example(shape):
  rng = np.random.default_rng(0)
  weight, x = rng.normal(size=shape), rng.normal(size=(2, 3, 4))
  expected = (weight.reshape(shape + (1,) * (3 - len(shape))) * x).sum(axis=(1, 2))
  assert_allclose(weighted_sum(jnp.asarray(weight), jnp.asarray(x)), expected, rtol=1e-5)


def test_jit_distinguishes_classes():
  """jit confuses 2 to 6 of 40 with jax.tree_util.register_dataclass."""
  traces = []
  number = jax.jit(lambda obj: obj.number())
  for i in range(40):
    number.trace(numbered(i, traces))
  assert traces == list(range(40))


def test_fields_are_leaves_with_names_and_static_ones_structure():
  line = Line(1.0, power=3)
  paths = jax.tree_util.tree_flatten_with_path(line)[0]
  named = {jax.tree_util.keystr(path): leaf for path, leaf in paths}
  assert named == {'.offset': 1.0, '.slope': 2.0}
  assert jax.tree.map(lambda x: 2 * x, line) == Line(2.0, 4.0, power=3)
  assert jax.tree.structure(line) != jax.tree.structure(Line(1.0, power=2))
