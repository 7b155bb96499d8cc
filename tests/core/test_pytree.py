"""Dataclasses as arguments of jitted functions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

import diffusion_jax as dj


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


def test_jit_grad_and_vmap_see_the_fields():
  value, slopes = jax.jit(jax.value_and_grad(lambda f, t: f(t)))(
    Line(1.0, power=3), 2.0
  )
  assert value == 17.0
  assert slopes == Line(1.0, 8.0, power=3)
  lines = Line(jnp.arange(3.0), jnp.ones(3))
  assert jax.vmap(lambda f: f(1.0))(lines).tolist() == [1.0, 2.0, 3.0]
