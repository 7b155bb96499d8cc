"""Classifiers of noisy images, which guide the sampling of other runs."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import diffusion_jax as dj
from diffusion_jax.app import choices
from diffusion_jax.app.devices import PerImage
from diffusion_jax.app.errors import UserError
from diffusion_jax.app.models.diffusion import (
  Diffusion,
  NetworkFacts,
  ObjectiveFacts,
)
from diffusion_jax.app.models.model import Params, schema_of
from diffusion_jax.app.run.folder import write_json
from diffusion_jax.core.keys import draw_normal, split_key
from diffusion_jax.metrics import plots
from diffusion_jax.training import classifier


class Classifier(Diffusion):
  """A classifier of noisy images, p(y | x_t)."""

  schema = schemas.CLASSIFIER
  makes_images = False

  def network_facts(self) -> NetworkFacts:
    """Returns the facts of the network: it has an output for each class."""
    if self.facts.num_classes < 2:
      raise UserError(
        'config.network=classifier needs images of two or more classes'
      )
    facts = super().network_facts()
    return facts._replace(num_classes=self.facts.num_classes)

  def logits(self, params: Params) -> Any:
    """Returns (x_t, level) -> logits [B, num_classes]."""
    return functools.partial(
      dj.network_output,
      self.network_fn(),
      params['network'],
      parametrization=self.parametrization.kind,
      noise_input=self.noise_input,
      cond={},
      sigma_data=self.parametrization.sigma_data,
    )

  def generate(self, mesh: Mesh) -> PerImage:
    """Raises UserError: a classifier makes no images."""
    raise UserError(
      'this run is a classifier, which makes no images: name it in '
      '--config.sampling.classifier.run when sampling another run'
    )

  def check(self, mode: str) -> None:
    """Raises UserError for modes that make images."""
    if mode in ('sample', 'edit'):
      self.generate(None)
    super().check(mode)
