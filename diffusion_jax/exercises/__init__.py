"""Exercises of the derivation of diffusion models, and a checker that names misprints.

    from diffusion_jax import exercises

    exercises.names()  # 31, in the order of lecture notes
    exercises.ask('q_sample')  # prints the statement
    exercises.check('q_sample', my_function)  # prints what is wrong

From a shell: `python -m diffusion_jax.exercises`, with a name for its statement or with a
file whose functions have the names of exercises.
"""

import copy
import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.errors import place_of
from diffusion_jax.exercises.entries import EXERCISES
from diffusion_jax.exercises.inputs import (
  ARGUMENTS,
  NUM_CASES,
  apply,
  draw,
  numbers,
  symbols,
)
from diffusion_jax.exercises.search import explanations, nearest
from diffusion_jax.exercises.terms import trace
from diffusion_jax.ranges import near

_OF_NAME = {exercise.name: exercise for exercise in EXERCISES}


# The error of types of 16 bits, and of what may have been computed with them.
_HALF = {'float16': 4e-3, 'bfloat16': 3e-2, 'float32': 4e-3}


class Verdict(NamedTuple):
  """Whether a function is right, which is also the truth value, and a sentence that says why.

  slip: the name of what is wrong, or of two things that are as near; '' if none is known. For a
  right function it is '' or a word about its precision.
  """

  right: bool
  message: str
  slip: str = ''

  def __bool__(self) -> bool:
    return self.right

  def __repr__(self) -> str:  # A shell shows it below the sentence.
    return 'right' if self.right else 'wrong'


class _Fault(Exception):
  """The first fault of a function, in words, and the slip that makes it."""


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
    precision = _judge(name, exercise, function)
    words = precision or f'right, at {NUM_CASES} inputs'
    verdict = Verdict(True, f'{name} is {words}', precision)
  except _Fault as fault:
    words, *slip = fault.args
    verdict = Verdict(False, ' '.join(f'{name} is wrong: {words}'.split()), *slip)
  print(verdict.message)
  return verdict


def _exercise(name):
  if name not in names():
    raise ValueError(f'no exercise has the name {name!r}{near(name, names())}')
  return _OF_NAME[name]


def _judge(name, exercise, function):
  # Returns a word about precision, or raises what is wrong.
  cases = inputs(name)
  answers = _at_inputs(exercise, exercise.answer)
  results, kinds = zip(*map(functools.partial(_result, function), cases, answers), strict=True)

  def fit(values, error=1e-4):  # yields: most values differ at the first input
    for x, y in zip(results[-len(values) :], values, strict=True):
      bound = error * _largest(y) + exercise.error
      yield x.shape == y.shape and bool(np.all(_near(x, y, bound)))

  def at_last(rows):
    x = results[-1]
    if rows.shape[1:] != x.shape:
      return np.zeros(len(rows), bool)
    finite = np.where(np.isfinite(rows), abs(rows), 0.0).reshape(len(rows), -1)
    error = 1e-4 * np.max(finite, 1, initial=0.0) + exercise.error
    return _near(x, rows, error.reshape(-1, *(1,) * x.ndim))

  right = [*fit(answers)]
  if all(right):
    return ''
  kind = max(kinds, key=lambda kind: _HALF.get(kind, 0.0))
  rounded = all(fit(answers, _HALF.get(kind, 0.0)))
  if rounded and kind != 'float32':
    return f'right to {2 if kind == "bfloat16" else 3} digits: computed in {kind}, half precision'
  slip = _slip(name, fit, at_last, right)
  if slip:
    raise _Fault(slip, slip)
  if rounded:  # Of arrays of 16 bits and of Python's numbers JAX and NumPy may make float32.
    return 'right to 3 digits: as if computed in half precision'
  first = right.index(False)
  if results[first].shape != answers[first].shape:
    raise _Fault(f'it returns {_shape(results[first])}: expected {_shape(answers[first])}')
  if exercise.closed and all(fit(answers, 0.05)):
    raise _Fault(
      f'your numbers are near the right ones, as a mean over draws is: {exercise.closed}',
      'a mean over draws',
    )
  again, _ = _result(function, cases[-1], answers[-1])
  if not np.array_equal(results[-1], again, equal_nan=True):
    raise _Fault('a second call returns other numbers: all noise is in the arguments')
  ratio = np.sum(results[first]) / (np.sum(answers[first]) or np.nan)
  if ratio and np.isfinite(ratio) and all(fit([ratio * answer for answer in answers])):
    raise _Fault(f'your numbers are {ratio:.4g} times the right ones, at each input')
  raise _Fault(
    f'it returns {_text(results[first])} where {_text(answers[first])} is right, '
    f'{_at(cases[first])} (exercises.inputs({name!r})[{first}])'
  )


@functools.cache
def _explanations(name):
  exercise = _exercise(name)
  known = [numbers(exercise, case) for case in inputs(name)]
  trees = [trace(formula) for formula in (exercise.answer, *exercise.forms)]
  return [explanations(tree, symbols(exercise), known, exercise.singly) for tree in trees]


@functools.cache
def _misprints(name):
  exercise = _exercise(name)
  return {
    ' '.join(words.split()): _at_inputs(exercise, formula)
    for words, formula in exercise.misprints.items()
  }


def _at_inputs(exercise, formula):
  known = (numbers(exercise, case) for case in inputs(exercise.name))
  return [np.asarray(apply(formula, each), np.float64) for each in known]


def _slip(name, fit, at_last, right):
  # Names the slip, or two that are as near. A fault in only the first case, where t = 1, may hide
  # a misprint in the others.
  for cut, count in itertools.product((0, 1), (0, 1, 2)):
    if all(right[cut:]):
      continue

    def fits(values, cut=cut):
      first = cut if values[1:] else 0
      return bool(values) and all(itertools.islice(fit(values), first, None))

    if count == 0:
      found = [words for words, values in _misprints(name).items() if fits(values)]
    else:
      found = nearest(_explanations(name), fits, at_last, count)
    if found:
      return ', or '.join(found) + '; the first input has another fault' * (cut and not right[0])
  return ''


def _result(function, case, answer):
  # Returns what a function returns, in float64, and the name of its type.
  if not callable(function):
    kind = type(function).__name__
    raise _Fault(f'check needs a function, and this is of the type {kind}: pass f, not f(...)')
  given = copy.deepcopy(case)
  try:
    taken = inspect.signature(function)
  except (TypeError, ValueError):  # Some functions of C have no signature.
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
  value = value.reshape(answer.shape) if value.size == answer.size == 1 else value
  kind = np.asarray(result).dtype.name
  with np.errstate(over='ignore'):
    rounded = value.astype(np.float16)
  halved = kind == 'float64' and np.array_equal(rounded, value, equal_nan=True)
  return value, 'float16' if halved else kind


def _near(x, y, error):
  # Where numbers differ by at most an error, or both are none: twice as fast as `np.isclose`.
  with np.errstate(invalid='ignore'):
    return (abs(x - y) <= error) | (x == y) | (np.isnan(x) & np.isnan(y))


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
