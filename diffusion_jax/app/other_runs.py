"""The runs that guide the sampling of another run."""

from diffusion_jax.app import models
from diffusion_jax.app.config import kinds, store
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.model import Guides, Model, OtherRun
from diffusion_jax.app.models.guidance import (
  check_kind,
  other_images,
  read_params,
)
from diffusion_jax.errors import UserError, refuse


def guides_of(model: Model) -> Guides:
  """Returns the runs that config.sampling names, with their parameters.

  Raises UserError for a run with other images or of another kind.
  """
  guides: dict[str, OtherRun] = {}
  c = model.config.sampling
  guidance, classifier = c.get('guidance'), c.get('classifier')
  if by_run(guidance):
    path = 'sampling.guidance.run'
    worse = read_model(model, path, guidance.run, model.schema.kind)
    if model.latents.record() != worse.latents.record():
      raise UserError(
        f'config.{path}: {worse.workdir} has the latents of '
        'another autoencoder than this run'
      )
    guides['guidance'] = read_run(worse, path)
  if classifier is not None:
    path = 'sampling.classifier.run'
    needed = kinds.CLASSIFIER.kind
    judge = read_model(model, path, classifier.run, needed)
    guides['classifier'] = read_run(judge, path)
  return guides


def read_run(model: Model, path: str) -> OtherRun:
  """Reads the network of a run that guides; path: the field that names it."""
  assert model.noisy is not None  # its kind was checked
  return OtherRun(model.noisy, read_params(path, model.workdir, model.init)[0])


def by_run(guidance: Node | None) -> bool:
  """Returns whether a section sampling.guidance has the effect of a run."""
  if guidance is None or not guidance.get('run'):
    return False
  return guidance.scale != 1.0


def check_unguided(model: Model, what: str) -> None:
  """Raises UserError, which begins with `what`, if other runs would guide."""
  c = model.config.sampling
  if c.get('classifier') or by_run(c.get('guidance')):
    raise UserError(
      f'config.{what} guidance by another run: set config.sampling.classifier '
      'and config.sampling.guidance to None'
    )


def read_model(model: Model, path: str, run: str, kind: str) -> Model:
  """Returns the model of another run; UserError for other images or kinds.

  path: the field that names the run.
  """
  config = store.open_run(run, path)
  check_kind(path, config, run, kind)
  other = models.make(config, run)
  refuse(other_images(path, other.workdir, other.facts, model.facts))
  return other
