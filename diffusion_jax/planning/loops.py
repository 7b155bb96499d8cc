"""Names of loops, which say how often they repeat where their programs do not."""

import re


def repeated(times: int) -> str:
  """Returns the name of a loop for `jax.named_scope`."""
  return f'repeated_{times}_times'


def times_of(scopes: str) -> int:
  """Returns how often a loop in scopes repeats: 1 if no name says it."""
  found = re.search(r'\brepeated_(\d+)_times\b', scopes)
  return int(found[1]) if found else 1
