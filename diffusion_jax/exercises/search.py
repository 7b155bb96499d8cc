"""Which slips of a formula make a learner's results: the nearest one, or two.

All pairs of slips are tried. A place of the formula becomes a symbol that has the values of all
its slips, so that all pairs of two places cost one evaluation.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.exercises import terms
from diffusion_jax.exercises.slips import Slip, Symbols, applied, is_addend, slips
from diffusion_jax.exercises.terms import Path, Term

MOST_COST = 3  # of two slips together
# What a change raises that does not fit a formula: other shapes, another structure.
_MISFITS = ValueError, TypeError, AttributeError, IndexError


class Explanations(NamedTuple):
  """What slips of a formula make, computed once.

  singles: slips with their values at all inputs; pairs: computes two slips at the last input, that
  change the results of these indices if there are several; values: computes a changed formula at
  all inputs, None if most are not finite.
  """

  tree: Term
  symbols: Symbols
  singles: list[tuple[Slip, list[np.ndarray]]]
  pairs: Callable[[frozenset[int]], list['TermPairs']]
  values: Callable[[Term], list[np.ndarray] | None]


class TermPairs(NamedTuple):
  """Each of some slips and then each of others: what they make of a formula at one input.

  values: [len(firsts) * len(seconds), ...], in the order of two nested loops.
  """

  firsts: Sequence[Slip]
  seconds: Sequence[Slip]
  values: np.ndarray

  def __getitem__(self, i):
    return self.firsts[i // len(self.seconds)], self.seconds[i % len(self.seconds)]


def explanations(
  tree: Term, symbols: Symbols, numbers: Sequence[Mapping[str, Any]], singly: bool
) -> Explanations:
  """Returns what slips of a formula make; numbers: the values of symbols at each input."""
  memos: list[dict[int, Any]] = []
  for known in numbers:
    memos.append(memo := {})
    for _, term in [*terms.walk(tree)][::-1]:
      memo[id(term)] = terms.compute(term, known, memo)

  def values(changed):
    with np.errstate(all='ignore'):
      try:
        found = [
          np.asarray(terms.compute(changed, known, memo), np.float64)
          for known, memo in zip(numbers, memos, strict=True)
        ]
      except _MISFITS:
        return None
    finite = np.mean([np.isfinite(x).all() for x in found]) > 0.5
    return found if finite and any(np.any(x) for x in found) else None

  singles = []
  for slip in slips(tree, symbols):
    if (found := values(applied(tree, slip))) is not None:
      singles.append((slip, found))

  @functools.cache
  def pairs(wrong):
    def at_last(term, rows):
      return terms.compute_each(term, numbers[-1], memos[-1], rows)

    with np.errstate(all='ignore'):
      return [] if singly else [*_pairs(tree, singles, wrong, at_last)]

  return Explanations(tree, symbols, singles, pairs, values)


def nearest(
  known: Sequence[Explanations],
  fits: Callable[[list[np.ndarray]], bool],
  at_last: Callable[[np.ndarray], np.ndarray],
  count: int,
) -> list[str]:
  """Returns the names of what makes a learner's results, the cheapest: none, one or two.

  fits: whether values at all inputs are the learner's; at_last: which numbers of each row,
  [N, ...], are those at the last input; count: how many slips, 1 or 2.
  """
  searched = []
  for each in known:
    if count == 1:
      found = [(slip,) for slip, values in each.singles if fits(values)]
    else:
      wrong = _wrong(each, at_last)
      parts = [each.tree.args[k] for k in wrong] or each.tree
      if parts in searched:  # Another form differs in what is right.
        continue
      searched.append(parts)
      found = [block[i] for block in each.pairs(wrong) for i in _rows_of(at_last(block.values))]
      found = [two for two in found if _is_likely(*two)]
      found = [two for two in found if fits(each.values(applied(each.tree, *two)) or [])]
    if found:
      least = min(sum(slip.cost for slip in slips) for slips in found)
      named = {
        ', and '.join(described(each.tree, slip, each.symbols.names) for slip in slips): slips
        for slips in found
        if sum(slip.cost for slip in slips) == least
      }
      # What is left out is the commonest slip, and has the plainest name.
      names = sorted(named, key=lambda name: (' is missing' not in name, len(name)))
      return _apart({name: named[name] for name in names})
  return []


# --- two slips, many at once -------------------------------------------------------


class _Place(NamedTuple):
  # Slips of one term, the values that they give to it, [N, ...], and the least of their costs.
  paths: tuple[Path, ...]
  slips: list[Slip]
  values: np.ndarray
  cost: int


_Rows = Callable[[Term, Mapping[str, np.ndarray]], tuple[Any, bool]]


def _is_likely(a, b):
  return a.cost + b.cost <= MOST_COST or (a.wraps and b.wraps and a.paths == b.paths)


def _pairs(
  tree: Term,
  singles: Sequence[tuple[Slip, list[np.ndarray]]],
  wrong: frozenset[int],
  compute: _Rows,
) -> Iterator[TermPairs]:
  """Yields pairs of slips that can make a learner's results.

  wrong: which of several results both together must change; compute: `compute_each` at one
  input.
  """
  each = [slip for slip, _ in singles if not wrong or _changed(tree, slip.paths) & wrong]

  def cover(*slips):
    return wrong <= set().union(*(_changed(tree, slip.paths) for slip in slips))

  def block(changed, firsts, seconds, rows):
    try:
      values, in_rows = compute(changed, rows)
    except _MISFITS:
      return
    if in_rows:
      yield TermPairs(firsts, seconds, np.asarray(values, np.float64))

  if len(wrong) == 2:  # One of each: what they make is known.
    i, j = wrong
    firsts, seconds = (
      [(slip, values[-1]) for slip, values in singles if _changed(tree, slip.paths) == {k}]
      for k in (i, j)
    )
    if firsts and seconds:
      (a, of_a), (b, of_b) = (zip(*x, strict=True) for x in (firsts, seconds))
      values = np.repeat(np.stack(of_a), len(b), 0)
      values[:, j] = np.tile(np.stack(of_b)[:, j], len(a))
      yield TermPairs(a, b, values)
  places, elsewhere = _places(tree, each, compute)
  for a, b in itertools.combinations(places, 2):
    apart = len(wrong) == 2 and len(_changed(tree, a.paths)) == 1 == len(_changed(tree, b.paths))
    likely = a.cost + b.cost <= MOST_COST
    if likely and cover(a, b) and not apart and not _meet(a.paths, b.paths):
      rows = {
        '#a': np.repeat(a.values, len(b.slips), 0),
        '#b': np.tile(b.values, (len(a.slips),) + (1,) * (b.values.ndim - 1)),
      }
      yield from block(applied(tree, _marked(a, '#a'), _marked(b, '#b')), a.slips, b.slips, rows)
  for outer in each:
    for a in places:
      if cover(a, outer) and _follows(outer, a.paths):
        try:
          changed = applied(tree, _marked(a, '#a'), outer)
        except _MISFITS:  # it needs what the first slip makes
          for slip in a.slips:
            with contextlib.suppress(*_MISFITS):
              value = np.asarray(compute(applied(tree, slip, outer), {})[0], np.float64)
              yield TermPairs([slip], [outer], value[None])
        else:
          yield from block(changed, a.slips, [outer], {'#a': a.values})
  for first in elsewhere:
    changed = applied(tree, first)
    rest = [slip for slip in each if slip.wraps or not set(slip.paths) & set(first.paths)]
    for b in _places(changed, rest, compute)[0]:
      if cover(first, b):
        yield from block(applied(changed, _marked(b, '#b')), [first], b.slips, {'#b': b.values})


def _places(tree, each, compute):
  # The slips of one term by their place, and those of several terms.
  found, elsewhere = {}, []
  for slip in each:
    if len({terms.at(tree, path) for path in slip.paths}) > 1:
      elsewhere.append(slip)
      continue
    with contextlib.suppress(*_MISFITS):
      value = np.asarray(compute(slip.change(terms.at(tree, slip.paths[0])), {})[0], np.float64)
      found.setdefault((slip.paths, value.shape), []).append((slip, value))
  places = []
  for (paths, _), row in found.items():
    some, values = zip(*row, strict=True)
    least = min(slip.cost for slip in some)
    places.append(_Place(paths, [*some], np.stack(values), least))
  return places, elsewhere


def _marked(place, name):
  # Its arguments are None, so that a slip which looks at them fails.
  unreadable: Any = None
  return Slip(place.paths, lambda term: Term(name, unreadable))


def _inside(paths, others):
  return any(p[: len(q)] == q for p in paths for q in others)


def _meet(paths, others):
  return _inside(paths, others) or _inside(others, paths)


def _changed(tree, paths):
  # Which of several results slips at some paths change.
  several = tree.function is terms.several
  return {k for k in range(len(tree.args)) if several and {(), (k,)} & {path[:1] for path in paths}}


def _follows(outer, paths):
  # Whether a slip can be made of what slips at some paths make.
  return _inside(paths, outer.paths) and (outer.wraps or not set(paths) & set(outer.paths))


def _wrong(each, at_last):
  # The indices of several results that are wrong at the last input.
  right = each.values(each.tree)[-1]
  several = each.tree.function is terms.several
  return frozenset(np.flatnonzero(~at_last(right[None])).tolist() if several else ())


def _rows_of(same):
  # The rows in which all numbers are the learner's.
  return np.flatnonzero(same.reshape(len(same), -1).all(1))


def _apart(named):
  # Two names of slips in different places; in one place they are the same in other words.
  (first, slips), *others = named.items()
  places = [path for slip in slips for path in slip.paths]
  for name, two in others:
    paths = [path for slip in two for path in slip.paths]
    if not any(p[: len(q)] == q or q[: len(p)] == p for p in places for q in paths):
      return [first, name]
  return [first]


def described(tree: Term, slip: Slip, names: Mapping[str, str]) -> str:
  """Returns the name of a slip."""
  path = slip.paths[0]
  old = terms.at(tree, path)
  part = terms.text(old.args[slip.part], names) if slip.part < len(old.args) else ''
  changed = applied(tree, slip)
  once = len({id(terms.at(tree, p[:-1])) for p in slip.paths}) == 1
  # The terms are shown with the root, the square or the 1 − around them.
  while once and path and _belongs_to(terms.at(tree, path[:-1])):
    path = path[:-1]
  old, new = (terms.text(terms.at(x, path), names) for x in (tree, changed))
  words = slip.words.replace('{old}', old).replace('{new}', new).replace('{part}', part)
  while path and not is_addend(terms.at(tree, path[:-1])):
    path = path[:-1]
  around = terms.text(terms.at(tree, path), names)
  return f'{words}, in {around}' if once and around not in words and len(around) < 90 else words


def _belongs_to(parent):
  one = parent.function is np.subtract and not isinstance(parent.args[0], Term)
  return one or parent.function in (np.sqrt, np.power)
