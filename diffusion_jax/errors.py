"""The two exceptions that the command line turns into a message."""


class UserError(Exception):
  """A mistake in what the user gave: the message is printed, no traceback."""


class Preempted(Exception):
  """Raised after a signal, with everything saved: the exit code is 42."""
