"""Teachers: the diffusion models that training.teacher names for distillation.

teacher.json in the student's run folder holds a checksum of the teacher's
weights; other weights are refused later.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import jax

import diffusion_jax as dj
from diffusion_jax.aliases import Params
from diffusion_jax.app.config import kinds
from diffusion_jax.app.config.refusals import Row, lines
from diffusion_jax.app.config.tree import parameters
from diffusion_jax.app.model import NOTHING, Frozen, OtherRun
from diffusion_jax.app.network import ConfiguredNetwork
from diffusion_jax.app.run import other_runs
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.errors import UserError, refuse
from diffusion_jax.runtime import processes
from diffusion_jax.runtime.files import read_json, write_json
from diffusion_jax.weights import checksums

_PATH = 'training.teacher'
# (frozen, cond) -> Denoiser at the student's levels.
Teacher = Callable[[Params, dict], dj.Denoiser]


def of_student(
  student: ConfiguredNetwork, workdir: Path
) -> tuple[Callable[[], Teacher | None], Frozen]:
  """Returns (() -> the teacher of a run or None, its frozen parameters).

  The run of the teacher is opened when one of the functions needs it.
  """
  c = student.config
  needed = parameters(c.objective.constructor).get('teacher')
  optional = needed is None or needed.default is not needed.empty
  if optional and not c.training.teacher:
    return lambda: None, NOTHING
  run, opened = c.training.teacher, functools.cache(open_run)

  def teacher() -> Teacher:
    noisy = opened(student)

    def denoiser(frozen, cond):
      run = OtherRun(noisy, frozen['teacher'])
      denoise = noisy.denoiser(run.params, cond)
      return other_runs.at_levels_of(run, student, denoise)

    return denoiser

  def prepare(source, mesh):
    params = other_runs.open_weights(_PATH, run, opened(student).init).params
    now = {'run': str(run), 'checksum': checksums.of_arrays(params)}
    path = workdir / 'teacher.json'
    if processes.broadcast([path.exists()])[0]:
      before = read_json(path).get('checksum', -1)
      other_runs.check_unchanged(_PATH, run, path, before, now['checksum'])
    elif processes.is_first():
      write_json(path, now)
    return {'teacher': params}

  def shapes():
    return {'teacher': jax.eval_shape(opened(student).init, abstract_key())}

  return teacher, Frozen(prepare, shapes)


def open_run(student: ConfiguredNetwork) -> ConfiguredNetwork:
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
    raise UserError(f'config.{_PATH}: objective={name} {problem}')
  noisy = other_runs.open_run(_PATH, run, kinds.DIFFUSION, student.facts)
  rows = rules(noisy, run, student)
  refuse(lines(rows, student.config, 'train', ''))
  return noisy


def rules(noisy: ConfiguredNetwork, run: str, student: ConfiguredNetwork) -> tuple[Row, ...]:
  """Returns the rules of a network that teaches its student."""

  def difference(c, facts):
    for name in ('labels', 'text', 'image'):
      ours, theirs = c.conditioning[name], noisy.config.conditioning[name]
      if ours != theirs:
        return f'conditioning.{name} is {theirs} in {run}, and {ours} in this run'
    return ''

  return (
    Row(difference, f'config.{_PATH}: {{it}}'),
    Row(
      lambda c, facts: noisy.conditioning.self_conditioning and run,
      f'config.{_PATH}: the run in {{it}} has self-conditioning',
    ),
    Row(
      lambda c, facts: c.conditioning.dropout and not noisy.conditioning.dropout and run,
      'config.conditioning.dropout={c.conditioning.dropout}: the teacher in {it} was trained '
      'without dropout; set it to 0',
    ),
  )
