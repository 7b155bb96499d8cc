"""What is refused: tables of calls, one row for each rule, and one line each.

A row is (call, a part of its message); ' ... ' in a message is a gap. Many calls of files are
rows of a text, what is typed => message (`typed`).
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


def typed(table):
  """Yields (what is typed, message) of the rows of a text; indented lines continue a row."""
  for row in re.split(r'\n(?=\S| =>)', table.strip('\n')):
    what, message = re.sub(r'\n +', ' ', row).split(' => ')
    yield what, message


def rows(error, table):
  """Yields (error, call, pattern of the message) of the rows of a table."""
  for call, message in table:
    pattern = re.escape(message).replace(r'\ \.\.\.\ ', '.*')
    yield pytest.param(error, call, pattern, id=message)


def each(tables):
  """Returns a test of the rows of tables, {error: rows}, in a folder for their files."""
  params = [row for error, table in tables.items() for row in rows(error, table)]

  @pytest.mark.parametrize('error, call, message', params)
  def test(error, call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with one_line(error=error, match=message):
      call()

  return test
