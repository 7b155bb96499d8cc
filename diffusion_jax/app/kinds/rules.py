"""Rules of what a config, its data and a mode cannot be together: a walk over rows, and the rows.

A row says what cannot be, or which fields are not read. A field that is not
read is refused if it is set: if it differs from the run's config.json or,
without a run, from its default.
"""

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

import jax

from diffusion_jax.app.config import folder, overrides
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.edit.methods import condition_of, fitting, method_name
from diffusion_jax.app.kinds import sections
from diffusion_jax.data.spec import Facts
from diffusion_jax.declared import DataNeed, declared_by
from diffusion_jax.runtime.run_folder import RunFolder

FindCase = Callable[[Node, Any], Any]  # facts may be None


class Row(NamedTuple):
  """A rule.

  when: config, facts -> a true value, `it`, if the rule is broken. sentence: a
  format with c, the config, facts, data, their description, and it. modes:
  those that it concerns; empty: any. fields: what is not read then, by the
  setting that is the sentence; advice: what to do. section: the path of a section
  that the rule is about; where the config has none, the rule says nothing.
  """

  when: FindCase
  sentence: str
  modes: tuple[str, ...] = ()
  fields: tuple[str, ...] = ()
  advice: str = 'leave one of them out'
  section: str = ''


# Words of `Row.modes`.
TRAIN, SAMPLE, EDIT, EVALUATE = ('train',), ('sample',), ('edit',), ('evaluate',)


def lines(
  rows: Iterable[Row],
  config: Node,
  mode: str,
  workdir: RunFolder | None,
  facts: Facts | None = None,
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
  levels = f'{facts.x.levels} {"tokens" if facts.x.tokens else "levels"}'
  kind = levels if facts.x.levels else facts.x.manifold or 'real numbers'
  more = ' without a context' if facts.context is None else ''
  return f'{kind} [{", ".join(map(str, facts.x.shape))}]{more}'


def set_fields(
  config: Node, workdir: RunFolder | None, fields: Collection[str]
) -> Iterator[tuple[str, str]]:
  """Yields (path, text) of the fields that differ from the run or the defaults."""
  if not fields:
    return
  now, run = config.flat, folder.stored_fields(workdir) if workdir else {}
  before = {**config.default_fields, **run}  # the run may lack a new field
  for field in fields:
    for name, value in now.items():
      is_below = name == field or name.startswith(f'{field}.')
      # `default_fields` lacks the names of choices, which count as unchanged.
      if is_below and value != before.get(name, None if run else value):
        yield name if name == field else name.removesuffix('.name'), overrides.as_text(value)


# -- what a machine holds -----------------------------------------------------


def _too_large(field, mode, most=''):
  # Returns the row of a batch of which a machine cannot hold two; most: the field of
  # the number of examples, if a batch has no more.
  def found(c, facts):
    size = min(c.at(name) for name in (field, most) if name)
    memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    batch = 4 * math.prod((size, *facts.x.shape)) / jax.process_count()
    return (
      2 * batch > memory and f'{batch / 2**30:,.0f} GiB, and the machine has {memory / 2**30:,.0f}'
    )

  advice = f'config.{field}={{c.{field}}}: a batch takes {{it}}: take a smaller one'
  return Row(found, advice, mode)


MACHINE = (
  _too_large('training.batch_size', TRAIN),
  _too_large('evaluation.batch_size', EVALUATE),
  _too_large('sampling.batch_size', SAMPLE, 'sampling.num_samples'),
)

# -- what constructors declare -------------------------------------------------


class Need(NamedTuple):
  """What data must have for a `DataNeed`, what to do without, and whether they have it."""

  what: str
  advice: str
  has: Callable[[Node, Facts], bool]


NEEDS: dict[DataNeed, Need] = {
  'levels': Need(
    'levels, as pictures and texts have',
    'uint8 arrays have levels; leave it out for real numbers',
    lambda c, facts: bool(facts.x.levels),
  ),
  'pictures': Need(
    'pictures, uint8 [H, W, C]', 'leave it out', lambda c, facts: facts.x.is_picture
  ),
  'grid': Need(
    'data [H, W, C]',
    'take network=unet or dit, or mlp for vectors',
    lambda c, facts: len(facts.x.shape) == 3,
  ),
  'context': Need(
    'a context',
    'give data with one, as data=npz with `context`, or train without, by '
    'conditioning.context=None',
    # With these the known numbers of x are the samples' context.
    lambda c, facts: facts.context is not None or c.at('objective.levels') is not None,
  ),
  'directions': Need(
    'angles, directions or rotations',
    'say data.kind of an npz file, or take another objective',
    lambda c, facts: facts.x.manifold is not None,
  ),
}

# The modes that read a section; all others concern every mode.
_MODES = {'evaluation': EVALUATE, 'edit': EDIT}


def _sections(c, modes):
  # Yields (how a flag sets it, section) of all constructors that concern these modes.
  for name, section in c.items():
    if isinstance(section, Node) and _MODES.get(name, ()) == modes:
      yield from _choices(section) if name != 'evaluation' else _metrics(section)


def _choices(section):
  yield f'{section.where}={section.choice}', section
  for inner in section.values():
    if isinstance(inner, Node):
      yield from _choices(inner)


def _metrics(evaluation):
  for name, section in sections.of_metrics(evaluation).items():
    yield f'evaluation.metrics={name}', section


def _asked(setting, section):
  # Yields (setting, what it needs of the data) of a constructor and of its fields.
  if section.declared.data:
    yield setting, section.declared.data
  for name, need in section.declared.fields.items():
    if section.get(name):
      yield f'{section.where}.{name}={section[name]}', need


def needing(name: DataNeed, modes: tuple[str, ...] = ()) -> Row:
  """Returns the rule that what declares a need has such data."""
  need = NEEDS[name]

  def found(c, facts):
    if need.has(c, facts):
      return None
    for setting, section in _sections(c, modes):
      if asking := next((x for x, asked in _asked(setting, section) if asked == name), ''):
        return asking, section.declared.instead or need.advice
    return None

  what = f'config.{{it[0]}} needs {need.what}, and your data are {{data}}: {{it[1]}}'
  return Row(found, what, modes)


def refusing(modes: tuple[str, ...] = ()) -> Row:
  """Returns the rule that no constructor refuses the config by itself."""

  def found(c, facts):
    whys = ((x, section.declared.refuses(c, facts)) for x, section in _sections(c, modes))
    return next((each for each in whys if each[1]), None)

  return Row(found, 'config.{it[0]}: {it[1]}', modes)


DECLARED = tuple(
  row
  for modes in ((), EVALUATE, EDIT)
  for row in (*(needing(name, modes) for name in NEEDS), refusing(modes))
)

OF_NUMBERS = Row(
  lambda c, facts: c.at('data.one_scale') and facts.x.levels,
  'config.data.one_scale=True is for real numbers, and your data are {data}: leave it out',
)

OF_TOKENS = Row(
  lambda c, facts: facts is not None and facts.x.tokens and 'transitions' not in c,
  'config.objective={c.objective.name}: your data are {data}, which have no order: take a model of '
  'states, as configs/text_masked.py',
)

OF_DIRECTIONS = Row(
  lambda c, facts: facts.x.manifold and c.objective.declared.data != 'directions',
  'config.objective={c.objective.name} is of numbers, and your data are {data}: set '
  'objective=geodesic_flow (configs/directions.py)',
)

# -- lengths -------------------------------------------------------------------


def _without_lengths(c, facts):
  # Returns the objective, and those that leave padding out; of others than declared ones, none.
  objective = c.at('objective')
  if not facts.lengths or objective is None or objective.declared.lengths:
    return None
  able = [n for n, x in c.schema.table('objective').items() if declared_by(x).lengths]
  advice = f'set objective={" or ".join(able)}' if able else f'{c.schema.kind} needs data without'
  return objective.name, advice


def _metric_of_one_length(c, facts):
  metrics = sections.of_metrics(c.evaluation) if facts.lengths else {}
  name = next((name for name, x in metrics.items() if not x.declared.lengths), '')
  able = [n for n, x in c.schema.metrics.items() if declared_by(x).lengths]
  return name and (name, f'take {" or ".join(able)}' if able else 'leave it out')


def _of_whole_examples(c):
  # Returns what computes norms or quantiles of a sample, with what pads it.
  if c.at('sampling.bound.name') == 'quantile':
    return 'bound=quantile'
  return next((n for n in ('corrector', 'guidance.rescale') if c.at(f'sampling.{n}')), '')


OF_VALID = Row(
  _metric_of_one_length,
  'config.evaluation.metrics={it[0]} is of examples of one length, and these data have lengths: '
  '{it[1]}',
  EVALUATE,
)
LENGTHS = (
  OF_VALID,
  Row(
    _without_lengths,
    'config.objective={it[0]} counts what pads an example, and these data have lengths: {it[1]}',
  ),
  Row(
    lambda c, facts: facts.lengths and c.at('objective.coupling.name'),
    'config.objective.coupling={it} compares whole examples, and these data have lengths: set it '
    'to None',
  ),
  Row(
    lambda c, facts: facts is not None and not facts.lengths,
    'data whose examples have one length',
    fields=('sampling.lengths',),
    advice='leave it out',
  ),
  Row(
    lambda c, facts: facts.lengths and _of_whole_examples(c),
    'config.sampling.{it} compares all numbers of a sample, and these data have lengths: leave it '
    'out',
  ),
  Row(
    lambda c, facts: facts.lengths,
    'config.edit={c.edit.name} is of examples of one length, and these data have lengths: '
    'sampling.context says what samples are given',
    EDIT,
  ),
)

# -- gaps ----------------------------------------------------------------------

_OF_WHOLE_EXAMPLES = (
  *(f'conditioning.{name}' for name in ('image', 'self_conditioning', 'augment')),
  'latent',
)


def _metric_of_known_numbers(c, facts):
  metrics = sections.of_metrics(c.evaluation) if facts.gaps else ()
  return next((name for name in metrics if name != 'moments'), '')


GAPS = (
  Row(
    lambda c, facts: facts.gaps and c.at('objective.levels') is None,
    'config.data.gaps=True: a number that is not known is noise among others that are less noisy: '
    'set objective.levels, as configs/rollout.py, or fill the gaps',
  ),
  Row(
    lambda c, facts: facts.gaps and next((path for path in _OF_WHOLE_EXAMPLES if c.at(path)), ''),
    'config.{it} is of whole examples, and these data have gaps: leave it out',
  ),
  Row(
    _metric_of_known_numbers,
    'config.evaluation.metrics={it} is of whole examples, and these data have gaps: take moments',
    EVALUATE,
  ),
)

# -- guidance ------------------------------------------------------------------


def takes_pairs(c: Node) -> bool:
  """Returns whether the sampler calls pairs of predictions."""
  sampler = c.at('sampling.sampler')
  return sampler is not None and sampler.declared.takes_pairs


def _is_guided_alone(c, facts):
  guidance, section = c.sampling.get('guidance'), 'guidance'
  if takes_pairs(c):
    guidance, section = c.sampling.sampler, 'sampler'
  elif guidance is None or guidance.scale == 1.0:
    return ''
  return (
    '' if guidance.get('run') or c.conditioning.dropout else f'{section}.scale={guidance.scale}'
  )


GUIDED_ALONE = Row(
  _is_guided_alone,
  'config.sampling.{it} needs a network that was trained '
  'with conditioning.dropout, or another run: sampling.guidance=autoguidance',
)

# What changes predictions of x_0, or is another guidance than the sampler's.
_CHANGES = (
  *(f'sampling.{name}' for name in ('guidance', 'classifier', 'corrector')),
  'conditioning.self_conditioning',
)

GUIDANCE = (
  Row(
    lambda c, facts: takes_pairs(c) and next((path for path in _CHANGES if c.at(path)), ''),
    'config.sampling.sampler={c.sampling.sampler.name} takes two predictions of x_0 at each step, '
    'which {it} would change: take another sampler, or switch that off',
  ),
  Row(
    lambda c, facts: (
      f'sampler={c.sampling.sampler.name}'
      if takes_pairs(c)
      else 'classifier' * bool(c.sampling.get('classifier'))
    ),
    'config.sampling.{it}: edits cannot be guided by it, take another guidance',
    EDIT,
  ),
)


def _has_no_condition(c):
  # The data may ask for labels, which are None by default.
  section = c.get('conditioning', {})
  names = 'labels', 'text', 'image', 'context'
  return section.get('labels') is not None and not any(section.get(name) for name in names)


_ALONE = 'conditioning.labels=False, and no text, image or context'

WITHOUT_CONDITION = (
  Row(
    lambda c, facts: _has_no_condition(c) and not (c.sampling.get('guidance') or {}).get('run'),
    _ALONE,
    fields=('sampling.guidance',),
  ),
  Row(
    lambda c, facts: _has_no_condition(c) and c.sampling.get('classifier') is None,
    _ALONE,
    fields=('sampling.labels',),
    advice='train with conditioning.labels=True, or set sampling.classifier.run, or leave it out',
  ),
)


# -- what an edit cannot do ----------------------------------------------------


def _part_that_is_missing(c, facts):
  path = c.edit.constructor.part
  if not path or c.edit[path] is not None:
    return None
  return path, ', '.join(c.schema.table(f'edit.{path}'))


def _methods_without_mask(c, facts):
  method = c.at('edit.method')
  if not c.edit.constructor.observes or method is None or not method.make().needs_mask:
    return ''
  table = c.schema.table('edit.method')
  return ' or '.join(name for name, make in table.items() if not make().needs_mask)


def _training_of_method(c, facts):
  method, condition = c.at('edit.method'), condition_of(c)
  if method is None or method.make().is_trained == bool(condition):
    return None
  return c.edit.name if method.make().is_trained else 'None', condition


def _change_that_a_step_undoes(c, facts):
  sampler = c.sampling.get('sampler')
  if sampler is None or not sampler.declared.keeps_x:
    return ''
  if c.at('edit.posterior') is not None:
    return f'posterior={c.edit.posterior.name}' * c.edit.posterior.make().changes_x
  if 'method' in c.edit:
    method = fitting(c) if c.edit.method is None else c.edit.method.make()
    return f'method={method_name(c)}' * method.changes_x
  return 'mask' if c.edit.get('mask') else ''


EDITS = (
  Row(
    lambda c, facts: condition_of(c) and condition_of(c) != c.edit.name,
    'config.edit={c.edit.name}: the network of this run was trained with '
    'conditioning.image={c.conditioning.image.name} and can do only this task',
    EDIT,
  ),
  Row(
    _part_that_is_missing,
    'config.edit.{it[0]} is not set: {c.edit.name} needs one of {it[1]}, or your own, module:name',
    EDIT,
  ),
  Row(
    _methods_without_mask,
    'config.edit.method={c.edit.method.name} needs a mask: set it to {it} for edit={c.edit.name}',
    EDIT,
  ),
  Row(
    _training_of_method,
    'config.edit.method={c.edit.method.name} needs a run with conditioning.image={it[0]}, and this '
    'one has {it[1]}',
    EDIT,
  ),
  Row(
    _change_that_a_step_undoes,
    'config.edit.{it} changes x between steps, which sampling.sampler={c.sampling.sampler.name} '
    'would undo: take another sampler',
    EDIT,
  ),
  Row(
    lambda c, facts: (
      (c.edit.constructor.part or c.edit.constructor.inverts)
      and c.at('conditioning.self_conditioning')
    ),
    'config.edit={c.edit.name} needs a denoiser, and this run was trained with '
    'conditioning.self_conditioning',
    EDIT,
  ),
)

CONFLICTS = (
  *(*MACHINE, *DECLARED, OF_NUMBERS, OF_TOKENS, OF_DIRECTIONS),
  *(*LENGTHS, *GAPS, *GUIDANCE, *EDITS),
)
