"""Other runs that a run needs, and guidance by them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import jax

import diffusion_jax as dj
from diffusion_jax.app.config import kinds
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.model import Guides, Model, OtherRun, Params
from diffusion_jax.app.models.noisy import NoisyModel
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.errors import UserError
from diffusion_jax.training import checkpoints
from diffusion_jax.training.classifier import label_log_prob


def other_images(path: str, other: Model, model: Model) -> Iterator[str]:
  """Yields how the images of the run that `path` names differ."""
  for name in ('image_shape', 'num_classes'):
    theirs, ours = (each.facts._asdict()[name] for each in (other, model))
    if theirs != ours:
      yield (
        f'config.{path}: the images in {other.workdir} have {name} {theirs}, '
        f'and the images of this run have {ours}'
      )


def read_params(
  model: Model, path: str, step: int | str = 'latest'
) -> tuple[Params, dict]:
  """Returns (averaged parameters, stored config) of the run `path` names."""
  shapes = jax.eval_shape(model.init, abstract_key())
  with from_config(path):
    return checkpoints.restore_params(model.workdir, True, shapes, step)


def check_kind(path: str, other: Node, run: str, needed: str) -> None:
  """Raises UserError if the run that `path` names is of another kind."""
  kind = kinds.kind_of(other).kind
  if kind != needed:
    raise UserError(
      f'config.{path}: the run in {run} is {kind}, and {needed} is needed'
    )


def check_unchanged(
  path: str, place: Path, record: Path, before: int, now: int
) -> None:
  """Raises UserError if weights differ from their checksum in a record.

  path: the field that named them; place: the folder that they are in.
  """
  if before != now:
    raise UserError(
      f'config.{path}: the weights in {place} have changed since this run '
      f'began ({record}): give another --workdir to start a new run'
    )


def by_classifier(
  model: NoisyModel, guides: Guides, cond: dict
) -> Callable[[dj.Denoiser], dj.Denoiser] | None:
  """Returns denoiser -> denoiser guided towards cond['label'], or None."""
  if 'classifier' not in guides:
    return None
  guide = guides['classifier']
  logits = guide.model.logits(guide.params)

  def log_prob(x, level):
    return label_log_prob(logits(x, level), cond['label'])

  log_prob_fn = at_levels_of(guide, model, log_prob)
  scale = model.sampling.classifier.scale
  return lambda denoise: dj.classifier_guided(
    denoise, log_prob_fn=log_prob_fn, scale=scale
  )


def at_levels_of(
  guide: OtherRun, model: NoisyModel, function: Callable
) -> Callable:
  """Returns a function of (x_t, level) that is evaluated at the guide's levels.

  The guide may have another schedule than the model.
  """
  same = guide.model.config.schedule == model.config.schedule
  if same and not model.learns_schedule:
    return function
  schedule = guide.model.schedule(guide.params)
  return dj.at_training_levels(function, schedule)
