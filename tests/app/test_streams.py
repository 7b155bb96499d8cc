"""No two consumers of a seed draw the same numbers.

tests/core/test_keys.py has the streams' keys.
"""

import ast
import collections
from pathlib import Path

import diffusion_jax
from diffusion_jax.app.config import kinds
from diffusion_jax.core.keys import STREAMS

# Metrics of real images have a stream each, by their names.
OF_METRICS = set().union(*(kind.metrics for kind in kinds.KINDS))


def test_every_key_is_from_a_stream_with_one_consumer():
  """Code that runs the equations makes its keys in no other way."""
  names = collections.Counter()
  package = Path(diffusion_jax.__file__).parent
  for name in ('app', 'demos', 'metrics'):
    for path in (package / name).rglob('*.py'):
      for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
          called = ast.unparse(node).removeprefix('jax.random.')
          assert called not in ('key', 'PRNGKey', 'wrap_key_data'), path
        if isinstance(node, ast.Call) and ast.unparse(node.func) == 'stream':
          if len(node.args) == 2 and isinstance(node.args[1], ast.Constant):
            names[node.args[1].value] += 1
  assert set(names.values()) == {1} and not OF_METRICS & {*names}
  assert len(names) > 10 and {*names} <= {*STREAMS}
  outside = {'noise', 'evaluation_images'}  # the demo, metrics of real images
  assert {*STREAMS} - {*names} <= OF_METRICS | outside
