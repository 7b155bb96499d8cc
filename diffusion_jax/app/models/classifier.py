"""Classifiers of noisy images, which guide the sampling of other runs."""

import functools
from collections.abc import Iterator
from pathlib import Path

from diffusion_jax.app.config import kinds
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.model import Model
from diffusion_jax.app.models.diffusion import of_network
from diffusion_jax.app.noisy import NoisyNetwork, noisy_network
from diffusion_jax.data.sources import Facts


def make(config: Node, workdir: Path, facts: Facts) -> Model:
  """Makes a classifier of noisy images, p(y | x_t)."""
  noisy = noisy_network(kinds.CLASSIFIER, config, facts)
  return of_network(noisy, workdir, functools.partial(problems, noisy))


def problems(noisy: NoisyNetwork, mode: str) -> Iterator[str]:
  """Yields a problem for modes that make images."""
  if mode in ('sample', 'edit'):
    yield (
      'this run is a classifier, which makes no images: sample another run '
      'with --config.sampling.classifier.run=<this one>'
    )
  yield from noisy.problems(mode)
