"""The two exceptions that the command line reports without a traceback."""

import contextlib
import traceback
from collections.abc import Callable, Iterable, Iterator

OWN: set[str | None] = set()  # the files of parts of the user's own


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


def reason_of(error: Exception) -> str:
  """Returns what an error says in one line, without the name of a file; of a cause, if it has one.

  The cause of an error of a library says most.
  """
  error = error.__cause__ if isinstance(error.__cause__, Exception) else error
  text = (isinstance(error, OSError) and error.strerror) or str(error)
  return ' '.join(text.split())[:400] or type(error).__name__


def fills_device(error: BaseException | None) -> bool:
  """Returns whether an error, or its cause, says that the memory of a device is used up."""
  return error is not None and ('RESOURCE_EXHAUSTED' in str(error) or fills_device(error.__cause__))


@contextlib.contextmanager
def naming(what: str, reason: Callable[[Exception], str] = reason_of) -> Iterator[None]:
  """Turns any error of a library, or of a file that it reads, into ValueError('<what>: <reason>').

  A library raises errors of its own, of other libraries and of Python, of which no list is
  whole. What `fills_device` is no fault of the file, and passes.
  """
  try:
    yield
  except Exception as error:
    if fills_device(error):
      raise
    raise ValueError(f'{what}: {reason(error)}') from None


@contextlib.contextmanager
def beginning(start: str) -> Iterator[None]:
  """Lets the message of a UserError begin with start."""
  try:
    yield
  except UserError as error:
    raise UserError(f'{start}{error}') from error


@contextlib.contextmanager
def importing_program() -> Iterator[None]:
  """Turns a package that a base install lacks into a UserError with the command to type."""
  try:
    yield
  except ModuleNotFoundError as error:
    if (error.name or '').partition('.')[0] in ('diffusion_jax', ''):
      raise
    what = f'the program needs {error.name}, which the library does not'
    raise UserError(f"{what}: in the checkout, pip install -e '.[program]'") from error


def place_of(error: BaseException) -> str:
  """Returns ' (<file>, line <n>)' where a part of the user's own raised, or ''."""
  frames = [x for x in traceback.extract_tb(error.__traceback__) if x.filename in OWN]
  return f' ({frames[-1].filename}, line {frames[-1].lineno})' if frames else ''


class Preempted(Exception):
  """A signal stopped the program after it saved everything; exit code 42."""
