import pytest

from diffusion_jax.errors import UserError, refuse


def test_the_first_problem_is_raised_and_the_others_are_not_looked_for():
  refuse([])

  def problems():
    yield 'one'
    pytest.fail('the second problem is looked for')

  with pytest.raises(UserError, match='^one$'):
    refuse(problems())
