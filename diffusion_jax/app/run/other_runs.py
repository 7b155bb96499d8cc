"""Other runs that a run needs, and guidance by them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax

import diffusion_jax as dj
from diffusion_jax.aliases import Params
from diffusion_jax.app.config import kinds, store
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.fields import DenoiserSampling
from diffusion_jax.app.config.tree import Schema
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.inputs.conditions import by_run
from diffusion_jax.app.model import Guides, Model, OtherRun
from diffusion_jax.app.network import ConfiguredNetwork
from diffusion_jax.app.sampling_plan import Wrap
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.data.sources import Facts
from diffusion_jax.errors import UserError, refuse
from diffusion_jax.training.classifier import label_log_prob
from diffusion_jax.weights import load


def open_run(path: str, run: str, needed: Schema, facts: Facts) -> ConfiguredNetwork:
  """Returns the network of the run that the field `path` names.

  Raises UserError for a run of another kind and for other images than `facts`.
  """
  config = store.open_run(run, path)
  kind = kinds.kind_of(config)
  if kind is not needed:
    raise UserError(f'config.{path}: the run in {run} is {kind.kind}, and {needed.kind} is needed')
  noisy = ConfiguredNetwork.of(kind, config, datasets.facts_of(config))
  refuse(_other_images(path, run, noisy.facts, facts))
  return noisy


def _other_images(path, run, others, facts):
  pairs = {
    'the shape': (others.x.shape, facts.x.shape),
    'num_classes': (others.num_classes, facts.num_classes),
    'mean and std': (others.x[2:4], facts.x[2:4]),
  }
  if others.class_names and facts.class_names:
    pairs['the classes'] = others.class_names, facts.class_names
  for name, (theirs, ours) in pairs.items():
    if theirs != ours:
      yield (
        f'config.{path}: the data of {run} have {name} {theirs}, and the data of this run {ours}'
      )


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
  parts = {'guidance': model.schema} if by_run(c.get('guidance')) else {}
  if c.get('classifier') is not None:
    parts['classifier'] = kinds.CLASSIFIER
  for part, kind in parts.items():
    path, run = f'sampling.{part}.run', c[part].run
    noisy = open_run(path, run, kind, model.facts)
    if part == 'guidance':
      if record(model.workdir) != record(run):
        raise UserError(
          f'config.{path}: {run} has the latents of another autoencoder than this run'
        )
      noisy = dataclasses.replace(noisy, state_shape=model.state_shape)
    guides[part] = OtherRun(noisy, open_weights(path, run, noisy.init).params)
  return guides


def check_unguided(model: Model, what: str) -> None:
  """Raises UserError, which begins with `what`, if other runs would guide."""
  c = model.config.sampling
  if c.get('classifier') or by_run(c.get('guidance')):
    raise UserError(
      f'config.{what} guidance by another run: set config.sampling.classifier '
      'and config.sampling.guidance to None'
    )


def by_classifier(
  noisy: ConfiguredNetwork, c: DenoiserSampling, guides: Guides, cond: dict
) -> Wrap | None:
  """Returns denoiser -> denoiser guided towards cond['label'], or None."""
  if 'classifier' not in guides or c.classifier is None:
    return None
  guide, scale = guides['classifier'], c.classifier.scale
  logits = guide.noisy.logits(guide.params)

  def log_prob(x, level):
    return label_log_prob(logits(x, level), cond['label'])

  how = {'log_prob_fn': at_levels_of(guide, noisy, log_prob), 'scale': scale}
  return lambda denoise: dj.classifier_guided(denoise, **how)


def at_levels_of(guide: OtherRun, noisy: ConfiguredNetwork, function: Callable) -> Callable:
  """Returns a function of (x_t, level) that is evaluated at the guide's levels.

  The guide may have another schedule than the network.
  """
  same = guide.noisy.config.schedule == noisy.config.schedule
  if same and not noisy.learns_schedule:
    return function
  return dj.at_training_levels(function, guide.noisy.schedule(guide.params))
