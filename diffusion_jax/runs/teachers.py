"""Restores the run that is distilled, objective.teacher.

A training reads it at every start. teacher.json in its run folder says which
weights it began with: others are refused.
"""

import json
from pathlib import Path

import diffusion_jax as dj
from diffusion_jax import build
from diffusion_jax.build.flow_map import is_map
from diffusion_jax.build.guidance import of_network
from diffusion_jax.build.network import (
  condition_dropout,
  init_params,
  init_shapes,
)
from diffusion_jax.errors import UserError
from diffusion_jax.runs import (
  guidance_runs,
  prerequisites,
  processes,
  run_folder,
)
from diffusion_jax.training import checksums

_FIELD = 'objective.teacher'


def make_teacher(config):
  """Returns (frozen, cond) -> Denoiser, of the levels of this run.

  frozen: as of `prepare`. None where objective.teacher is none. Raises
  UserError for a run that cannot be a teacher of this one.
  """
  run = config.objective.teacher
  if run is None:
    return None
  prerequisites.require(_FIELD, run, trained=False)
  found = guidance_runs.read(config, _FIELD, run)
  _check(config, found, run)

  def teacher(frozen, cond):
    params = frozen['teacher']
    denoise = of_network(found, params, cond)
    if found.schedule == config.schedule:
      return denoise
    schedule = build.build_schedule(found, params)
    return dj.at_training_levels(denoise, schedule)

  return teacher


def shapes(config):
  """Returns the shapes of what `prepare` returns."""
  run = config.objective.teacher
  if run is None:
    return {}
  found = guidance_runs.read(config, _FIELD, run)
  return {'teacher': init_shapes(init_params(found))}


def _check(config, found, run):
  if is_map(found) or found.conditioning.self_conditioning:
    what = 'is a flow map itself' if is_map(found) else 'has self-conditioning'
    raise UserError(
      f'config.{_FIELD}: the run in {run} {what}: a denoiser is needed, '
      'such as one of objective.name=denoising'
    )
  for field in ('labels', 'text', 'image'):
    ours, theirs = config.conditioning[field], found.conditioning[field]
    if ours != theirs:
      raise UserError(
        f'config.{_FIELD}: conditioning.{field} is {theirs} in {run}, {ours} '
        'in this run'
      )
  if condition_dropout(config) and not condition_dropout(found):
    raise UserError(
      f'config.conditioning.dropout={config.conditioning.dropout}: the teacher '
      f'in {run} was trained without; set it to 0'
    )


def prepare(config, workdir):
  """Returns {'teacher': parameters} of a training, or {} without a teacher.

  The first start writes teacher.json. Raises UserError where the run in
  objective.teacher has other weights than at the first start.
  """
  run = config.objective.teacher
  if run is None:
    return {}
  params = guidance_runs.restore(config, _FIELD, run).params
  now = {'run': str(run), 'checksum': checksums.of_arrays(params)}
  path = Path(workdir) / 'teacher.json'
  begun = processes.broadcast([path.exists()])[0]
  if not begun and processes.is_first():
    run_folder.write_json(path, now)
  if begun and json.loads(path.read_text())['checksum'] != now['checksum']:
    raise UserError(
      f'config.{_FIELD}: the weights in {run} are not those that this run '
      f'began with ({path}): another --workdir begins anew'
    )
  return {'teacher': params}
