"""Shows the shapes in docstrings, such as [B, H, W, C], as code on the site."""

import re

import griffe

AXIS = r'(?:[A-Z][A-Z0-9]?(?:[ ]?[-+−/·][ ]?\w+)?|\.\.\.|…|\d+)'
SHAPE = re.compile(rf'(?<![`\w])\[(?:{AXIS}(?:, {AXIS})*)?\](?!\()')


class Shapes(griffe.Extension):
  """Marks shapes as code, since Markdown reads `x [B][N]` as a link."""

  def on_object(self, *, obj, **_):
    """Marks the shapes in the docstring of an object."""
    if obj.docstring:
      parts = re.split(r'(`[^`]*`)', obj.docstring.value)
      parts[::2] = [SHAPE.sub(r'`\g<0>`', part) for part in parts[::2]]
      obj.docstring.value = ''.join(parts)
