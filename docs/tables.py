"""Writes the tables of docs/ that the code knows, from what constructors and tests declare.

    python docs/tables.py

A page has a table after the line `<!-- NAME: python docs/tables.py -->`. It is stored, so that
it can be read without the site; tests/test_site.py compares it with the code.
"""

import collections
import inspect
import re
import sys
import typing
from pathlib import Path

import numpy as np

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

import diffusion_jax as dj  # noqa: E402
from diffusion_jax.app.kinds import choices, diffusion, store  # noqa: E402
from diffusion_jax.app.kinds.contracts import CONTRACTS, FACTS_OF_LOGGERS  # noqa: E402
from diffusion_jax.declared import declared_by  # noqa: E402
from diffusion_jax.metrics import table as metrics  # noqa: E402
from tests import transcribed  # noqa: E402


def schedules():
  """Yields a row for each schedule; those with equal cells share one."""
  yield '`schedule`', 'class', 'α, σ', 'ends', 'needs'
  names = collections.defaultdict(list)
  for name, says in declared(choices.SCHEDULES):
    cells = kind_and_ends(choices.SCHEDULES[name], says.needs)
    names[f'`{cells[0]}`', says.what, cells[1], says.needs].append(name)
  for cells, equal in names.items():
    yield codes(equal), *cells


def kind_and_ends(make, needs):
  """Returns the class of a schedule, and its levels at t = 0 and 1 if it needs nothing."""
  if needs:
    kind = make if isinstance(make, type) else getattr(make, '__self__', None)
    return (kind or typing.get_type_hints(make)['return']).__name__, ''
  schedule = make()
  alpha, sigma = (np.asarray(x) for x in schedule(np.linspace(0.0, 1.0, 2))[1:])
  said = {'clean at 0': sigma[0] == 0.0, 'no signal at 1': alpha[1] == 0.0}
  ends = [text for text, holds in said.items() if holds]
  if (alpha == 1.0).all():
    ends = [f'σ from {sigma[0]:.3g} to {sigma[1]:.3g}']
  elif not ends:
    first, last = (f'{x:.0f}'.replace('-', '−') for x in 2.0 * np.log(alpha / sigma))
    ends = [f'log-SNR {first} and {last}']
  return type(schedule).__name__, ', '.join(ends)


def samplers():
  """Yields a row for each sampler of a denoiser; those of pairs are in guidance.md."""
  yield '`sampling.sampler`', 'function', 'paper', 'order', 'calls'
  made = {n: make for n, make in choices.SAMPLERS.items() if not declared_by(make).takes_pairs}
  for name, says in declared(made):
    yield f'`{name}`', f'`{call(made[name])}`', says.what, order(says.order), calls(made[name])


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


def guidances():
  """Yields a row for each way to guide, and to bound what is guided."""
  yield 'field', 'function, or its fields', 'what it is'
  pairs = {n: make for n, make in choices.SAMPLERS.items() if declared_by(make).takes_pairs}
  tables = {**choices.TABLES, 'sampling.sampler': pairs}
  for field in ('guidance', 'sampler', 'classifier', 'bound'):
    table = tables[f'sampling.{field}']
    for name, says in declared(table):
      value = f'={name}' if len(table) > 1 else ''
      fields = codes(f'.{name}' for name in inspect.signature(table[name]).parameters)
      yield f'`sampling.{field}{value}`', of_dj(table[name]) or fields, says.what


def of_dj(make):
  """Returns how the function of a constructor is called; '' if it is not of `dj`."""
  function = inspect.unwrap(make)
  public = getattr(dj, function.__name__, None)
  return f'`{call(function)}`' if inspect.unwrap(public or make) is function and public else ''


def transitions():
  """Yields a row for each process of discrete states."""
  yield '`transitions`', 'function', 'noise, matrices'
  table = of_states('transitions')
  for name, says in declared(table):
    yield f'`{name}`', of_dj(table[name]), says.what


def samplers_of_states():
  """Yields a row for each sampler of discrete states."""
  yield '`sampling.sampler`', 'function', 'what it does', 'calls'
  table = of_states('sampling.sampler')
  for name, says in declared(table):
    yield f'`{name}`', of_dj(table[name]), says.what, calls(table[name])


def of_states(field):
  """Returns the table of a field of the models of discrete states."""
  return next(kind.tables[field] for kind in store.KINDS if 'transitions' in kind.tables)


def networks():
  """Yields a row for each network of arrays."""
  yield '`network`', 'what it is', 'takes'
  for name, says in of_kinds('network'):
    if not says.needs.startswith('`objective='):
      yield f'`{name}`', says.what, says.needs


def autoencoders():
  """Yields a row for each network of an autoencoder."""
  yield '`network`', 'its fields, and its latents', 'trained by'
  for name, says in of_kinds('network'):
    if says.needs.startswith('`objective='):
      yield f'`{name}`', says.what, says.needs


def objectives():
  """Yields a row for each objective; those of few steps are in few_steps.md."""
  yield '`objective`', 'the loss'
  for name, says in of_kinds('objective'):
    if not says.needs:
      yield f'`{name}`', says.what


def few_steps():
  """Yields a row for each objective for few steps, which says if it needs a teacher."""
  yield '`objective`', 'what is minimised', 'needs'
  for name, says in of_kinds('objective'):
    if says.needs:
      yield f'`{name}`', says.what, says.needs


def of_kinds(field):
  """Yields the names of the tables of all kinds of models and what they declare, each once."""
  tables = [kind.tables[field] for kind in store.KINDS]
  yield from declared({name: make for table in tables for name, make in table.items()})


def data_sets():
  """Yields a row for each data set of any kind of model; those with equal cells share one."""
  yield '`data`', 'what it is', 'needs'
  names = collections.defaultdict(list)
  for name, says in of_kinds('data'):
    names[says.what, says.needs].append(name)
  for cells, equal in names.items():
    yield codes(equal), *cells


def posteriors():
  """Yields a row for each way to fill in a picture, and to draw given a measurement."""
  yield 'in the program', 'in the library', 'exact for'
  for field in ('method', 'posterior'):
    for name, says in declared(choices.TABLES[f'edit.{field}']):
      yield f'`{field}={name}`', says.what, says.exact_for


def metrics_of_models():
  """Yields a row for each metric of a model on real images."""
  yield 'metric', 'what it is', 'what it needs'
  first = metrics.OF_DIFFUSION
  for name, says in declared({**first, **metrics.OF_VAES, **metrics.OF_LABELLED, **first}):
    yield f'`{name}`', says.what, says.needs


def metrics_of_files():
  """Yields a row for each metric of samples."""
  yield 'metric', 'what it is', 'what it needs'
  for name, says in declared(metrics.OF_FILES):
    yield f'`{name}`', says.what, says.needs


def metrics_of_values():
  """Yields a row for each metric of numbers."""
  yield 'metric', 'what it is', 'scores'
  for name, says in declared(metrics.OF_VALUES):
    yield f'`{name}`', says.what, codes(metrics.OF_VALUES[name]().scores)


def metrics_of_rows():
  """Yields a row for each metric of rows of a table."""
  yield 'metric', 'what it is', 'scores'
  for name, says in declared(metrics.OF_ROWS):
    yield f'`{name}`', says.what, codes(metrics.OF_ROWS[name](beside=False).scores)


def metrics_of_directions():
  """Yields a row for each metric of angles, directions and rotations."""
  yield 'metric', 'what it is', 'scores'
  for name, says in declared(metrics.OF_DIRECTIONS):
    yield f'`{name}`', says.what, codes(metrics.OF_DIRECTIONS[name]().scores)


def metrics_of_pairs():
  """Yields a row for each metric of draws for held-out pairs."""
  yield 'metric', 'of a test: the level of the truth', 'needs'
  for name, says in declared(metrics.OF_PAIRS):
    yield f'`{name}`', says.what, codes(metrics.OF_PAIRS[name]().needs)


def own_parts():
  """Yields a row for each field that may name a part of the user's own; equal ones share one."""
  yield 'field', 'the part', 'what it must make', 'facts among its parameters'
  fields = collections.defaultdict(dict)
  for name, contract in CONTRACTS.items():
    for path in places(name):
      cells = contract.part, contract.makes.removeprefix('its constructor must return ')
      fields[*cells, facts_of(path, contract.parameter)][path] = None
  for cells, paths in fields.items():
    yield codes(paths), *cells


def places(name):
  """Returns the paths of the fields of a contract: a path, or the last name of several."""
  tops = {*(name for kind in store.KINDS for name in (*kind.choices, *kind.parts))}
  paths = dict.fromkeys(path for kind in store.KINDS for path in kind.tables)
  paths |= dict.fromkeys(['evaluation.metrics', 'training.log_to'])
  fits = [x for x in paths if name in (x, x.rpartition('.')[2])]
  return [x for x in fits if x.partition('.')[0] in tops]


def facts_of(path, needed):
  """Returns the facts of a field's parts; those of the section around it are meant, too."""
  above, _, name = path.rpartition('.')
  facts = {'log_to': FACTS_OF_LOGGERS, **diffusion.SCHEMA.facts}
  if name not in facts and above in facts:
    return f'those of `{above}`'
  rest = codes(x for x in facts.get(name, ()) if x != needed)
  return '; '.join(filter(None, [f'`{needed}`, which is needed' * bool(needed), rest]))


def equations():
  """Yields a row for each equation that a test transcribes; papers and files are said once."""
  yield 'paper', 'equation', 'function', 'test'
  paper, path = '', ''
  for row in transcribed.rows():
    tests = []
    for file, name in row.tests:
      tests.append(f'{"" if file == path else file}::{name}')
      path = file
    yield '' if row.paper == paper else row.paper, row.equation, row.functions, codes(tests)
    paper = row.paper


def declared(table):
  """Yields the names of a table and what their constructors declare."""
  for name, make in table.items():
    says = declared_by(make)
    if not says.what:
      raise ValueError(f'{name} declares no `what` for its row of a page')
    yield name, says


def codes(words):
  """Returns words as code, with commas."""
  return ', '.join(f'`{word}`' for word in words)


TABLES = {
  function.__name__: function
  for function in (
    *(schedules, samplers, guidances, posteriors, equations, data_sets),
    *(networks, autoencoders, objectives, few_steps, transitions, samplers_of_states),
    *(metrics_of_models, metrics_of_files, metrics_of_values, metrics_of_rows, metrics_of_pairs),
    *(metrics_of_directions, own_parts),
  )
}
MARKED = re.compile(r'^(<!-- (\w+): python docs/tables.py -->\n\n)(?:\|.*\n)*', re.M)


def table(name):
  """Returns a table in Markdown, whose first row is the head."""
  head, *rows = TABLES[name]()
  lines = [_line(head), f'|{"---|" * len(head)}\n', *map(_line, rows)]
  return ''.join(lines)


def _line(row):
  cells = [cell.replace('|', r'\|') for cell in row]
  return '|' + ''.join(f' {cell} |' if cell else ' |' for cell in cells) + '\n'


def filled(text):
  """Returns a page with its tables as the code has them."""
  return MARKED.sub(lambda match: match[1] + table(match[2]), text)


if __name__ == '__main__':
  for page in sorted(DOCS.glob('*.md')):
    page.write_text(filled(page.read_text()))
