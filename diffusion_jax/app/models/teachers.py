"""Teachers: the diffusion models that training.teacher names for distillation.

teacher.json in the student's run folder holds a checksum of the teacher's
weights; other weights are refused later.
"""

from collections.abc import Iterator

from diffusion_jax.app.config import kinds, store
from diffusion_jax.app.config.tree import Node, parameters
from diffusion_jax.app.model import Params
from diffusion_jax.app.models import guidance
from diffusion_jax.app.models.noisy import NoisyModel
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import processes
from diffusion_jax.runtime.files import read_json, write_json
from diffusion_jax.training import checksums

_PATH = 'training.teacher'


def open_run(student: NoisyModel) -> Node | None:
  """Returns the config of training.teacher, or None.

  Raises UserError for a run of another kind of model, for an objective without
  a teacher, and if an objective needs a teacher and none is given.
  """
  run, objective = student.config.training.teacher, student.config.objective
  name = objective.name
  teacher = parameters(objective.constructor).get('teacher')
  if run and teacher is None:
    raise UserError(
      f'config.{_PATH}: objective={name} does not use a teacher: leave it empty'
    )
  if not run and teacher is not None and teacher.default is teacher.empty:
    raise UserError(
      f'config.{_PATH}: objective={name} needs the folder of the run that is '
      'distilled'
    )
  if not run:
    return None
  config = store.open_run(run, _PATH)
  guidance.check_kind(_PATH, config, run, kinds.DIFFUSION.kind)
  return config


def problems(model: NoisyModel, student: NoisyModel) -> Iterator[str]:
  """Yields reasons why a teacher does not fit its student."""
  run, where = model.workdir, f'config.{_PATH}'
  yield from guidance.other_images(_PATH, model, student)
  for name in ('labels', 'text', 'image'):
    ours, theirs = (m.config.conditioning[name] for m in (student, model))
    if ours != theirs:
      yield (
        f'{where}: conditioning.{name} is {theirs} in {run}, and {ours} in '
        'this run'
      )
  if model.conditioning.self_conditioning:
    yield (f'{where}: the run in {run} has self-conditioning')
  dropout = student.conditioning.dropout
  if dropout and not model.conditioning.dropout:
    yield (
      f'config.conditioning.dropout={dropout}: the teacher in {run} was '
      'trained without dropout; set it to 0'
    )


def prepare(model: NoisyModel, student: NoisyModel) -> Params:
  """Returns the teacher's parameters, when a training starts.

  The first start writes teacher.json. Raises UserError if the weights have
  changed since then.
  """
  params, _ = guidance.read_params(model, _PATH)
  now = {'run': str(model.workdir), 'checksum': checksums.of_arrays(params)}
  path = student.workdir / 'teacher.json'
  begun = processes.broadcast([path.exists()])[0]
  if not begun and processes.is_first():
    write_json(path, now)
  if begun:
    before = read_json(path).get('checksum', -1)
    guidance.check_unchanged(
      _PATH, model.workdir, path, before, now['checksum']
    )
  return params
