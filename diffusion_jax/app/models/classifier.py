"""Classifiers of noisy images, which guide the sampling of other runs."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax

import diffusion_jax as dj
from diffusion_jax.aliases import Params
from diffusion_jax.app.config import kinds
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.images import Facts
from diffusion_jax.app.model import Model, OtherRun
from diffusion_jax.app.models.diffusion import objective_of
from diffusion_jax.app.models.guidance import logits_of
from diffusion_jax.app.noisy import NoisyNetwork, noisy_network
from diffusion_jax.errors import UserError


def make(config: Node, workdir: Path, facts: Facts) -> Model:
  """Makes a classifier of noisy images, p(y | x_t)."""
  noisy = dataclasses.replace(
    noisy_network(kinds.CLASSIFIER, config, facts),
    outputs=functools.partial(classes, facts),
  )
  return Model(
    schema=noisy.schema,
    config=config,
    workdir=workdir,
    facts=facts,
    state_shape=noisy.state_shape,
    network=lambda: noisy.network,
    init=noisy.init,
    objective=functools.partial(objective_of, noisy),
    problems=functools.partial(problems, noisy),
    measured=Classifying(noisy),
    noisy=noisy,
  )


def classes(facts: Facts) -> Mapping[str, int]:
  """Returns the facts of the network, which has an output for each class."""
  if facts.num_classes < 2:
    raise UserError(
      'config.network=classifier needs images of two or more classes'
    )
  return {'num_classes': facts.num_classes}


@dataclasses.dataclass(frozen=True, eq=False)
class Classifying:
  """What `accuracy.of_classifier` measures."""

  noisy: NoisyNetwork

  @property
  def facts(self) -> Facts:
    """The facts of the images."""
    return self.noisy.facts

  def logits(self, params: Params) -> Callable[..., jax.Array]:
    """Returns (x_t, level) -> logits [B, num_classes]."""
    return logits_of(OtherRun(self.noisy, params))

  def schedule(self, params: Params) -> dj.Schedule:
    """Returns the schedule of the training."""
    return self.noisy.schedule(params)


def problems(noisy: NoisyNetwork, mode: str) -> Iterator[str]:
  """Yields a problem for modes that make images."""
  if mode in ('sample', 'edit'):
    yield (
      'this run is a classifier, which makes no images: sample another run '
      'with --config.sampling.classifier.run=<this one>'
    )
  yield from noisy.problems(mode)
