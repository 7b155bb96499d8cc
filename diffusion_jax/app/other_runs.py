"""The runs that guide the sampling of another run."""

from typing import Any

from diffusion_jax.app import load, models
from diffusion_jax.app.config import from_config
from diffusion_jax.app.models import Model
from diffusion_jax.app.models.guidance import Guides, OtherRun
from diffusion_jax.errors import UserError
from diffusion_jax.training import checkpoints


def guides_of(model: Model) -> Guides:
  """Returns the runs that config.sampling names, with their parameters.

  Raises UserError for a run of other images, or of another kind.
  """
  guides: dict[str, OtherRun] = {}
  if not isinstance(model, models.Diffusion):
    return guides
  guidance: Any = getattr(model.sampling, 'guidance', None)
  classifier: Any = getattr(model.sampling, 'classifier', None)
  if getattr(guidance, 'run', '') and guidance.scale != 1.0:
    path = 'sampling.guidance.run'
    worse = read_model(model, path, guidance.run)
    if type(worse) is not type(model):
      raise _other_kind(path, worse, model.schema.kind)
    model.check_guide(worse)
    guides['guidance'] = restore(worse, path)
  if classifier is not None:
    path = 'sampling.classifier.run'
    judge = read_model(model, path, classifier.run)
    if not isinstance(judge, models.Classifier):
      raise _other_kind(path, judge, 'a classifier')
    guides['classifier'] = restore(judge, path)
  return guides


def _other_kind(path, model, needed):
  return UserError(
    f'config.{path}: the run in {model.workdir} is {model.schema.kind}, and '
    f'{needed} is needed'
  )


def read_model(model: Model, path: str, run: str) -> Any:
  """Returns the model of another run; UserError if its images are others.

  path: the field that names the run.
  """
  other = models.make(load.open_run(run, path), run)
  for name in ('image_shape', 'num_classes'):
    theirs, ours = getattr(other.facts, name), getattr(model.facts, name)
    if theirs != ours:
      raise UserError(
        f'config.{path}: the images in {run} have {name} {theirs}, and those '
        f'of this run {ours}'
      )
  return other


def restore(model: Model, path: str) -> OtherRun:
  """Returns the run of a model, with its latest averaged parameters."""
  shapes = models.shapes(model)
  with from_config(path):
    params, _ = checkpoints.restore_params(model.workdir, True, shapes)
  return OtherRun(model, params)
