"""Other runs that a run needs: guides of its samples, and teachers.

teacher.json in the student's run folder holds a checksum of the teacher's
weights; other weights are refused later.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection
from pathlib import Path

import jax

import diffusion_jax as dj
from diffusion_jax.aliases import Params
from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.inputs.conditions import by_run, is_guided_by_runs
from diffusion_jax.app.kinds import classifier, diffusion, store
from diffusion_jax.app.kinds.model import Frozen, Guides, Model, OtherRun
from diffusion_jax.app.kinds.network import ConfiguredNetwork
from diffusion_jax.app.kinds.sampling import Wrap
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.data.spec import Facts, misfits, reordered
from diffusion_jax.errors import UserError, refuse
from diffusion_jax.runtime import processes
from diffusion_jax.runtime.files import read_summed, write_summed
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training.classifier import label_log_prob
from diffusion_jax.weights import checksums, load

_TEACHER = 'training.teacher'
# (frozen, cond) -> Denoiser at the student's levels.
TeacherDenoiser = Callable[[Params, dict], dj.Denoiser]


def open_run(path: str, run: str, needed: str, facts: Facts) -> ConfiguredNetwork:
  """Returns the network of the run that the field `path` names.

  Raises UserError for a run of another kind, and for one whose data differ from `facts` in
  what its network reads.
  """
  config = store.open_run(RunFolder.at(run, written=False), path)
  if config.schema.kind != needed:
    raise UserError(
      f'config.{path}: the run in {run} is {config.schema.kind}, and {needed} is needed'
    )
  noisy = ConfiguredNetwork.of(config, datasets.facts_of(config))
  is_classifier = needed == classifier.SCHEMA.kind
  unread = () if 'context' in noisy.reads else ('context',)
  unread += () if is_classifier or 'label' in noisy.reads else ('num_classes', 'class_names')
  check_fits(path, run, noisy.facts, facts, unread)
  return noisy


def check_fits(
  path: str, run: str | Path, theirs: Facts, ours: Facts, unread: Collection[str] = ()
) -> None:
  """Raises UserError if the run that a field names is of other data than this one.

  unread: see `spec.misfits`.
  """
  for fact, one, other in misfits(theirs, ours, unread):
    raise UserError(
      f'config.{path}: in the data of {run} {fact} is {one!r}, and here {other!r}: give a run that '
      'was trained on such data'
    )


def check_start(config: Node, facts: Facts) -> None:
  """Raises UserError if training.start.run has the columns or classes of `facts` in another order.

  Weights may begin a training on other data: a line names the facts that differ.
  """
  path, run = 'training.start.run', config.training.start.run
  theirs = datasets.facts_of(store.open_run(RunFolder.at(run, written=False), path))
  for fact, one, other in reordered(theirs, facts):
    raise UserError(
      f'config.{path}: in the data of {run} {fact} are {one}, and here {other}: give them in the '
      'same order'
    )
  if names := ', '.join(fact for fact, *_ in misfits(theirs, facts)):
    print(f'note: the data of {run}, whose weights this run begins with, differ in {names}')


def open_weights(
  path: str, run: str | Path, init: Callable[[jax.Array], Params], step: int | str = 'latest'
) -> load.Stored:
  """Opens the averaged weights of the run that the field `path` names."""
  shapes = jax.eval_shape(init, abstract_key())
  with from_config(path):
    return load.open(run, step=step, target=shapes)


def check_unchanged(path: str, place: str | Path, record: Path, before: int, now: int) -> None:
  """Raises UserError if weights differ from their checksum in a record.

  path: the field that named them; place: the folder that they are in.
  """
  if before != now:
    raise UserError(
      f'config.{path}: the weights in {place} have changed since this run '
      f'began ({record}): give another --workdir to start a new run'
    )


def guides_of(model: Model) -> Guides:
  """Returns the runs that config.sampling names, with their parameters.

  Raises UserError for a run with other images or of another kind.
  """
  guides: dict[str, OtherRun] = {}
  c, record = model.config.sampling, model.latents.record
  section = by_run(c)
  parts = {'guidance': (section, model.schema.kind)} if section else {}
  if c.get('classifier') is not None:
    parts['classifier'] = 'classifier', classifier.SCHEMA.kind
  for part, (section, kind) in parts.items():
    path, run = f'sampling.{section}.run', c[section].run
    noisy = open_run(path, run, kind, model.facts)
    check_element_levels(path, run, noisy, model)
    if part == 'guidance':
      assert model.noisy is not None
      if noisy.needs.estimates != model.noisy.needs.estimates:
        raise UserError(
          f'config.{path}: one of the networks of {run} and of this run estimates x_0 and the '
          'other one does not, so that it cannot guide'
        )
      if record(model.run) != record(RunFolder.at(run)):
        raise UserError(
          f'config.{path}: {run} has the latents of another autoencoder than this run'
        )
      noisy = dataclasses.replace(noisy, state_shape=model.state_shape)
    guides[part] = OtherRun(noisy, open_weights(path, run, noisy.init).params)
  return guides


def check_element_levels(path: str, run: str, guide: ConfiguredNetwork, model: Model) -> None:
  """Raises UserError for a guide with one level for an example, if elements have their own."""
  c, noisy = model.config.sampling, model.noisy
  if noisy is None or noisy.level_axes <= guide.level_axes:
    return
  section = 'order' if c.get('order') is not None else 'context'
  if c.get('order') is not None or noisy.holds_known and c.context:
    raise UserError(
      f'config.{path}: the network of {run} has one level for an example, and with '
      f'sampling.{section} each element has its own: leave one of them out'
    )


def check_unguided(model: Model, what: str) -> None:
  """Raises UserError, which begins with `what`, if other runs would guide."""
  if is_guided_by_runs(model.config.sampling):
    raise UserError(
      f'config.{what} guidance by another run: set config.sampling.classifier '
      'and config.sampling.guidance to None'
    )


def by_classifier(noisy: ConfiguredNetwork, guide: OtherRun, scale: float, cond: dict) -> Wrap:
  """Returns denoiser -> denoiser guided towards cond['label'] by a classifier's run."""
  logits = guide.noisy.logits(guide.params)

  def log_prob(x, level):
    return label_log_prob(logits(x, level), cond['label'])

  log_prob_fn = at_levels_of(guide, noisy, log_prob)
  return lambda denoise: dj.classifier_guided(denoise, log_prob_fn=log_prob_fn, scale=scale)


def at_levels_of(guide: OtherRun, noisy: ConfiguredNetwork, function: Callable) -> Callable:
  """Returns a function of (x_t, level) that is evaluated at the guide's levels.

  The guide may have another schedule than the network.
  """
  same = guide.noisy.config.schedule == noisy.config.schedule
  if same and not noisy.process.is_learned:
    return function
  return dj.at_training_levels(function, guide.noisy.schedule(guide.params))


def teacher_of(
  student: ConfiguredNetwork, workdir: RunFolder
) -> tuple[Callable[[], TeacherDenoiser], Frozen]:
  """Returns (() -> the teacher of a run, its frozen parameters).

  The run of the teacher is opened when one of the functions needs it.
  """
  run, network = student.config.training.teacher, functools.cache(open_teacher)

  def teacher() -> TeacherDenoiser:
    noisy = network(student)

    def denoiser(frozen, cond):
      run = OtherRun(noisy, frozen['teacher'])
      denoise = noisy.denoiser(run.params, cond)
      return at_levels_of(run, student, denoise)

    return denoiser

  def prepare(source, mesh):
    params = open_weights(_TEACHER, run, network(student).init).params
    now = {'run': str(run), 'checksum': checksums.of_arrays(params)}
    path = workdir / 'teacher.json'
    if processes.broadcast([path.exists()])[0]:
      before = read_summed(path, 'delete it').get('checksum', -1)
      check_unchanged(_TEACHER, run, path, before, now['checksum'])
    elif processes.is_first():
      write_summed(path, now)
    return {'teacher': params}

  def shapes():
    return {'teacher': jax.eval_shape(network(student).init, abstract_key())}

  return teacher, Frozen(prepare, shapes)


def open_teacher(student: ConfiguredNetwork) -> ConfiguredNetwork:
  """Returns the network of training.teacher.

  Raises UserError for a run that does not fit the student, for an objective
  without a teacher, and if none is given.
  """
  run, objective = student.config.training.teacher, student.config.objective
  name = objective.name
  problem = ''
  if not run:
    problem = 'needs the folder of the run that is distilled'
  elif 'teacher' not in parameters(objective.constructor):
    problem = 'does not use a teacher: leave it empty'
  if problem:
    raise UserError(f'config.{_TEACHER}: objective={name} {problem}')
  noisy = open_run(_TEACHER, run, diffusion.SCHEMA.kind, student.facts)
  refuse(_other_conditions(run, noisy, student))
  return noisy


def _other_conditions(run, noisy, student):
  theirs, ours = noisy.config.conditioning, student.config.conditioning
  for name in ('labels', 'text', 'image'):
    if theirs[name] != ours[name]:
      yield (
        f'config.{_TEACHER}: conditioning.{name} is {theirs[name]} in {run}, and {ours[name]} in '
        'this run'
      )
  if not noisy.needs.estimates:
    yield (
      f'config.{_TEACHER}: a teacher is a denoiser, and the network of the run in {run} estimates '
      f'no x_0 (objective={noisy.config.objective.name})'
    )
  if noisy.conditioning.self_conditioning:
    yield f'config.{_TEACHER}: the run in {run} has self-conditioning'
  objective, coupling = student.config.objective, noisy.config.at('objective.coupling')
  if coupling is not None and not objective.declared.coupled_teacher:
    yield (
      f'config.{_TEACHER}: objective={objective.name} takes noise to be independent of x_0, and '
      f'the run in {run} was trained with objective.coupling={coupling.name}: take reflow'
    )
  if ours.dropout and not noisy.conditioning.dropout:
    yield (
      f'config.conditioning.dropout={ours.dropout}: the teacher in {run} was trained without '
      'dropout; set it to 0'
    )
