"""The ruler: tokens of Python by room, which grow only where the sum does not."""

import ast
import collections
import io
import tokenize
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Without comments, docstrings and layout.
TOKENS = {
  'app': 83_730,
  'core': 25_175,
  'sampling': 24_825,
  'networks': 29_502,
  'data': 34_612,
  'metrics': 27_126,
  'interop': 23_731,
  'training': 21_336,
  'weights': 5_807,
  'runtime': 11_232,
  'report': 6_712,
  'planning': 766,
  'testing': 10_758,
  'demos': 4_373,
  'top': 3_728,
  'configs': 9_302,
  'examples': 4_859,
  'tests': 448_520,
  'benchmarks': 35_571,
}
_LAYOUT = {
  *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
  *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
}
_WITH_DOCSTRING = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef


def tokens(text):
  """Returns the number of tokens of a file."""
  docstrings = {
    (node.body[0].lineno, node.body[0].col_offset)
    for node in ast.walk(ast.parse(text))
    if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node)
  }
  found = tokenize.generate_tokens(io.StringIO(text).readline)
  return sum(x.type not in _LAYOUT and x.start not in docstrings for x in found)


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
