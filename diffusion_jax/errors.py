"""The two exceptions that the command line reports without a traceback."""

from collections.abc import Iterable


class UserError(Exception):
  """Invalid input from the user: the message is printed, the exit code is 2."""


def refuse(problems: Iterable[str]) -> None:
  """Raises UserError with the first problem, if there is one."""
  for problem in problems:
    raise UserError(problem)


class Preempted(Exception):
  """A signal stopped the program after it saved everything; exit code 42."""
