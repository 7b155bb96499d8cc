"""Restores other runs: those that guide the sampling, and teachers."""

from diffusion_jax.build.facts import state_shape
from diffusion_jax.build.guidance import GuidingRun
from diffusion_jax.build.make import from_config
from diffusion_jax.build.network import (
  condition_dropout,
  init_params,
  init_shapes,
)
from diffusion_jax.errors import UserError
from diffusion_jax.runs import prerequisites, run_folder
from diffusion_jax.training import checkpoints


def check(config):
  """Raises UserError for guidance that this run, or any run, cannot have."""
  c = config.sampling
  if c.guidance_scale == 1.0:
    for field, off in (
      ('guidance_run', ''),
      ('guidance_rescale', 0.0),
      ('guidance_channels', None),
      ('guidance_min', 0.0),
      ('guidance_max', None),
    ):
      if c[field] != off:
        raise UserError(
          f'config.sampling.{field}={c[field]} has no effect at '
          'sampling.guidance_scale=1, which is no guidance'
        )
  elif c.guidance_max is not None and c.guidance_min > c.guidance_max:
    raise UserError(
      f'config.sampling.guidance_min={c.guidance_min} is above '
      f'guidance_max={c.guidance_max}: no level would be guided'
    )
  elif not c.guidance_run and not condition_dropout(config):
    raise UserError(
      f'config.sampling.guidance_scale={c.guidance_scale} needs a network '
      'without a class as well: train with conditioning.labels or text and '
      'conditioning.dropout, or name another run in sampling.guidance_run'
    )
  if c.classifier_scale != 1.0 and not c.classifier:
    raise UserError(
      f'config.sampling.classifier_scale={c.classifier_scale} needs '
      'sampling.classifier, the workdir of a run of objective.name=classifier'
    )
  bounded = c.clip or c.dynamic_threshold
  if c.clip_before_classifier and not (c.classifier and bounded):
    raise UserError(
      'config.sampling.clip_before_classifier=True needs sampling.classifier, '
      'and sampling.clip or sampling.dynamic_threshold'
    )


def find_guiding_runs(config):
  """Restores {field of config.sampling: GuidingRun} of the runs it names."""
  check(config)
  c = config.sampling
  fields = ('guidance_run', 'classifier')
  return {
    f: restore(config, f'sampling.{f}', c[f], f == 'classifier')
    for f in fields
    if c[f]
  }


def read(config, field, workdir, classifier=False):
  """Returns the config of another run of the same data.

  field: of this config, which named it. Raises UserError for a run of other
  data, and unless it is a classifier or not, as it must be.
  """
  prerequisites.require(field, workdir, trained=False)
  found = run_folder.run_config(workdir, config)
  is_one = found.objective.name == 'classifier'
  if is_one != classifier:
    other = 'is a classifier' if is_one else 'is no classifier'
    raise UserError(f'config.{field}: the run in {workdir} {other}')
  for name in ('image_shape', 'num_classes'):
    if found.data[name] != config.data[name]:
      raise UserError(
        f'config.{field}: data.{name} is {found.data[name]} in '
        f'{workdir}, {config.data[name]} in this run'
      )
  spaces = [(bool(c.latent.run), state_shape(c)) for c in (found, config)]
  if spaces[0] != spaces[1]:
    raise UserError(
      f'config.{field}: this run and {workdir} do not diffuse the '
      'same: both must be in pixels, or in the same latents (latent.run)'
    )
  return found


def restore(config, field, workdir, classifier=False):
  """Returns the `GuidingRun` in workdir, with the checks of `read`."""
  found = read(config, field, workdir, classifier)
  with from_config(field):
    params, _ = checkpoints.restore_params(
      workdir, True, init_shapes(init_params(found)), 'latest'
    )
  return GuidingRun(found, params)
