"""Formulas as trees: NumPy functions traced, changed, computed and written as in a paper.

tree = trace(lambda x0, bar: np.sqrt(bar) * x0)
text(replaced(tree, (0,), lambda root: root.args[0]), {'bar': 'ᾱ_t', 'x0': 'x_0'})  # ᾱ_t x_0
"""

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr

Path = tuple[int, ...]  # the index of an argument of the root, of an argument of it, …


class Term(NamedTuple):
  """A symbol, whose `function` is its name, or a function of `args`: terms and numbers."""

  function: Any
  args: tuple[Any, ...] = ()
  kwargs: tuple[tuple[str, Any], ...] = ()


class _Traced(np.lib.mixins.NDArrayOperatorsMixin):
  # Stands for an array: NumPy's functions of it return what they were called with.
  def __init__(self, term: Term):
    self.term = term

  def __array_ufunc__(self, ufunc, method, *args, **kwargs):
    return _record(ufunc, args, kwargs) if method == '__call__' else NotImplemented

  def __array_function__(self, function, types, args, kwargs):
    return _record(function, args, kwargs)

  def __call__(self, *args):
    return _record(call, (self, *args), {})


def _record(function, args, kwargs):
  terms = (x.term if isinstance(x, _Traced) else x for x in args)
  return _Traced(Term(function, tuple(terms), tuple(kwargs.items())))


def call(function: Callable, *args: Any) -> Any:
  """Calls an argument of a formula, such as a model."""
  return function(*args)


def several(*numbers: Any) -> np.ndarray:
  """Returns the numbers that a formula returns as a tuple, [N]."""
  return np.array(numbers)


def whole(function: Callable, name: str, elementwise: bool = True) -> Callable:
  """Returns a function that `trace` takes for one step, without what it is made of.

  elementwise: whether it broadcasts and computes each number by itself, as NumPy's ufuncs do.
  """

  def step(*args):
    traced = any(isinstance(x, _Traced) for x in args)
    return _record(step, args, {}) if traced else function(*args)

  step.__name__ = name
  step.elementwise = elementwise
  return step


def name_of(value: Any, name: str) -> Any:
  """Returns the value, which a trace writes by its name."""
  return value


def named(value: Any, name: str) -> Any:
  """Gives a number of a formula a name."""
  return _record(name_of, (value, name), {}) if isinstance(value, _Traced) else value


def trace(formula: Callable) -> Term:
  """Returns what a function computes, a tree whose symbols are its parameters."""
  result = formula(**{name: _Traced(Term(name)) for name in inspect.signature(formula).parameters})
  return (_record(several, result, {}) if isinstance(result, tuple) else result).term


def compute(term: Any, numbers: Mapping[str, Any], memo: dict[int, Any]) -> Any:
  """Computes a term; memo: values of terms by their `id`, of terms that are kept elsewhere."""
  if not isinstance(term, Term):
    return term
  if id(term) in memo:
    return memo[id(term)]
  if isinstance(term.function, str):
    return numbers[term.function]
  args = [compute(x, numbers, memo) for x in term.args]
  return term.function(*args, **dict(term.kwargs))


def compute_each(
  term: Any, numbers: Mapping[str, Any], memo: dict[int, Any], rows: Mapping[str, np.ndarray]
) -> tuple[Any, bool]:
  """Computes a term for each row of some symbols at once.

  rows: values [N, ...] of the symbols; numbers, memo: as in `compute`, of the others.

  Returns:
    (values [N, ...], True), or (the value, False) of a term without these symbols.
  """
  if not isinstance(term, Term):
    return term, False
  if isinstance(term.function, str) and term.function in rows:
    return rows[term.function], True
  if id(term) in memo or isinstance(term.function, str):
    return compute(term, numbers, memo), False
  args, in_rows = zip(*(compute_each(x, numbers, memo, rows) for x in term.args), strict=True)
  if any(in_rows):
    return _of_rows(term.function, args, in_rows, dict(term.kwargs)), True
  return term.function(*args, **dict(term.kwargs)), False


def _of_rows(function, args, in_rows, kwargs):
  x = args[0]
  ufunc = isinstance(function, np.ufunc) and function.signature is None
  if ufunc or function is np.where or getattr(function, 'elementwise', False):
    return function(*_aligned(args, in_rows), **kwargs)
  if function in (np.sum, np.mean):
    axis = tuple(range(1, x.ndim)) if args[1:] in ((), (None,)) else args[1] + 1
    return function(x, axis)
  if function is several:
    return np.stack(np.broadcast_arrays(*_aligned(args, in_rows)), 1)
  rows = (x if many else itertools.repeat(x) for x, many in zip(args, in_rows, strict=True))
  return np.array([function(*row, **kwargs) for row in zip(*rows, strict=False)])


def _aligned(args, in_rows):
  # Axes of the rows come first, before those that NumPy would broadcast.
  ranks = [getattr(x, 'ndim', 0) - many for x, many in zip(args, in_rows, strict=True)]
  rank = max(ranks)
  return [
    x.reshape(x.shape[:1] + (1,) * (rank - own) + x.shape[1:]) if many and own < rank else x
    for x, many, own in zip(args, in_rows, ranks, strict=True)
  ]


def walk(term: Term, path: Path = ()) -> Iterator[tuple[Path, Term]]:
  """Returns all terms with their paths, from the root."""
  yield path, term
  for i, argument in enumerate(term.args):
    if isinstance(argument, Term):
      yield from walk(argument, (*path, i))


def at(term: Term, path: Path) -> Any:
  """Returns the term at a path."""
  for i in path:
    term = term.args[i]
  return term


def replaced(term: Any, path: Path, change: Callable[[Any], Any]) -> Any:
  """Returns the tree with `change` of the term at a path."""
  if not path:
    return change(term)
  args = list(term.args)
  args[path[0]] = replaced(args[path[0]], path[1:], change)
  return term._replace(args=tuple(args))


_SUM, _PRODUCT, _POWER, _ATOM = range(4)  # how tightly the outermost operator of a term binds
_NUMBERS = {
  0.5: '½',
  2 * np.pi: '2π',
  1 / 510: '1/510',
  1 / 255: '1/255',
  2 / 255: '2/255',
  np.pi: 'π',
}


def text(term: Any, names: Mapping[str, str]) -> str:
  """Writes a term as a paper does, with the names of symbols."""
  return _text(term, names)[0]


def _text(term, names):
  if not isinstance(term, Term):
    if not isinstance(term, float | int):
      return str(term), _ATOM
    sign = '−' if term < 0 else ''
    return sign + (_NUMBERS.get(abs(term)) or f'{abs(term):.6g}'), _ATOM
  if isinstance(term.function, str):
    return names.get(term.function, term.function), _ATOM

  def of(i, least):
    written, binding = _text(term.args[i], names)
    return written if binding >= least else f'({written})'

  function = term.function
  if function is name_of:
    return term.args[1], _ATOM
  if function is np.add and not isinstance(term.args[1], Term) and term.args[1] < 0:
    return f'{of(0, _SUM)} − {_text(-term.args[1], names)[0]}', _SUM
  if function is np.add:
    return f'{of(0, _SUM)} + {of(1, _SUM)}', _SUM
  if function is np.subtract:
    inner = term.args[1]
    if term.args[0] == 1 and getattr(inner, 'function', None) is np.subtract and inner.args[0] == 1:
      return _text(inner.args[1], names)  # 1 − (1 − x)
    return f'{of(0, _SUM)} − {of(1, _PRODUCT)}', _SUM
  if function is np.positive:
    return _text(term.args[0], names)
  if function is np.negative:
    return f'−{of(0, _PRODUCT)}', _SUM
  if function in (np.multiply, np.matmul, np.tensordot):
    fraction = getattr(term.args[1], 'function', None) in (np.divide, np.matmul, np.sum)
    sign = '' if function is np.multiply else 'Σ '
    return f'{sign}{of(0, _PRODUCT)} {of(1, _POWER if fraction else _PRODUCT)}', _PRODUCT
  if function is np.divide:
    return f'{of(0, _PRODUCT)} / {of(1, _POWER)}', _PRODUCT
  if function is np.power and term.args[1] == 2:
    return f'{of(0, _ATOM)}²', _POWER
  if function is np.power:
    return f'{of(0, _ATOM)}^{of(1, _ATOM)}', _POWER
  if function is np.sqrt:
    return f'√{of(0, _ATOM)}', _POWER
  if function is np.log:
    return f'log {of(0, _ATOM)}', _PRODUCT
  if function is np.sum:
    return f'Σ {of(0, _POWER)}', _PRODUCT
  if function in (np.greater, np.less):
    return f'[{of(0, _SUM)} {">" if function is np.greater else "<"} {of(1, _SUM)}]', _ATOM
  name = 'Φ' if function is ndtr else function.__name__
  parts = [_text(x, names)[0] for x in term.args]
  if function is call:
    name, *parts = parts
  return f'{name}({", ".join(parts)})', _ATOM
