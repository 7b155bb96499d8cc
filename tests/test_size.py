"""The ruler: tokens of Python by room, which grow only where the sum does not."""

import ast
import collections
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Without comments, docstrings and layout.
TOKENS = {
  'app': 85_770,
  'core': 16_191,
  'sampling': 14_187,
  'networks': 27_075,
  'few_steps': 7_420,
  'discrete': 7_869,
  'bridges': 1_203,
  'autoencoders': 4_342,
  'posteriors': 8_925,
  'data': 34_391,
  'metrics': 27_747,
  'interop': 20_862,
  'training': 14_172,
  'weights': 5_807,
  'runtime': 11_328,
  'report': 6_932,
  'planning': 766,
  'testing': 16_660,
  'demos': 4_373,
  'top': 3_578,
  'configs': 9_306,
  'examples': 4_859,
  'tests': 449_214,
  'benchmarks': 34_734,
}
# The module's own expressions, a fifth of its time. Strings begin with a quote
# or as names do.
_STRING = tokenize.StringPrefix + r'''(?P<quote>"""|\'\'\'|"|\')(?s:\\.|.)*?(?P=quote)'''
_NAME = r'[^\W\d]\w*+(?!["\'])'
_TOKEN = re.compile('|'.join((_NAME, tokenize.Comment, _STRING, tokenize.Number, tokenize.Special)))
_WITH_DOCSTRING = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
_WITH_STATEMENTS = ast.stmt, ast.ExceptHandler, ast.match_case


def docstrings(node):
  """Returns the number of docstrings in a statement."""
  own = isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None
  inner = (x for x in ast.iter_child_nodes(node) if isinstance(x, _WITH_STATEMENTS))
  return own + sum(map(docstrings, inner))


def tokens(text):
  """Returns the number of tokens of a file."""
  return sum(x[0][0] != '#' for x in _TOKEN.finditer(text)) - docstrings(ast.parse(text))


def measured():
  """Returns {room: tokens}; a room is a folder of the package, or one beside it."""
  rooms = collections.Counter()
  for top in ('diffusion_jax', 'configs', 'examples', 'tests', 'benchmarks'):
    for path in (ROOT / top).rglob('*.py'):
      parts = path.relative_to(ROOT).parts
      inside = parts[1] if len(parts) > 2 else 'top'
      rooms[inside if top == 'diffusion_jax' else top] += tokens(path.read_text())
  return dict(rooms)


def test_tokens_are_counted_without_comments_and_docstrings():
  text = '"""One."""\n\n\ndef f(x):\n  \'\'\'Two.\'\'\'\n  return x + 1  # three\n'
  assert tokens(text) == len('def f ( x ) : return x + 1'.split())


def test_a_room_grows_only_where_the_sum_does_not():
  """Take something out, there or elsewhere."""
  found = measured()
  assert found.keys() == TOKENS.keys()
  grown = {room: f'{found[room]} > {most}' for room, most in TOKENS.items() if found[room] > most}
  assert not grown or sum(found.values()) <= sum(TOKENS.values()), grown
