"""Errors of files and values become the user's, with the first problem only."""

import pytest

from diffusion_jax.errors import UserError, as_user_error, refuse


def test_the_first_problem_is_raised_and_the_others_are_not_looked_for():
  refuse([])

  def problems():
    yield 'one'
    pytest.fail('the second problem is looked for')

  with pytest.raises(UserError, match='^one$'):
    refuse(problems())


@pytest.mark.parametrize('error', [FileNotFoundError('no file'), ValueError('no file')])
def test_errors_of_files_and_values_are_the_users(error):
  with pytest.raises(UserError, match='^there: no file$'), as_user_error('there: '):
    raise error
