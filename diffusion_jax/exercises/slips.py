"""A grammar of slips: what a formula becomes if one thing is written wrongly.

`slips` applies each rule to each term of a right formula. A rule knows operations and kinds of
symbols, and no exercise.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.exercises import terms
from diffusion_jax.exercises.terms import Path, Term

COMMON, RARE = 1, 2  # costs; of two explanations the cheaper is named
_BELONGS = '{new} where {old} belongs'
_ARITHMETIC = np.add, np.subtract, np.multiply, np.divide


class Slip(NamedTuple):
  """A change of the terms at some paths of a formula.

  words: names it, with {old}, {new}, the terms, and {part}, the argument `part` of the old one;
  wraps: whether it only adds something around the term.
  """

  paths: tuple[Path, ...]
  change: Callable[[Any], Any]
  words: str = _BELONGS
  cost: int = COMMON
  part: int = 0
  wraps: bool = False


class Symbols(NamedTuple):
  """What the symbols of a formula are.

  names: how they are written; levels: name => (family, index) of levels such as ᾱ_t;
  alike: arguments that may be taken for each other; positive: variances and the like;
  everywhere: (words, {symbol: symbol}), slips of all levels of a formula.
  """

  names: Mapping[str, str]
  levels: Mapping[str, tuple[str, str]]
  alike: Sequence[Sequence[str]]
  positive: Sequence[str]
  everywhere: Sequence[tuple[str, Mapping[str, str]]]


def slips(tree: Term, symbols: Symbols) -> list[Slip]:
  """Returns the slips of a formula: of all its levels, in one place, wherever a term is."""
  # A number that the function computes once and uses twice is in one place.
  places: dict[Any, list[Path]] = {}
  equal: dict[Term, list[Path]] = {}
  for path, term in terms.walk(tree):
    leaf = isinstance(term.function, str) and path
    place = (id(terms.at(tree, path[:-1])), path[-1]) if leaf else id(term)
    places.setdefault(place, []).append(path)
    equal.setdefault(term, []).append(path)
  found = [*_everywhere(tree, symbols)]
  for paths in places.values():
    for slip in _of_term(tree, paths[0], symbols):
      found.append(slip._replace(paths=tuple(paths)))
    if len(paths) > 1:
      found.append(Slip(tuple(paths), _put(1.0), '{old} is missing, everywhere'))
  for paths in equal.values():
    if paths not in places.values():
      for slip in _of_term(tree, paths[0], symbols):
        found.append(slip._replace(paths=tuple(paths), words=f'{slip.words}, everywhere'))
  return found


def applied(tree: Term, *changes: Slip) -> Term:
  """Returns the formula with slips, one after the other."""
  for slip in changes:
    for path in slip.paths:
      tree = terms.replaced(tree, path, slip.change)
  return tree


# --- rules ----------------------------------------------------------------------


def _of_term(tree, path, symbols):
  term, parent = terms.at(tree, path), terms.at(tree, path[:-1]) if path else None
  yield from _of_operation(term)
  yield from _of_reduction(term)
  yield from _of_extent(term)
  yield from _of_symbol(term, parent, symbols)
  if _is_level_like(term, symbols):
    yield from _of_level(term, parent, symbols)
  yield from _of_power(term, parent, symbols)
  if parent is None or is_addend(parent):
    yield from _of_factor(term, symbols)


def _slip(change, words=_BELONGS, cost=COMMON, **options):
  return Slip((), change, words, cost, **options)


def _put(other):
  return lambda term: other


def _pick(i):
  return lambda term: term.args[i]


def _as(function):
  return lambda term: Term(function, term.args)


def _reversed(function):
  return lambda term: Term(function, term.args[::-1])


def _argument(i, value):
  return lambda term: term._replace(args=(*term.args[:i], value, *term.args[i + 1 :]))


def _exchanged(i, j):
  def change(term):
    args = [*term.args]
    args[i], args[j] = args[j], args[i]
    return term._replace(args=tuple(args))

  return change


def _of_operation(term: Term) -> Iterator[Slip]:
  """Something left out, divided for multiplied, a wrong sign, another constant."""
  function, args = term.function, term.args
  if function is np.subtract and not isinstance(args[0], Term):  # 1 − x
    yield _slip(_pick(1))
    yield _slip(_as(np.add))
    yield _slip(_reversed(np.subtract))
    yield _slip(_pick(0), 'the term {part} is missing', part=1)
  elif function in (np.add, np.subtract):

    def minus(x):
      return Term(np.negative, (x,))

    added = function is np.add
    rest = _pick(1) if added else lambda term: minus(term.args[1])

    def negated(term):
      return Term(function, (minus(term.args[0]), term.args[1]))

    yield _slip(_pick(0), 'the term {part} is missing', part=1)
    yield _slip(rest, 'the term {part} is missing', part=0)
    yield _slip(_as(np.subtract if added else np.add), 'the sign of {part} is wrong', part=1)
    yield _slip(negated, 'the sign of {part} is wrong', part=0)
  elif function is np.multiply:
    yield _slip(_pick(1), 'the factor {part} is missing', part=0)
    yield _slip(_pick(0), 'the factor {part} is missing', part=1)
    yield _slip(_reversed(np.divide), '{part} divides where it multiplies', RARE, part=0)
    yield _slip(_as(np.divide), '{part} divides where it multiplies', RARE, part=1)
  elif function is np.divide:

    def inverse(term):
      return Term(np.divide, (1.0, term.args[1]))

    yield _slip(_pick(0), 'the divisor {part} is missing', part=1)
    yield _slip(inverse, 'the factor {part} is missing', part=0)
    yield _slip(_as(np.multiply), '{part} multiplies where it divides', RARE, part=1)
    yield _slip(_reversed(np.divide), cost=RARE)
  elif function is np.negative:
    yield _slip(_pick(0), 'the sign of {part} is wrong')
  elif function in (np.sqrt, np.power, np.log, np.exp):
    lost = {np.sqrt: 'root', np.power: 'square', np.log: 'logarithm', np.exp: 'exponential'}
    yield _slip(_pick(0), f'{_BELONGS}: the {lost[function]} is missing')
  elif function is terms.several:
    for i, j in itertools.combinations(range(len(args)), 2):
      yield _slip(_exchanged(i, j), f'results {i + 1} and {j + 1} are swapped')
  elif function is np.where:
    yield _slip(_pick(2), 'the case {part} is missing')
  for i, x in enumerate(args):
    if function in _ARITHMETIC and isinstance(x, float | int) and x not in (0, 1):
      yield _slip(_argument(i, 2.0 * x))
      yield _slip(_argument(i, 0.5 * x))


def less_one_mean(x: np.ndarray) -> np.ndarray:
  """Divides a sum by K − 1, as an estimate of a variance does."""
  return np.sum(x) / (np.size(x) - 1)


def _bessel(weights):
  return len(weights) / (len(weights) - 1)


def _of_reduction(term: Term) -> Iterator[Slip]:
  """A sum for a mean, Bessel's K − 1, another axis, another order of operations."""
  function, args = term.function, term.args

  def mean_of(function):
    return lambda term: Term(np.mean, (Term(function, term.args[:1]),))

  if function is np.matmul:

    def times_bessel(term):
      return Term(np.multiply, (Term(_bessel, term.args[:1]), term))

    yield _slip(lambda term: Term(np.mean, term.args[1:]), 'the weights {part} are missing')
    yield _slip(times_bessel, '{old} is times K / (K − 1), by Bessel')
  elif function is np.sum:
    yield _slip(_as(np.mean), 'a mean where a sum belongs')
    yield _slip(_pick(0), 'the sum is missing')
  elif function is np.mean:
    yield _slip(_as(np.sum), 'a sum where a mean belongs')
    yield _slip(_pick(0), 'the mean is missing')
    yield _slip(_as(less_one_mean), 'the sum is divided by K − 1 (Bessel), where a mean belongs')

    def outside(term):
      return Term(np.log, (mean_of(np.exp)(term),))

    yield _slip(mean_of(np.exp), 'the logarithm is missing in the mean of {part}', RARE)
    yield _slip(outside, 'the logarithm is outside the mean of {part}', RARE)
  if function in (np.sum, np.mean):
    x = args[0]
    if len(args) > 1:
      yield _slip(_argument(1, 1 - args[1]), 'a sum over another axis')
    if x.function in (np.power, np.sqrt, np.log, np.exp):

      def inner(term):
        return term._replace(args=(term.args[0].args[0], *term.args[1:]))

      yield _slip(lambda term: term.args[0]._replace(args=(inner(term), *x.args[1:])))
  elif function in (np.add, np.subtract):

    def inside(term):
      return Term(np.sum, (Term(function, (term.args[0], term.args[1].args[0])),))

    if isinstance(args[1], Term) and args[1].function is np.sum:
      yield _slip(inside, '{part} is inside the sum')


def _of_extent(term: Term) -> Iterator[Slip]:
  """An operation that reaches too far or not far enough: √a b for √(a b), a + b / c."""
  function, args = term.function, term.args
  linear = function in (np.multiply, np.divide)
  if not linear and function not in (np.sqrt, np.power, np.log, np.sum):
    return
  for i in (0, 1) if function is np.multiply else (0,):
    x = args[i]
    if isinstance(x, Term) and x.function in _ARITHMETIC[: 2 if linear else 4]:
      for reached in ((0,), (1,)) if linear else ((0,), (1,), (0, 1)):
        yield _slip(_spread(i, reached))


def _spread(i, reached):
  def change(term):
    x = term.args[i]

    def each(y):
      return term._replace(args=(*term.args[:i], y, *term.args[i + 1 :]))

    return x._replace(args=tuple(each(y) if j in reached else y for j, y in enumerate(x.args)))

  return change


def _of_symbol(term: Term, parent: Term | None, symbols: Symbols) -> Iterator[Slip]:
  """Another symbol, or another index."""
  function = term.function
  if function in symbols.levels:
    family, index = symbols.levels[function]
    for name, (other, place) in symbols.levels.items():
      near = other == family or place == index
      if name != function and (near or place in ('', '_s')):
        yield _slip(_put(Term(name)), cost=COMMON if near else RARE)
  elif isinstance(function, str):
    for name in itertools.chain(*(group for group in symbols.alike if function in group)):
      if name != function:
        yield _slip(_put(Term(name)))
    if function in ('t', 's'):
      compared = parent is not None and parent.function in (np.greater, np.less)
      for function in np.subtract, np.add:

        def step(term, function=function):
          return Term(function, (term, 1))

        yield _slip(step, cost=RARE if compared else COMMON)


def _is_level_like(term, symbols):
  leaves = [x.function for _, x in terms.walk(term) if isinstance(x.function, str)]
  return all(name in symbols.levels or name in symbols.positive for name in leaves)


def _variances(symbols, names):
  # Symbols of levels, and 1 − ᾱ.
  yield from (Term(name) for name in names if name in symbols.levels)
  for name in ('bar', 'bar_s'):
    if name in symbols.levels:
      yield Term(np.subtract, (1, Term(name)))


_NEAR = 'alpha', 'bar', 'beta', 'tilde', 'bar_s'


def _of_level(term: Term, parent: Term | None, symbols: Symbols) -> Iterator[Slip]:
  """Another variance, for a number that is made of levels and variances."""
  leaf = isinstance(term.function, str)
  common = term.function in (np.subtract, terms.name_of, 'beta', 'tilde')
  for other in _variances(symbols, () if leaf else _NEAR):
    if other != term:
      yield _slip(_put(other), cost=COMMON if common else RARE)
  if term.function in symbols.positive:
    yield _slip(_put(1.0), cost=RARE)
  if parent is None and not leaf:
    for name in _NEAR:
      yield _slip(_put(Term(np.sqrt, (Term(name),))), cost=RARE)
    yield _slip(lambda term: Term(np.ones_like, (term,)), '1 where {old} belongs')


def _of_power(term: Term, parent: Term | None, symbols: Symbols) -> Iterator[Slip]:
  """Yields slips by a root or a square too much, such as a variance for a deviation."""
  level_like = _is_level_like(term, symbols)
  signed = isinstance(term.function, str) and not level_like
  if signed or term.function is terms.several:
    return
  if parent is None or parent.function not in (np.sqrt, np.power):
    cost = COMMON if level_like else RARE
    root, square = (lambda x: Term(np.sqrt, (x,))), (lambda x: Term(np.power, (x, 2)))
    yield _slip(root, f'{_BELONGS}: a root too much', cost, wraps=True)
    yield _slip(square, f'{_BELONGS}: a square too much', cost, wraps=True)


def _of_factor(term: Term, symbols: Symbols) -> Iterator[Slip]:
  """A factor or a divisor too much, of an addend or of the whole."""
  if term.function in symbols.levels or term.function is terms.several:
    return

  def times(factor):
    return lambda term: Term(np.multiply, (factor, term))

  yield _slip(times(-1.0), 'the sign of {old} is wrong', wraps=True)
  for factor, name in ((2.0, '2'), (0.5, '½')):
    yield _slip(times(factor), f'a factor {name} too much', wraps=True)
  for level in _variances(symbols, _NEAR):
    for factor in (level, Term(np.sqrt, (level,))):
      name = terms.text(factor, symbols.names)

      def divided(term, factor=factor):
        return Term(np.divide, (term, factor))

      yield _slip(times(factor), f'a factor {name} too much', RARE, wraps=True)
      yield _slip(divided, f'a divisor {name} too much', RARE, wraps=True)


def _everywhere(tree: Term, symbols: Symbols) -> Iterator[Slip]:
  """Symbols exchanged in the whole formula: levels of another step, swapped arguments."""
  leaves = [(path, x.function) for path, x in terms.walk(tree) if isinstance(x.function, str)]
  renamings = [*symbols.everywhere]
  for group in symbols.alike:
    for a, b in itertools.combinations(group, 2):
      words = f'{symbols.names.get(a, a)} and {symbols.names.get(b, b)} are swapped'
      renamings.append((words, {a: b, b: a}))
  for words, names in renamings:
    paths = tuple(path for path, name in leaves if name in names)
    if paths:
      yield Slip(paths, lambda term, names=names: Term(names[term.function]), words)


def is_addend(parent: Term) -> bool:
  """Returns whether what a term is made of are addends, or several results."""
  return parent.function in (np.add, np.subtract, terms.several)
