"""The parameters of constructors are fields, with their types and defaults."""

import functools

from flax import linen as nn

from diffusion_jax.app.config.schema import parameters
from tests.app.config.test_tree import disc


def test_parameters_that_are_bound_and_those_of_every_module_are_no_fields():
  class Module(nn.Module):
    width: int = 3

  assert [*parameters(Module)] == ['width']
  assert [*parameters(functools.partial(disc, steps=1))] == ['count', 'radius']
  assert [*parameters(lambda a, *rest, b=1, **more: None)] == ['a', 'b']
