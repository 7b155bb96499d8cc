"""Which equation of which paper a test compares a function with: rows of docs/equations.md.

    @transcribes('DDIM (Song et al. 2021)', '12, 16: one step, σ(η)', '`ddim(eta)`')
    def test_ddim_eq_12_and_16():

`python docs/tables.py` writes the rows. Several tests of a row have equal papers and
equations; one of them names the functions.
"""

import ast
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

ROOT = Path(__file__).parent.parent
_Test = TypeVar('_Test', bound=Callable)


class Row(NamedTuple):
  """An equation: its paper, what it is, the functions in Markdown, and (file, test) of each."""

  paper: str
  equation: str
  functions: str
  tests: list[tuple[str, str]]


def transcribes(paper: str, equation: str, functions: str = '') -> Callable[[_Test], _Test]:
  """Marks a test of an equation; the mark is read from its source."""
  return lambda test: test


@functools.cache
def rows() -> list[Row]:
  """Returns the marks of all tests in the order of papers and equations."""
  marked: dict[tuple[str, str], Row] = {}
  for path in sorted((ROOT / 'tests').rglob('test_*.py')):
    source = path.read_text()
    left = source.count('@transcribes(')
    for name, paper, equation, functions in _marks(source) if left else ():
      row = marked.get((paper, equation), Row(paper, equation, '', []))
      row.tests.append((path.relative_to(ROOT).as_posix(), name))
      marked[paper, equation] = row._replace(functions=row.functions or functions)
      left -= 1
    if left:
      raise ValueError(f'{path}: @transcribes(...) marks a function that is no test of its own')
  return sorted(marked.values(), key=lambda row: (_words(row.paper), _words(row.equation)))


def _marks(source):
  for test in ast.parse(source).body:
    if isinstance(test, ast.FunctionDef) and test.name.startswith('test_'):
      for mark in test.decorator_list:
        if isinstance(mark, ast.Call) and getattr(mark.func, 'id', '') == 'transcribes':
          texts = [*map(ast.literal_eval, mark.args), '']
          yield test.name, *texts[:3]


def _words(text):
  # Numbers of equations come first, in their order.
  first = text.replace(',', ' ').replace(':', ' ').split()[0].strip('[]')
  return (int(first), text) if first.isdigit() else (10**6, text.strip('[').lower())
