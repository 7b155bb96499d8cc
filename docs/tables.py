"""Writes the tables of docs/ that the code knows, from what constructors declare.

    python docs/tables.py

A page has a table after the line `<!-- NAME: python docs/tables.py -->`. It is stored, so that
it can be read without the site; tests/test_site.py compares it with the code.
"""

import inspect
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

from diffusion_jax.app.kinds import choices  # noqa: E402
from diffusion_jax.declared import declared_by  # noqa: E402


def samplers():
  """Yields a row for each sampler of a denoiser; those of pairs are in guidance.md."""
  yield '`sampling.sampler`', 'function', 'paper', 'order', 'calls'
  for name, make in choices.SAMPLERS.items():
    says = declared_by(make)
    if not says.takes_pairs:
      yield f'`{name}`', f'`{call(make)}`', says.what, order(says.order), calls(make)


def call(make):
  """Returns how a function of `dj` is called, with its defaults."""
  function = inspect.unwrap(getattr(make, 'func', make))
  given = [p.replace(annotation=p.empty) for p in inspect.signature(make).parameters.values()]
  bound = getattr(make, 'keywords', {})
  given = [f'{p}' for p in given if p.name not in bound]
  return f'dj.{function.__name__}({", ".join(given)})'


def order(said):
  """Returns the order of a sampler, or its orders by its parameter `order`."""
  if not hasattr(said, 'items'):
    return '' if said is None else str(said)
  (more,) = {value - key for key, value in said.items()}
  return f'`order` + {more}' if more else ', '.join(map(str, said))


def calls(make):
  """Returns the calls of the network in N steps, with the default parameters."""
  text = declared_by(make).calls
  for name, parameter in inspect.signature(make).parameters.items():
    text = re.sub(rf'\b{name}\b', str(parameter.default), text)
  return re.sub(r'(\d) \* N', r'\1N', text).replace('-', '−')


TABLES = {'samplers': samplers}
MARKED = re.compile(r'^(<!-- (\w+): python docs/tables.py -->\n\n)(?:\|.*\n)*', re.M)


def table(name):
  """Returns a table in Markdown, whose first row is the head."""
  head, *rows = TABLES[name]()
  lines = [[cell.replace('|', r'\|') for cell in row] for row in (head, *rows)]
  lines.insert(1, ['---'] * len(head))
  return ''.join(
    '|' + ''.join(f' {cell} |' if cell else ' |' for cell in line) + '\n' for line in lines
  )


def filled(text):
  """Returns a page with its tables as the code has them."""
  return MARKED.sub(lambda match: match[1] + table(match[2]), text)


if __name__ == '__main__':
  for page in sorted(DOCS.glob('*.md')):
    page.write_text(filled(page.read_text()))
