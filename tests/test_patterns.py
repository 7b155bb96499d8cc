"""No pattern of the package backtracks without bound, whatever a file or a flag contains.

A pattern that can read one text in two ways tries all combinations of them before it gives up: 2^n
of n characters if the ways are of one loop, n^2 if they are of two loops in turn. The ways are
counted on the pattern's positions (Glushkov's automaton) as Weideman et al. 2016 do. Planted fault:
`([-+.\\deE]+\\s*)+` for a line of numbers.
"""

import ast
import itertools
import re
from collections import Counter
from pathlib import Path
from re import _constants as sre, _parser as parser  # pyright: ignore[reportAttributeAccessIssue]

import pytest

from diffusion_jax.data import cells, notations, set_files
from diffusion_jax.metrics import published

PACKAGE = Path(__file__).parent.parent / 'diffusion_jax'
CALLS = 'compile', 'match', 'fullmatch', 'search', 'sub', 'subn', 'split', 'findall', 'finditer'
# Every character of ASCII, and others of each category; they stand for all.
LETTERS = [*map(chr, range(128)), 'é', '中', '\u0663', '\xa0', '\u2028']
MOST_COPIES = 3  # of a part that may be repeated a limited number of times


class Positions:
  """A part of a pattern: where it begins and ends, in how many ways it is empty."""

  def __init__(self, first=(), last=(), empty=0):
    self.first, self.last, self.empty = Counter(first), Counter(last), empty


class Automaton:
  """The positions of a pattern, the letters of each, and in how many ways one follows another."""

  def __init__(self, pattern, flags=0):
    self.letters, self.follow = [], Counter()
    tree = parser.parse(pattern, flags)
    self.flags = tree.state.flags
    self.sequence(tree)

  def sequence(self, nodes):
    parts = Positions(empty=1)
    for node in nodes:
      parts = self.joined(parts, self.part(*node))
    return parts

  def joined(self, a, b):
    for (p, ways), (q, others) in itertools.product(a.last.items(), b.first.items()):
      self.follow[p, q] += ways * others
    first, last = Counter(a.first), Counter(b.last)
    for q, ways in b.first.items():
      first[q] += a.empty * ways
    for p, ways in a.last.items():
      last[p] += b.empty * ways
    return Positions(first, last, a.empty * b.empty)

  def part(self, kind, value):
    match kind:
      case sre.LITERAL | sre.NOT_LITERAL | sre.IN | sre.ANY:
        self.letters.append({x for x in LETTERS if self.takes(kind, value, x)})
        return Positions([len(self.letters) - 1], [len(self.letters) - 1])
      case sre.SUBPATTERN:
        return self.sequence(value[-1])
      case sre.ATOMIC_GROUP:
        return self.sequence(value)
      case sre.BRANCH:
        return self.either(map(self.sequence, value[1]))
      case sre.MAX_REPEAT | sre.MIN_REPEAT | sre.POSSESSIVE_REPEAT:
        return self.repeated(*value)
      case sre.ASSERT | sre.ASSERT_NOT:
        self.sequence(value[1])  # It is tried apart, at one place.
        return Positions(empty=1)
      case sre.AT | sre.GROUPREF:
        return Positions(empty=1)
    raise NotImplementedError(kind)

  def either(self, parts):
    all_parts = Positions()
    for x in parts:
      all_parts.first.update(x.first)
      all_parts.last.update(x.last)
      all_parts.empty += x.empty
    return all_parts

  def repeated(self, least, most, body):
    parts = Positions(empty=1)
    for _ in range(min(least, MOST_COPIES)):
      parts = self.joined(parts, self.sequence(body))
    if most == sre.MAXREPEAT:
      loop = self.sequence(body)
      self.joined(loop, Positions(loop.first))
      return self.joined(parts, Positions(loop.first, loop.last, 1))
    for _ in range(min(most - least, MOST_COPIES)):
      one = self.sequence(body)
      parts = self.joined(parts, Positions(one.first, one.last, 1))
    return parts

  def takes(self, kind, value, letter):
    # Python's own engine says whether a set of letters has one.
    state = parser.State()
    state.flags, state.str = self.flags, ''
    one = parser.SubPattern(state, [(kind, value)])
    return bool(re._compiler.compile(one, self.flags).fullmatch(letter))  # pyright: ignore

  def next(self, p):
    return [q for q in range(len(self.letters)) if self.follow[p, q]]

  def walks(self, *starts):
    """Returns the tuples of positions that equal texts reach from positions, in a step or more."""
    found, new = set(), [starts]
    while new:
      for to in itertools.product(*map(self.next, new.pop())):
        if to not in found and set.intersection(*(self.letters[q] for q in to)):
          found.add(to)
          new.append(to)
    return found

  def ways(self):
    """Returns 'exponential' or 'polynomial' for a pattern that reads a text in several ways."""
    positions = range(len(self.letters))
    alone = {p: {q for (q,) in self.walks(p)} for p in positions}
    loops = [p for p in positions if p in alone[p]]
    for p in loops:
      both = self.walks(p, p)
      if any(a != b and (p, p) in self.walks(a, b) for a, b in both):
        return 'exponential'
      if any(ways > 1 and a == p and p in alone[q] for (a, q), ways in self.follow.items()):
        return 'exponential'
    for p, q in itertools.permutations(loops, 2):
      if q in alone[p] and (p, q, q) in self.walks(p, p, q):
        return 'polynomial'
    return ''


@pytest.mark.parametrize(
  'pattern, expected',
  [
    (r'([-+.\deE]+\s*)+', 'exponential'),
    (r'(a|a)*b', 'exponential'),
    (r'(a*)*b', 'exponential'),
    (r'(\w+\s?)+:', 'exponential'),
    (r'\d+\.?\d*', 'polynomial'),
    (r'.*,.*', 'polynomial'),
    (r'\d+(\.\d*)?', ''),
    (r'[-+.\deE\s]+', ''),
    (r'(\w+\s)+:', ''),
    (r'([^,]*,)*', ''),
  ],
)
def test_the_ways_of_known_patterns(pattern, expected):
  assert Automaton(pattern).ways() == expected


# Of a path, an object of a bucket or a shard's name, none of more than 4,096 characters, n^2 is
# soon done.
OF_NAMES = 'data/set_files.py', 'runtime/twins.py'
# Patterns that are rows of tables.
TABLES = {
  'data/set_files.py': [
    line.partition(' ')[0] for module in (cells, set_files) for line in module._KINDS.split('\n')
  ],
  'metrics/published.py': [*published.ORIGINS],
  'data/code_sums.py': ['^some_name(/|\\.py,)'],
  'data/notations.py': [
    x.pattern for x in (*notations._WHOLE.values(), notations._MARKED, notations._EXAMPLE)
  ],
}


def patterns():
  """Yields (file, line, pattern, flags) of each pattern that the package writes."""
  for path in sorted(PACKAGE.rglob('*.py')):
    tree = ast.parse(path.read_text())
    texts = {
      ast.unparse(x): node.value
      for node in ast.walk(tree)
      if isinstance(node, ast.Assign)
      for x in node.targets
    }
    for node in ast.walk(tree):
      match node:
        case ast.Call(ast.Attribute(ast.Name('re'), name), [text, *rest]) if name in CALLS:
          flags = [ast.unparse(x) for x in rest + [k.value for k in node.keywords]]
          flags = next((x for x in flags if re.match(r're\.[A-Z]', x)), '0')
          while isinstance(text, ast.Name) and text.id in texts:
            text = texts[text.id]
          yield path.relative_to(PACKAGE), node.lineno, text, eval(flags)


def text_of(node):
  """Returns a pattern as it is written, with a letter for each value in it; None if it is read."""
  match node:
    case ast.Constant(str(text)):
      return text
    case ast.JoinedStr(parts):
      return ''.join(str(x.value) if isinstance(x, ast.Constant) else 'x' for x in parts)
  return None


def test_no_pattern_of_the_package_backtracks():
  found, count = [], 0
  for path, line, node, flags in patterns():
    text = text_of(node)
    for one in TABLES[str(path)] if text is None else [text]:
      ways, count = Automaton(one, flags).ways(), count + 1
      if ways == 'exponential' or ways and str(path) not in OF_NAMES:
        found.append((str(path), line, ways, one))
  assert not found and count > 50


def test_a_long_cell_is_read_at_once():
  """One of 40,000 digits took minutes: each place of the point was tried, and each end."""
  assert not cells.NUMBER.fullmatch('1' * 40_000 + 'x')
