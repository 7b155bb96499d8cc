"""Rules of what a config cannot be, a row each, and a walk over rows.

A row says what cannot be, or which fields are not read. A field that is not
read is refused if it is set: if it differs from the run's config.json or,
without a run, from its default.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import folder, store
from diffusion_jax.app.config.tree import Node, resolve
from diffusion_jax.data.spec import Facts

Found = Callable[[Node, Any], Any]  # facts may be None


class Row(NamedTuple):
  """A rule.

  when: config, facts -> a true value, `it`, if the rule is broken. sentence: a
  format with c, the config, facts, data, their description, and it. modes:
  those that it concerns; empty: any. fields: what is not read then, by the
  setting that is the sentence; advice: what to do. section: the path of a section
  that the rule is about; where the config has none, the rule says nothing.
  """

  when: Found
  sentence: str
  modes: tuple[str, ...] = ()
  fields: tuple[str, ...] = ()
  advice: str = 'leave one of them out'
  section: str = ''


# Words of `Row.modes`.
TRAIN, SAMPLE, EDIT, EVALUATE = ('train',), ('sample',), ('edit',), ('evaluate',)


def lines(
  rows: Iterable[Row], config: Node, mode: str, workdir: Path | None, facts: Facts | None = None
) -> Iterator[str]:
  """Yields a line for each rule that a config breaks.

  workdir: the run folder, whose config says which fields are set, None for no run; facts: None
  where no row reads them.
  """
  for row, sentence in broken(rows, config, mode, facts):
    if not row.fields:
      yield sentence
    for name, value in set_fields(config, workdir, row.fields):
      yield f'config.{name}={value} has no effect with {sentence}: {row.advice}'


def broken(
  rows: Iterable[Row], config: Node, mode: str, facts: Facts | None = None
) -> Iterator[tuple[Row, str]]:
  """Yields (row, its sentence) for each rule that a config breaks."""
  for row in rows:
    if row.modes and mode not in row.modes or row.section and config.at(row.section) is None:
      continue
    if it := row.when(config, facts):
      yield row, row.sentence.format(c=config, facts=facts, data=facts and described(facts), it=it)


def described(facts: Facts) -> str:
  """Returns the shape and the kind of the data, in words."""
  kind = f'{facts.x.levels} levels' if facts.x.levels else 'real numbers'
  more = ' without a context' if facts.context is None else ''
  return f'{kind} [{", ".join(map(str, facts.x.shape))}]{more}'


def defaults(config: Node) -> Json:
  """Returns the defaults of a config's sections, as `Node.flat`, without the names.

  These are the fields of a config with the same choices and nothing else set.
  """

  def names(section):
    inner = {n: names(x) for n, x in section.items() if isinstance(x, Node) and n != 'facts'}
    return inner | ({'name': section['name']} if section.choice else {})

  usual = resolve(names(config), config.schema).flat
  kept = (n for n in usual if not (n.endswith('.name') or n.startswith('facts.')))
  return {n: usual[n] for n in kept}


def set_fields(
  config: Node, workdir: Path | None, fields: Collection[str]
) -> Iterator[tuple[str, str]]:
  """Yields (path, text) of the fields that differ from the run or the defaults."""
  if not fields:
    return
  now, run = config.flat, folder.stored_fields(workdir) if workdir else {}
  before = {**defaults(config), **run}  # the run may lack a new field
  for field in fields:
    for name, value in now.items():
      is_below = name == field or name.startswith(f'{field}.')
      # `defaults` lacks the names of choices, which count as unchanged.
      if is_below and value != before.get(name, None if run else value):
        yield name if name == field else name.removesuffix('.name'), store.as_text(value)
