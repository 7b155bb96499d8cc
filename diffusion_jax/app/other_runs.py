"""The runs that guide the sampling of another run."""

from typing import Any

from diffusion_jax.app import load, models
from diffusion_jax.app.config import from_config
from diffusion_jax.errors import UserError
from diffusion_jax.app.models.guidance import Guides, OtherRun
from diffusion_jax.training import checkpoints


def guides_of(model: Any) -> Guides:
  """Returns the runs that config.sampling names, with their parameters.

  Raises UserError for a run of other images, or of another kind.
  """
  sampling, guides = getattr(model, 'sampling', None), {}
  guidance = getattr(sampling, 'guidance', None)
  run = getattr(guidance, 'run', '')
  if run and guidance.scale != 1.0:
    path = 'sampling.guidance.run'
    worse = read_model(model, path, run)
    if type(worse) is not type(model):
      raise _other_kind(path, run, worse, model.schema.kind)
    model.check_guide(worse)
    guides['guidance'] = restore(worse, path)
  if getattr(sampling, 'classifier', None) is not None:
    path, run = 'sampling.classifier.run', sampling.classifier.run
    judge = read_model(model, path, run)
    if not isinstance(judge, models.Classifier):
      raise _other_kind(path, run, judge, 'a classifier')
    guides['classifier'] = restore(judge, path)
  return guides


def _other_kind(path, run, model, needed):
  return UserError(
    f'config.{path}: the run in {run} is {model.schema.kind}, and {needed} is '
    'needed'
  )


def read_model(model: Any, path: str, run: str) -> Any:
  """Returns the model of another run; UserError if its images are others.

  path: the field that names the run.
  """
  other = models.make(load.open_run(run, path), run)
  for name in ('image_shape', 'num_classes'):
    theirs, ours = getattr(other.facts, name), getattr(model.facts, name)
    if theirs != ours:
      raise UserError(
        f'config.{path}: the images in {run} have {name} {theirs}, and those of '
        f'this run {ours}'
      )
  return other


def restore(model: Any, path: str) -> OtherRun:
  """Returns the run of a model, with its latest averaged parameters."""
  with from_config(path):
    params, _ = checkpoints.restore_params(
      model.workdir, True, models.shapes(model), 'latest'
    )
  return OtherRun(model, params)
