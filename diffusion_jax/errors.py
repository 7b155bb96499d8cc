"""The two exceptions that the command line reports without a traceback."""

import contextlib
from collections.abc import Iterable, Iterator


class UserError(Exception):
  """Invalid input from the user: the message is printed, the exit code is 2."""


def refuse(problems: Iterable[str]) -> None:
  """Raises UserError with the first problem, if there is one."""
  for problem in problems:
    raise UserError(problem)


@contextlib.contextmanager
def as_user_error(start: str = '') -> Iterator[None]:
  """Turns FileNotFoundError and ValueError into a UserError that begins with start."""
  try:
    yield
  except (FileNotFoundError, ValueError) as error:
    raise UserError(f'{start}{error}') from error


class Preempted(Exception):
  """A signal stopped the program after it saved everything; exit code 42."""
