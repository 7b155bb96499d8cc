"""What is refused: tables of calls, one row for each rule, and one line each.

A row is (call, a part of its message); ' ... ' in a message is a gap.
"""

import contextlib
import re

import pytest


@contextlib.contextmanager
def one_line(*parts, error=ValueError, match=None):
  """Expects an error whose message is one line that has the parts."""
  with pytest.raises(error, match=match) as found:
    yield
  text = str(found.value)
  assert '\n' not in text and all(part in text for part in parts), text


def rows(error, table):
  """Yields (error, call, pattern of the message) of the rows of a table."""
  for call, message in table:
    pattern = re.escape(message).replace(r'\ \.\.\.\ ', '.*')
    yield pytest.param(error, call, pattern, id=message)
