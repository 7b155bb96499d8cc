"""The names of loops."""

import jax

from diffusion_jax.planning.loops import repeated, times_of


def test_a_loop_says_how_often_it_repeats():
  """In the scopes of its equation, among others."""

  def function(x):
    with jax.named_scope('outer'), jax.named_scope(repeated(12)):
      return jax.lax.while_loop(lambda a: a < x, lambda a: a + 1, 0)

  (scopes,) = {
    str(equation.source_info.name_stack)
    for equation in jax.make_jaxpr(function)(3).eqns
    if equation.primitive.name == 'while'
  }
  assert times_of(scopes) == 12
  assert times_of('outer/inner') == times_of('repeated_x_times') == 1
