"""The two exceptions that the command line reports without a traceback."""


class UserError(Exception):
  """Invalid input from the user: the message is printed, the exit code is 2."""


class Preempted(Exception):
  """A signal stopped the program after it saved everything; exit code 42."""
