"""Errors of files and values become the user's, with the first problem only."""

import pytest

from diffusion_jax.errors import UserError, as_user_error, naming, refuse


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


class OfALibrary(Exception):
  pass


def raised(error: Exception, cause: Exception | None = None):
  try:
    raise error from cause
  except type(error) as found:
    return found


@pytest.mark.parametrize('error, reason', [
  (Exception('it is cut\n  at byte 3'), 'it is cut at byte 3'),
  (OfALibrary(), 'OfALibrary'),
  (OSError(5, 'Input/output error', '/a/b'), 'Input/output error'),
  (MemoryError('Unable to allocate 9 GiB'), 'Unable to allocate 9 GiB'),
  (UserError('one line'), 'one line'),
  (raised(Exception('in array 3 of {...}'), ValueError('it is cut')), 'it is cut'),
])  # fmt: skip
def test_any_error_of_a_library_is_one_of_a_value_at_its_door(error, reason):
  with pytest.raises(ValueError) as found, naming('a.npz cannot be read'):
    raise error
  assert str(found.value) == f'a.npz cannot be read: {reason}'


def test_what_fills_a_device_is_not_of_the_file():
  """Also if a library wraps the error."""
  full = RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes')
  for error in (full, raised(Exception('in array 3'), full)):
    with pytest.raises(type(error)) as found, naming('checkpoint 3 cannot be read'):
      raise error
    assert found.value is error
  with pytest.raises(KeyboardInterrupt), naming('checkpoint 3 cannot be read'):
    raise KeyboardInterrupt
