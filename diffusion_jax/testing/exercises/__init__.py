"""Exercises of the derivation of diffusion models, and a checker that names misprints.

    from diffusion_jax.testing import exercises

    exercises.names()  # 24, in the order of lecture notes
    exercises.ask('q_sample')  # prints the statement
    exercises.check('q_sample', my_function)  # prints what is wrong

From a shell: `python -m diffusion_jax.testing.exercises`, with a name for its statement or with a
file whose functions have the names of exercises.
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.errors import place_of
from diffusion_jax.ranges import near
from diffusion_jax.testing.exercises.entries import EXERCISES
from diffusion_jax.testing.exercises.inputs import ARGUMENTS, NUM_CASES, draw, outcomes

_OF_NAME = {exercise.signature.partition('(')[0]: exercise for exercise in EXERCISES}


class Verdict(NamedTuple):
  """Whether a function is right, which is also the truth value, and a sentence that says why."""

  right: bool
  message: str

  def __bool__(self) -> bool:
    return self.right

  def __repr__(self) -> str:  # A shell shows it below the sentence.
    return 'right' if self.right else 'wrong'


class _Fault(Exception):
  """The first fault of a function, in words."""


def names() -> list[str]:
  """Returns the names of the exercises, in the order of lecture notes."""
  return list(_OF_NAME)


def ask(name: str) -> None:
  """Prints an exercise: the signature, the statement, shapes and units of the arguments.

  Raises ValueError for a name that no exercise has.
  """
  exercise = _exercise(name)
  print(f'{names().index(name) + 1}. {exercise.signature}\n\n{exercise.statement}\n')
  for argument in draw(exercise, 0):
    print(f'  {argument}: {ARGUMENTS[argument]}')
  print(f'\nArrays are NumPy arrays, [D] of D numbers. Check yours: exercises.check({name!r}, f)')


def inputs(name: str) -> list[dict[str, Any]]:
  """Returns the inputs of `check` in turn, {argument: value} in the order of the signature.

  Raises ValueError for a name that no exercise has.
  """
  exercise = _exercise(name)
  return [draw(exercise, case) for case in range(NUM_CASES)]


def check(name: str, function: Callable[..., Any]) -> Verdict:
  """Compares a function with the closed form, prints a sentence and returns the verdict.

  The function may use NumPy, JAX in float32 or plain Python: it must agree to 1e-4 of the largest
  number. If it is wrong the sentence names its misprint, or the first input at which it differs,
  with both numbers. Raises ValueError for a name that no exercise has.
  """
  exercise = _exercise(name)
  try:
    _judge(name, exercise, function)
    verdict = Verdict(True, f'{name} is right, at {NUM_CASES} inputs')
  except _Fault as fault:
    verdict = Verdict(False, ' '.join(f'{name} is wrong: {fault}'.split()))
  print(verdict.message)
  return verdict


def _exercise(name):
  if name not in names():
    raise ValueError(f'no exercise has the name {name!r}{near(name, names())}')
  return _OF_NAME[name]


def _judge(name, exercise, function):
  cases = inputs(name)
  tables = [outcomes(exercise, case) for case in cases]
  answers = [table[''] for table in tables]
  results = [_result(function, *pair) for pair in zip(cases, answers, strict=True)]

  def fit(values):
    return [
      np.allclose(x, y, 0, 1e-4 * _largest(y) + exercise.error, equal_nan=True)
      for x, y in zip(results, values, strict=True)
    ]

  right = fit(answers)
  if all(right):
    return
  # A fault where t = 1, the first case, may hide a misprint in the others.
  finite = np.isfinite(np.stack(results[1:])).all()
  for cut in (0, 1) if finite else (0,):
    for text in tables[0]:
      if not all(right[cut:]) and all(fit([table[text] for table in tables])[cut:]):
        raise _Fault(text)
  again = _result(function, cases[-1], answers[-1])
  if not np.array_equal(results[-1], again, equal_nan=True):
    raise _Fault('a second call returns other numbers: all noise is in the arguments')
  first = right.index(False)
  ratio = np.sum(results[first]) / (np.sum(answers[first]) or np.nan)
  if np.isfinite(ratio) and all(fit([ratio * answer for answer in answers])):
    raise _Fault(f'your numbers are {ratio:.4g} times the right ones, at each input')
  raise _Fault(
    f'it returns {_text(results[first])} where {_text(answers[first])} is right, '
    f'{_at(cases[first])} (exercises.inputs({name!r})[{first}])'
  )


def _result(function, case, answer):
  # Returns what a function returns in float64, in the shape of the answer.
  if not callable(function):
    kind = type(function).__name__
    raise _Fault(f'check needs a function, and this is of the type {kind}: pass f, not f(...)')
  given = copy.deepcopy(case)
  try:
    taken = inspect.signature(function)
  except (TypeError, ValueError):  # some functions of C have none
    taken = None
  by_name = taken is not None and {*taken.parameters} == {*given}
  args, kwargs = ((), given) if by_name else (given.values(), {})
  try:
    if taken is not None:
      taken.bind(*args, **kwargs)
  except TypeError:
    raise _Fault(f'it takes {taken}, and is called with ({", ".join(given)})') from None
  try:
    result = function(*args, **kwargs)
  except Exception as error:
    line = str(error).strip().partition('\n')[0]
    text = f'it raises {type(error).__name__}: {line}{place_of(error)}, {_at(case)}'
    raise _Fault(text) from error
  for argument, value in given.items():
    if not np.array_equal(value, case[argument]):
      raise _Fault(f'it changes its argument {argument} in place: compute on a copy')
  if result is None:
    raise _Fault('it returns None: is the return missing?')
  try:
    if np.asarray(result).dtype.kind in 'USc':  # texts, complex numbers
      raise TypeError
    value = np.asarray(result, np.float64)
  except (TypeError, ValueError):
    raise _Fault(f'it returns {result!r:.60}, which is not {_shape(answer)}') from None
  if value.shape != answer.shape and not value.size == answer.size == 1:
    raise _Fault(f'it returns {_shape(value)}: expected {_shape(answer)}')
  return value.reshape(answer.shape)


def _largest(array):
  return np.max(abs(array), where=np.isfinite(array), initial=0.0)


def _at(case):
  return 'at ' + ', '.join(f'{name} = {_text(value)}' for name, value in case.items())


def _shape(array):
  return f'an array of shape {list(array.shape)}' if array.ndim else 'a number'


def _text(value):
  if value is None or callable(value):
    return 'None' if value is None else 'a function'
  array = np.asarray(value)
  if array.size > 6:
    return _shape(array)
  return np.array2string(array, precision=6, separator=', ', max_line_width=10_000)
