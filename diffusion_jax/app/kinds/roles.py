"""What the fields of a config are for, and what may change between two starts of a run.

A training refuses to continue a run with a config that would change its result.
All other modes take the model from the run; the command line says how it is
used.
"""

from collections.abc import Mapping

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import folder, trust
from diffusion_jax.app.config.folder import (
  differences,
  flat,
  has_checkpoint,
  missing,
  plain,
  read_config,
  stored_fields,
  stored_form,
)
from diffusion_jax.app.config.schema import uses
from diffusion_jax.app.config.tree import Node, as_json, below
from diffusion_jax.app.kinds import schemas
from diffusion_jax.app.kinds.sections import COMMON, Top
from diffusion_jax.data import sums
from diffusion_jax.data.spec import Facts
from diffusion_jax.declared import Use, declared_by
from diffusion_jax.errors import UserError, refuse
from diffusion_jax.runtime.run_folder import RunFolder

# Names of sections, and of fields in no section, whose constructor or parameter says so.
_TOPS = {
  **{path: declared_by(x).uses for path, x in schemas.constructors() if path},
  **uses(Top),
}
USES = tuple(path for path, use in _TOPS.items() if use & Use.USING)
NOT_READ = tuple(path for path, use in _TOPS.items() if use & Use.LOCAL)


def _marked(use):
  # Returns the paths of the fields whose parameters say so.
  found = (
    below(path, name)
    for path, x in schemas.constructors()
    for name, its_use in uses(x).items()
    if its_use & use
  )
  return tuple(dict.fromkeys(found))


# The beginnings of fields that may change between two starts of a training, as they do not
# change its result.
FREE = *(f'{section}.' for section in USES), *_marked(Use.FREE)
# The beginnings of fields, besides those of `training`, that only a training reads; facts, which
# the run keeps, follow from them.
OF_TRAINING = (
  *(f'{path}.' for path, use in _TOPS.items() if use & Use.TRAINING),
  *_marked(Use.TRAINING),
)
# Fields that say how the network is computed, which the command line may change
# for a trained run. Parameters are always float32.
COMPUTED_BY = _marked(Use.COMPUTING)
# Fields that say what samples are given.
GIVEN = _marked(Use.GIVEN)
# Fields of a section that words about samples and scores leave out.
UNSAID = {
  section: [name for name, use in uses(COMMON[section]).items() if use & Use.UNSAID]
  for section in ('sampling', 'evaluation')
}

# The sections and fields that decide what a loss is of, besides the network.
OF_LOSS = (
  *('objective', 'schedule', 'transitions', 'parametrization', 'conditioning', 'data'),
  *('latent', 'decoding', 'states', 'training.random_flip'),
  *('facts.x', 'facts.examples', 'facts.checksum'),
)

LOG_EVERY = 'training.log_every'  # steps over which a line of training losses is a mean
# Fields by which curves of losses cannot be compared step by step, besides those that decide
# the loss: other examples and draws are measured, or the learning rate decays otherwise.
OF_CURVE = 'training.num_steps', 'training.batch_size', 'training.held_out.batches'


def curve_fields(fields: Mapping[str, object]) -> Json:
  """Returns the fields that the curves of a training depend on, but for its seed.

  fields: {'section.field': value} of its config.json. Of the facts of its data it has
  their number and their sum, which the others follow from.
  """
  facts = 'facts.examples', 'facts.checksum'

  def matters(field):
    if field.startswith('facts.'):
      return field in facts
    return field in (*OF_CURVE, LOG_EVERY) or not field.startswith((*FREE, 'seed'))

  return {field: value for field, value in fields.items() if matters(field)}


def hparams(stored: dict) -> Json:
  """Returns {'section.field': value} of what a training depends on."""
  return {
    name: value if isinstance(value, (bool, float, int, str)) else str(value)
    for name, value in flat(stored).items()
    if name.partition('.')[0] not in USES and name not in ('facts.x.knots', 'facts.x.shares')
  }


def config_hash(workdir: RunFolder, *others: str) -> str:
  """Hashes the fields of a run's config that change its result; others: not these sections."""
  free = *FREE, *(f'{name}.' for name in others)
  fields = {k: x for k, x in stored_fields(workdir).items() if not k.startswith(free)}
  return sums.of_json(fields)


def decides_loss(field: str, fields: Mapping[str, object]) -> bool:
  """Returns whether losses of runs that differ in a field, 'section.field', cannot be compared.

  fields: of one of the runs. A loss of the whole batch depends on its size.
  """
  if field == 'training.batch_size':
    return any(fields.get(f'objective.{name}') for name in ('coupling.name', 'free_bits'))
  parts = tuple(f'{name}.' for name in OF_LOSS)
  return field not in FREE and f'{field}.'.startswith(parts)


def data_of(config: Node) -> dict:
  """Returns the fields of the section `data` that its examples depend on."""
  data = plain(config)['data'] or {}
  return {n: x for n, x in data.items() if f'data.{n}' not in FREE}


def check_same_run(workdir: RunFolder, config: Node, facts: Facts | None = None) -> None:
  """Raises UserError if the run in workdir has another config, or other data.

  A folder with a config.json or checkpoints is a run. facts: None before the
  data are read; what follows from them is not compared then, nor is what the
  run does not know of them. Nothing is, if training.resume is 'force'.
  """
  if config.training.resume == 'force':
    return
  before = read_config(workdir)
  if before is None:
    folder.check_config_kept(workdir)
    folder.check_no_data(workdir, '--workdir')
    return
  folder.check_as_saved(workdir, FREE)
  known = before.get('facts') or {}
  before = _with_newer_fields(before, config) | {'facts': known}
  now, free = plain(config) | {'facts': known}, (*FREE, 'conditioning.')
  if facts is not None:
    now, free = stored_form(config, facts), FREE
    for name in {'examples', 'checksum'} - {*known}:
      now['facts'].pop(name, None)
  changed = differences(before, now, free)
  if changed:
    facts_only = all(x.startswith('facts.') for x in changed.split('; '))
    what = 'other data' if facts_only else 'another config'
    raise UserError(
      f'{workdir} holds a run with {what}: {changed}. '
      'Give another --workdir, or --config.training.resume=force to continue it'
    )


def _with_newer_fields(before, section):
  # Returns a run's config with the fields that it lacks, if they have defaults.
  if before.get('name', section.choice) != section.choice:
    return before
  signature, more = section.signature, {}
  for name, value in section.items():
    old = before.get(name)
    if isinstance(value, Node) and isinstance(old, Mapping):
      more[name] = _with_newer_fields(old, value)
    elif name not in before and name in signature and value == signature[name].default:
      more[name] = as_json(value)
  return {**before, **more}


# The fields that name a run that this run reads, such as its teacher, and what it must be.
PREDECESSORS = {
  'latent.run': 'an autoencoder, such as configs/digits_autoencoder.py,',
  'training.start.run': 'a model with the same network',
  'training.teacher': 'a diffusion model of the same images',
  **dict.fromkeys(('sampling.guidance.run', 'sampling.sampler.run'), 'a model of the same images'),
  'sampling.classifier.run': 'a classifier, such as configs/digits_classifier.py,',
}


def check_predecessors(config: Node, mode: str, workdir: RunFolder) -> None:
  """Raises UserError for a missing run that a mode reads, and for a stranger's."""
  refuse(_missing_runs(config, mode, workdir))


def _missing_runs(config, mode, workdir):
  if mode == 'train' and workdir.is_shared:
    yield (
      f'{workdir} has shared weights and no state to continue: give another --workdir, and '
      f'--config.training.start.run={workdir} to begin with them'
    )
  for field in _fields_read(config, mode, workdir):
    run, section = config.at(field), config.at(field.rpartition('.')[0])
    is_needed = 'run' in (section or ()) and section.signature['run'].default != ''
    if not run and is_needed:
      yield f'config.{field} is not set: {PREDECESSORS[field]} is needed'
    trust.check_paths((field, run))
    if not run:
      continue
    place = RunFolder.at(run, written=False)
    if not (place.config.is_file() and has_checkpoint(place)):
      yield missing(field, place, PREDECESSORS[field])
    folder.check_as_saved(place, FREE)


def _fields_read(config, mode, workdir):
  """Yields the fields of PREDECESSORS that a mode reads.

  A training that has begun does not need the weights it began with, nor the run
  of its autoencoder, because it keeps a copy.
  """
  c = config.training
  if mode == 'train':
    yield 'training.teacher'
  if mode == 'train' and not has_checkpoint(workdir):
    yield 'training.start.run'
  if not workdir.latent.exists():
    yield 'latent.run'
  if mode != 'train' or c.sample_every or c.metrics or c.checkpoints.best:
    yield from (f'sampling.{x}.run' for x in ('guidance', 'sampler', 'classifier'))
