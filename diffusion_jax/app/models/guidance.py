"""Other runs that a run needs, and guidance by them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import jax

import diffusion_jax as dj
from diffusion_jax.aliases import Params
from diffusion_jax.app.config import kinds
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.fields import DenoiserSampling
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.images import Facts
from diffusion_jax.app.model import Guides, OtherRun, Wrap
from diffusion_jax.app.noisy import NoisyNetwork
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.errors import UserError
from diffusion_jax.training import checkpoints
from diffusion_jax.training.classifier import label_log_prob


def other_images(
  path: str, run: str | Path, others: Facts, facts: Facts
) -> Iterator[str]:
  """Yields how the images of the run that `path` names differ from `facts`."""
  for name in ('image_shape', 'num_classes'):
    theirs, ours = (each._asdict()[name] for each in (others, facts))
    if theirs != ours:
      yield (
        f'config.{path}: the images in {run} have {name} {theirs}, '
        f'and the images of this run have {ours}'
      )


def read_params(
  path: str,
  run: str | Path,
  init: Callable[[jax.Array], Params],
  step: int | str = 'latest',
) -> tuple[Params, dict]:
  """Returns (averaged parameters, stored config) of the run `path` names."""
  shapes = jax.eval_shape(init, abstract_key())
  with from_config(path):
    return checkpoints.restore_params(run, True, shapes, step)


def check_kind(path: str, other: Node, run: str, needed: str) -> None:
  """Raises UserError if the run that `path` names is of another kind."""
  kind = kinds.kind_of(other).kind
  if kind != needed:
    raise UserError(
      f'config.{path}: the run in {run} is {kind}, and {needed} is needed'
    )


def check_unchanged(
  path: str, place: str | Path, record: Path, before: int, now: int
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
  noisy: NoisyNetwork, c: DenoiserSampling, guides: Guides, cond: dict
) -> Wrap | None:
  """Returns denoiser -> denoiser guided towards cond['label'], or None."""
  if 'classifier' not in guides or c.classifier is None:
    return None
  guide = guides['classifier']
  logits = logits_of(guide)

  def log_prob(x, level):
    return label_log_prob(logits(x, level), cond['label'])

  log_prob_fn = at_levels_of(guide, noisy, log_prob)
  scale = c.classifier.scale
  return lambda denoise: dj.classifier_guided(
    denoise, log_prob_fn=log_prob_fn, scale=scale
  )


def logits_of(run: OtherRun) -> Callable[..., jax.Array]:
  """Returns (x_t, level) -> logits [B, num_classes] of a classifier."""
  network = run.noisy.given()
  return lambda xt, level: network.output(run.params['network'], xt, level, {})


def at_levels_of(
  guide: OtherRun, noisy: NoisyNetwork, function: Callable
) -> Callable:
  """Returns a function of (x_t, level) that is evaluated at the guide's levels.

  The guide may have another schedule than the network.
  """
  same = guide.noisy.config.schedule == noisy.config.schedule
  if same and not noisy.learns_schedule:
    return function
  schedule = guide.noisy.schedule(guide.params)
  return dj.at_training_levels(function, schedule)
